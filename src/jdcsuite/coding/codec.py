"""Image -> the bytes of a `.jdc` file -> image: the contract of every codec, lossy or lossless.

A codec implements two mirrors, `encode_tiles` and `decode_tiles`. Header, tile geometry, checksums, model id and
probability tables are the same for all codecs and live here. `coding.transform` adds what codecs with an analysis and
a synthesis transform share.
"""

from __future__ import annotations

import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdcsuite.coding.container import (
    MAX_TILE,
    RGB,
    TILE_STEP,
    Contents,
    Tile,
    frame_bytes,
    min_payload,
    pack,
    unpack,
)
from jdcsuite.coding.tiling import Array, Box, size, window
from jdcsuite.device import coding_arithmetic
from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.exact import is_exact
from jdcsuite.imaging.depth import Depth
from jdcsuite.types import CorruptFile, Side, UserError

M = TypeVar("M", bound=Callable)
TILE = 1024  # pixels: larger tiles save little rate, in smaller ones the margin costs more than the tile


def coding_mode(method: M) -> M:
    """Runs a method of a codec without gradients and in full float32. Worker threads do not inherit these settings, so
    methods that run in them need this decorator."""

    @wraps(method)
    def run(self: Codec, *args: object, **kwargs: object) -> object:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), coding_arithmetic():
            return method(self, *args, **kwargs)

    return run


class Codec(nn.Module, ABC):
    """Base of all codecs.

    ``segment_names``: content of each segment of a tile, for the columns of the results. ``table_names``: integer
    probability tables without which the codec cannot code. ``margin``: pixels beyond a tile that decoding it depends
    on. ``any_rate``: one network serves all rates, noises and strengths, and the header of a file names them.
    ``takes_sigma``: whether `compress` uses a given noise level. ``prior_networks``: submodules evaluated between bits
    and symbols; files decode on every machine if these are computed exactly.
    """

    segment_names: tuple[str, ...]
    table_names: tuple[str, ...] = ()
    margin: int = 0
    any_rate: bool = False
    takes_sigma: bool = False
    prior_networks: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Tables] = {}
        self._model_id: bytes | None = None
        self._exact: bool | None = None
        self.register_load_state_dict_post_hook(_forget_tables)

    # -- what a codec implements -------------------------------------------------------------------------------

    @abstractmethod
    def encode_tiles(self, x: Float[Tensor, "1 3 h w"] | Array, contents: Contents) -> Iterable[Tile]:
        """The tiles of an image in raster order. ``contents``: the header of the file, still without tiles."""

    @abstractmethod
    def decode_tiles(self, contents: Contents) -> Iterable[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        """Inverse of `encode_tiles`: position and samples in [0, 1] of each tile, in raster order. `CorruptFile`: tiles
        that it did not write."""

    def estimate_tiles(self, x: Float[Tensor, "1 3 h w"] | Array, contents: Contents) -> Iterable[float]:
        """Approximate payload of each tile in bytes; codecs that know their likelihoods need not code for it."""
        return (float(sum(map(len, tile.segments))) for tile in self.encode_tiles(x, contents))

    def make_side(
        self,
        tiles: Iterable[Float[Tensor, "1 3 h w"]],
        *,
        sigma: float | None,
        quality: float | None,
        strength: float | None,
    ) -> Side:
        """Side information of an image, given its ``tiles`` one after the other and the arguments of `compress`.

        UserError: a quality or strength out of range, or any for a codec of one rate."""
        if quality is not None or strength is not None:
            raise UserError(
                "these weights serve one rate and remove all noise: leave quality and strength out, or take weights of "
                "the flagship"
            )
        return Side()

    def make_tables(self) -> dict[str, Tables]:
        """Integer probability tables of the current weights."""
        return {}

    def table_counts(self) -> dict[str, int]:
        """Number of the tables of each name that a weights file must have."""
        return {}

    def constants(self) -> dict[str, object]:
        """What decoding depends on besides weights and tables; part of the model id."""
        return {}

    # -- tables and identity -----------------------------------------------------------------------------------

    def update(self) -> None:
        """Rebuilds the integer tables from the weights: once, after training and before coding."""
        self.tables, self._model_id, self._exact = self.make_tables(), None, None

    def train(self, mode: bool = True) -> Codec:
        if mode:
            _forget_tables(self)
        return super().train(mode)

    @property
    def is_ready(self) -> bool:
        """Whether the codec can code: in evaluation mode, with all its tables."""
        return not self.training and self.tables.keys() >= set(self.table_names)

    def table_state(self) -> dict[str, Tensor]:
        """The integer tables as flat tensors, for the weights file."""
        return {k: v for name, t in self.tables.items() for k, v in t.state(f"tables.{name}").items()}

    def load_table_state(self, state: dict[str, Tensor]) -> None:
        """ValueError: a table is missing, unknown or malformed."""
        self._model_id = None
        names, needed = {key.split(".")[1] for key in state}, set(self.table_names)
        if differing := sorted(names ^ needed):
            kind = "no" if needed - names else "unknown"
            raise ValueError(f"it has {kind} probability tables of {', '.join(differing)[:100]}")
        self.tables = {name: Tables.from_state(state, f"tables.{name}") for name in sorted(names)}
        for name, count in self.table_counts().items():
            if len(self.tables[name].length) != count:
                raise ValueError(f"it has {len(self.tables[name].length)} probability tables of {name}, not {count}")

    @property
    def model_id(self) -> bytes:
        """First 8 bytes of the SHA-256 of weights, tables and settings; a file names the weights that open it by it.
        Cached until the tables change, because hashing large weights takes longer than coding a small image."""
        if self._model_id is None:
            digest = hashlib.sha256(f"{type(self).__name__} {sorted(self.constants().items())}".encode())
            for name, tensor in sorted({**self.state_dict(), **self.table_state()}.items()):
                digest.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._model_id = digest.digest()[:8]
        return self._model_id

    @property
    def exact(self) -> bool:
        """Whether a file has the same symbols on every machine (`entropy.exact`); if not, the file is marked."""
        if self._exact is None:
            self._exact = all(is_exact(self.get_submodule(name)) for name in self.prior_networks)
        return self._exact

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    # -- image -> bytes ----------------------------------------------------------------------------------------

    def compress(
        self,
        x: Float[Tensor, "1 3 h w"] | Array,
        *,
        sigma: float | None = None,
        quality: float | None = None,
        strength: float | None = None,
        tile: int = TILE,
        metadata: dict[str, bytes] | None = None,
        colour: int = RGB,
        depth: Depth = Depth(),  # noqa: B008 - immutable
    ) -> bytes:
        """One image of any size from 1x1 up -> the bytes of a `.jdc` file.

        ``x``: RGB, a tensor in [0, 1] or an array of 8 or 16 bits, which sets the bit depth of the decoded array.
        ``sigma``: standard deviation of its noise in grey levels, for codecs that take it (None: estimated).
        ``quality`` 0 to 100 and ``strength`` 0 (keep the noise) to 1: for codecs of any rate (None: the codec chooses).
        ``tile``: side in pixels, a multiple of 64 not below ``margin``; 0: one tile of up to 4096 x 4096.
        ``metadata``, ``colour`` and ``depth``: as in `Contents`; ``x`` is at full scale. Computed in float32 on the
        device of the weights.
        """
        contents = self.header(
            x, sigma=sigma, quality=quality, strength=strength, tile=tile, metadata=metadata, colour=colour, depth=depth
        )
        return pack(replace(contents, tiles=list(self.encode_tiles(x, contents))))

    def estimate_bytes(self, x: Float[Tensor, "1 3 h w"] | Array, **options: object) -> float:
        """Approximate size of the file that `compress` with the same ``options`` writes."""
        contents = self.header(x, **options)
        payloads = map(max, self.estimate_tiles(x, contents), map(min_payload, contents.boxes))
        return sum(payloads) + frame_bytes(contents, segments=len(self.segment_names))

    @coding_mode
    def header(
        self,
        x: Float[Tensor, "1 3 h w"] | Array,
        *,
        sigma: float | None = None,
        quality: float | None = None,
        strength: float | None = None,
        tile: int = TILE,
        metadata: dict[str, bytes] | None = None,
        colour: int = RGB,
        depth: Depth = Depth(),  # noqa: B008 - immutable
    ) -> Contents:
        """What `compress` with these arguments writes ahead of the tiles."""
        self._check_ready()
        height, width = size(x)
        contents = Contents(
            model_id=self.model_id, height=height, width=width, colour=colour,
            tile=self._tile_side(height, width, tile),
            bit_depth=16 if isinstance(x, np.ndarray) and x.dtype == np.uint16 else 8,
            depth=depth, metadata=metadata or {}, same_machine=not self.exact,
        )  # fmt: skip
        tiles = (self.crop(x, box) for box in contents.boxes)
        return replace(contents, side=self.make_side(tiles, sigma=sigma, quality=quality, strength=strength))

    def crop(self, x: Float[Tensor, "1 3 h w"] | Array, box: Box) -> Float[Tensor, "1 3 _ _"]:
        """The pixels of a tile as float32 in [0, 1], on the device of the weights."""
        rows, columns = (box.top, box.top + box.height), (box.left, box.left + box.width)
        return window(x, rows, columns, device=self.device)

    def _tile_side(self, height: int, width: int, tile: int) -> int:
        """The side of a tile as the header states it: 0 where one tile holds the image."""
        tile = 0 if tile >= max(height, width) else tile
        if tile % TILE_STEP or not 0 <= tile <= MAX_TILE:
            raise ValueError(f"tiles of {tile} pixels: their side is a multiple of {TILE_STEP} up to {MAX_TILE}")
        if 0 < tile < self.margin:  # a decoder holds the neighbours of a tile, not their neighbours
            raise ValueError(f"tiles of {tile} pixels: this codec's transforms reach {self.margin} beyond a tile")
        return tile

    # -- bytes -> image ----------------------------------------------------------------------------------------

    def decompress(self, data: bytes, *, max_memory: int | None = None) -> Float[Tensor, "1 3 h w"]:
        """Inverse of `compress`: the reconstruction, RGB in [0, 1]. `CorruptFile`: any other bytes. UserError: an image
        that takes more than ``max_memory`` bytes to decode (`decoding_memory`)."""
        contents = self._open(data, max_memory)
        x_hat = None  # allocated when the first tile has passed its checks
        for box, part in self.decode_tiles(contents):
            x_hat = part.new_empty(1, 3, contents.height, contents.width) if x_hat is None else x_hat
            x_hat[..., *box.pixels] = part
        return x_hat

    def decompress_array(self, data: bytes, *, max_memory: int | None = None) -> Array:
        """As `decompress`, in the samples of the image that was compressed: its bit depth, and of 16-bit words the bits
        that it used."""
        contents = self._open(data, max_memory)
        dtype = np.uint16 if contents.bit_depth == 16 else np.uint8
        image = None
        for box, part in self.decode_tiles(contents):
            image = np.empty((contents.height, contents.width, 3), dtype) if image is None else image
            levels = (part[0] * np.iinfo(dtype).max).round().permute(1, 2, 0)
            image[box.pixels] = contents.depth.restored(levels.int().cpu().numpy().astype(dtype))
        return image

    def decoding_memory(self, contents: Contents) -> int:
        """Bytes that decoding takes beyond the weights, approximately: here those of the image as float32."""
        return 12 * contents.height * contents.width

    def _open(self, data: bytes, max_memory: int | None = None) -> Contents:
        self._check_ready()
        contents = unpack(data)
        if contents.model_id != self.model_id:
            raise CorruptFile(
                f"this file was written with weights {contents.model_id.hex()}; "
                f"the weights given are {self.model_id.hex()}"
            )
        if (contents.side.request is not None) != self.any_rate:
            raise CorruptFile("this file was written by another kind of codec than the weights that it names")
        if 0 < contents.tile < self.margin:
            raise CorruptFile(f"tiles of {contents.tile} pixels, less than this codec's margin of {self.margin}")
        if (count := len(contents.tiles[0].segments)) != len(self.segment_names):
            raise CorruptFile(f"{count} segments per tile where this codec writes {len(self.segment_names)}")
        if max_memory is not None and (needed := self.decoding_memory(contents)) > max_memory:
            raise UserError(
                f"an image of {contents.height} x {contents.width} pixels in tiles of {contents.tile or 'its size'} "
                f"takes about {needed / 2**30:.2g} GiB to decode: allow more than {max_memory / 2**30:.2g} GiB"
            )
        return contents

    def _check_ready(self) -> None:
        if not self.is_ready:
            raise RuntimeError("call eval() and update() before coding")


def tile_checksum(symbols: Int[Tensor, "n"], *, box: Box, side: Side) -> int:
    """CRC-32 of position, size, side information and symbols of a tile, so that none of them can be exchanged."""
    start = zlib.crc32(np.array([*box, *side.integers], dtype="<u4").tobytes())
    return zlib.crc32(symbols.to("cpu", torch.int32).numpy().astype("<i4", copy=False), start)


def _forget_tables(codec: Codec, incompatible_keys: object = None) -> None:
    """Drops tables that the weights may no longer match. A module-level function keeps codecs picklable."""
    codec.tables, codec._model_id, codec._exact = {}, None, None
