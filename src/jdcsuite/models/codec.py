"""Picture -> bytes -> picture: the contract that every learned codec keeps, and all that they share.

A codec defines `forward` (training: picture -> Output) and the mirrors `encode` and `decode` (coding: picture
<-> segments of bytes). Padding, the container and the model id live here.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.container import RGB, Contents, CorruptFile, Tile, pack, unpack
from jdcsuite.types import Output


class Codec(nn.Module, ABC):
    """Base of the learned codecs. ``stride``: height and width are padded to its multiples. ``segment_names``:
    the coded tensor that each segment of a file holds; two may hold one."""

    stride: int
    segment_names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Tables] = {}
        self._model_id: bytes | None = None
        self.register_load_state_dict_post_hook(_weights_were_loaded)

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """Training's view. ``sigma`` (grey levels) and ``bpp_noisy`` (lossless bits per pixel of x) are what an
        encoder may know of a picture beside its pixels; a codec that is not guided ignores them."""

    @abstractmethod
    def make_tables(self) -> dict[str, Tables]:
        """Integer probability tables of the present weights."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "1 3 h w"], *, h: int) -> list[bytes]:
        """Padded picture -> segments."""

    @abstractmethod
    def decode(self, segments: list[bytes], *, height: int, width: int, h: int) -> Float[Tensor, "1 3 h w"]:
        """Segments -> padded picture. ``height`` and ``width`` are the padded ones."""

    def guide_value(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None) -> int:
        """The entropy guide that is sent, in units of 1/256 bpp; 0 for a codec that is not guided."""
        return 0

    def _forget(self) -> None:
        """Tables of weights that may have changed are no tables."""
        self.tables, self._model_id = {}, None

    def train(self, mode: bool = True) -> Codec:
        if mode:
            self._forget()
        return super().train(mode)

    def update(self) -> None:
        """Rebuilds the integer tables from the weights: once, after training and before coding."""
        self.tables, self._model_id = self.make_tables(), None

    def table_state(self) -> dict[str, Tensor]:
        """The integer tables as flat tensors, for the weights file."""
        return {k: v for name, t in self.tables.items() for k, v in t.state(f"tables.{name}").items()}

    def load_table_state(self, state: dict[str, Tensor]) -> None:
        self._model_id = None
        names = {key.split(".")[1] for key in state}
        self.tables = {name: Tables.from_state(state, f"tables.{name}") for name in sorted(names)}

    @property
    def model_id(self) -> bytes:
        """First 8 bytes of the SHA-256 of weights and tables: a file names the weights that open it. Computed once
        for tables that stand: hashing large weights takes longer than coding a small picture."""
        if self._model_id is None:
            self._model_id = self._hash()
        return self._model_id

    def _hash(self) -> bytes:
        digest = hashlib.sha256()
        for name, tensor in sorted({**self.state_dict(), **self.table_state()}.items()):
            digest.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.digest()[:8]

    @torch.no_grad()
    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes:
        """One picture, RGB [0, 1], any size from 1x1 up -> one self-contained byte string.

        ``sigma``: standard deviation of its noise in grey levels, for codecs that are guided by it (None: it is
        estimated). Float32, on the device of the weights.
        """
        self._ready_to_code()
        height, width = x.shape[-2:]
        h = self.guide_value(x, sigma=sigma)
        segments = self.encode(self.pad(x), h=h)
        # INTERIM: no tiles and no symbol checksum until the tiled codec lands
        return pack(Contents(self.model_id, height, width, 8, RGB, 0, h, {}, True, [Tile(0, segments)]))

    @torch.no_grad()
    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        """Inverse of `compress`: the reconstruction, RGB [0, 1]. Raises `CorruptFile` for any other bytes."""
        self._ready_to_code()
        contents = unpack(data)
        if contents.model_id != self.model_id:
            raise CorruptFile(
                f"this file was written with weights {contents.model_id.hex()}; "
                f"the weights given are {self.model_id.hex()}"
            )
        height, width = (-(-side // self.stride) * self.stride for side in (contents.height, contents.width))
        x_hat = self.decode(contents.tiles[0].segments, height=height, width=width, h=contents.h)
        return x_hat[..., : contents.height, : contents.width].clamp(0, 1)

    def pad(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 hp wp"]:
        """Replicates the right and bottom border up to the next multiple of ``stride``."""
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")

    def _ready_to_code(self) -> None:
        if self.training or not self.tables:
            raise RuntimeError("call eval() and update() before coding")


def _weights_were_loaded(codec: Codec, incompatible_keys: object) -> None:
    # a function of the module, not a lambda: a codec can be pickled
    codec._forget()
