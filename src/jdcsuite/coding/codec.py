"""Picture -> bytes -> picture: the contract that every learned codec keeps, and all that they share.

A codec defines `forward` (training: picture -> Output) and two pairs of mirrors for coding: `analyse` and `synthesise`
(picture <-> latents), `encode_tile` and `decode_tile` (latents <-> segments of bytes). Tiles, padding, the container
and the model id live here. A picture is coded tile by tile (`models/tiling`), in memory that its width bounds, not its
area.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdcsuite.coding.conditions import of_request
from jdcsuite.coding.container import (
    H_UNIT,
    MAX_TILE,
    PIXELS_PER_BYTE,
    RGB,
    TILE_STEP,
    Contents,
    Request,
    Side,
    Tile,
    boxes,
    frame_bytes,
    pack,
    unpack,
)
from jdcsuite.coding.tiling import Array, Box, Tiling, side_by_side, size, window
from jdcsuite.device import coding_arithmetic, laid_out_for_coding
from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.exact import is_exact
from jdcsuite.types import CorruptFile, Output, UserError

M = TypeVar("M", bound=Callable)
TILE = 1024  # pixels: larger ones save little rate, smaller ones compute more margin than picture


def _coding(method: M) -> M:
    """``method`` without gradients and in full float32: worker threads inherit neither from their caller."""

    @wraps(method)
    def coding(self: Codec, *args: object, **kwargs: object) -> object:
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), coding_arithmetic():
            return method(self, *args, **kwargs)

    return coding


class Codec(nn.Module, ABC):
    """Base of the learned codecs. ``stride``: a tile's height and width are padded to its multiples.
    ``latent_stride``: pixels a latent. ``margin``: pixels beyond a tile that a transform looks at, a multiple of
    ``latent_stride``. ``segment_names``: the coded tensor that each segment of a tile holds; its tables bear its
    name. ``any_rate``: whether one network serves all rates, noises and strengths, which its files then name.
    ``between``: names of the networks that stand between bits and symbols, which decide whether files are
    exact. ``takes_sigma``: whether it makes use of a noise level that it is told."""

    stride: int
    latent_stride: int = 16
    margin: int = 48
    segment_names: tuple[str, ...]
    between: tuple[str, ...]
    any_rate: bool = False
    takes_sigma: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, Tables] = {}
        self._model_id: bytes | None = None
        self._exact: bool | None = None
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
    def analyse(
        self, x: Float[Tensor, "1 3 h w"], conditions: Float[Tensor, "1 3"] | None = None
    ) -> Float[Tensor, "1 c hy wy"]:
        """Padded picture -> latents. ``conditions``: of a codec of any rate, see `models/conditions`."""

    @abstractmethod
    def synthesise(
        self, y_hat: Float[Tensor, "1 c hy wy"], conditions: Float[Tensor, "1 3"] | None = None
    ) -> Float[Tensor, "1 3 h w"]:
        """Decoded latents -> padded picture, unclamped."""

    @abstractmethod
    def encode_tile(self, y: Float[Tensor, "1 c hy wy"], *, side: Side) -> tuple[list[bytes], Int[Tensor, "n"]]:
        """Latents of a tile -> its segments, and all symbols in the order in which they are decoded."""

    @abstractmethod
    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, side: Side
    ) -> tuple[Float[Tensor, "1 c hy wy"], Int[Tensor, "n"]]:
        """Segments -> decoded latents and symbols. ``height`` and ``width`` of the padded tile, in pixels."""

    def estimate_tile(self, y: Float[Tensor, "1 c hy wy"], *, side: Side) -> float:
        """Bytes that the segments of a tile will have, about; a codec that knows its likelihoods need not code."""
        return float(sum(map(len, self.encode_tile(y, side=side)[0])))

    def settings(self) -> dict[str, object]:
        """What decoding depends on beside weights and tables; the model id speaks of it too."""
        return {}

    def request(
        self,
        parts: Iterable[Float[Tensor, "1 3 h w"]],
        *,
        sigma: float | None,
        quality: float | None,
        strength: float | None,
    ) -> Request | None:
        """What the header of a codec of any rate says: as asked, and estimated from the ``parts`` of the picture where
        nothing was asked. None for a codec that serves one rate. UserError: outside 0..100 or 0..1, or asked of a codec
        that has no choice."""
        if quality is not None or strength is not None:
            raise UserError(
                "these weights serve one rate and remove all noise: leave quality and strength out, or take weights of "
                "the flagship"
            )
        return None

    def guide_bpp(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None) -> float:
        """The entropy guide of a picture in bits per pixel; 0 for a codec that is not guided."""
        return 0.0

    def _forget(self) -> None:
        """Tables of weights that may have changed are no tables."""
        self.tables, self._model_id, self._exact = {}, None, None

    def train(self, mode: bool = True) -> Codec:
        if mode:
            self._forget()
        return super().train(mode)

    def update(self) -> None:
        """Rebuilds the integer tables from the weights: once, after training and before coding."""
        self.tables, self._model_id, self._exact = self.make_tables(), None, None

    def table_state(self) -> dict[str, Tensor]:
        """The integer tables as flat tensors, for the weights file."""
        return {k: v for name, t in self.tables.items() for k, v in t.state(f"tables.{name}").items()}

    def load_table_state(self, state: dict[str, Tensor]) -> None:
        self._model_id = None
        names = {key.split(".")[1] for key in state}
        if not names >= set(self.segment_names):
            raise ValueError(f"it has no probability tables of {', '.join(sorted(set(self.segment_names) - names))}")
        self.tables = {name: Tables.from_state(state, f"tables.{name}") for name in sorted(names)}

    @property
    def model_id(self) -> bytes:
        """First 8 bytes of the SHA-256 of weights, tables and settings: a file names the weights that open it. Computed
        once for tables that stand: hashing large weights takes longer than coding a small picture."""
        if self._model_id is None:
            self._model_id = self._hash()
        return self._model_id

    def _hash(self) -> bytes:
        digest = hashlib.sha256(f"{type(self).__name__} {sorted(self.settings().items())}".encode())
        for name, tensor in sorted({**self.state_dict(), **self.table_state()}.items()):
            digest.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.digest()[:8]

    @property
    def _tiling(self) -> Tiling:
        return Tiling(self.stride, self.latent_stride, self.margin)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def exact(self) -> bool:
        """Whether the symbols of a file are the same on every machine (`models/exact`); else it is marked."""
        if self._exact is None:
            self._exact = all(is_exact(self.get_submodule(name)) for name in self.between)
        return self._exact

    # -- picture -> bytes --------------------------------------------------------------------------------------

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
    ) -> bytes:
        """One picture of any size from 1x1 up -> one self-contained byte string.

        ``x``: RGB, a tensor in [0, 1] or an array of 8 or 16 bits, which sets the bit depth of the decoded array.
        ``sigma``: standard deviation of its noise in grey levels, for codecs that are guided by it (None: it is
        estimated). ``quality``, 0 to 100, and ``strength``, 0 (keep the noise) to 1: of codecs of any rate (None: the
        codec chooses). ``tile``: side in pixels, a multiple of 64 not below ``margin``, or 0 for one tile of up
        to 4096 x 4096. ``metadata`` and ``colour`` as in `Contents`. Float32, on the device of the weights.
        """
        self._ready_to_code()
        height, width = size(x)
        tile, places = self._places(height, width, tile)
        side = self._side(x, places, sigma=sigma, quality=quality, strength=strength)
        tiles = list(side_by_side(lambda box: self._compress_tile(x, box, side=side), places))
        depth = 16 if isinstance(x, np.ndarray) and x.dtype == np.uint16 else 8
        about = (height, width, depth, colour, tile, side, metadata or {}, not self.exact)
        return pack(Contents(self.model_id, *about, tiles))

    def estimate_bytes(
        self,
        x: Float[Tensor, "1 3 h w"] | Array,
        *,
        sigma: float | None = None,
        quality: float | None = None,
        strength: float | None = None,
        tile: int = TILE,
        metadata: dict[str, bytes] | None = None,
    ) -> float:
        """Bytes that `compress` will write, about, without the entropy coder."""
        self._ready_to_code()
        _, places = self._places(*size(x), tile)
        side = self._side(x, places, sigma=sigma, quality=quality, strength=strength)
        payloads = side_by_side(lambda box: self._estimate_tile(x, box, side=side), places)
        least = [math.ceil(box[2] * box[3] / PIXELS_PER_BYTE) for box in places]
        return sum(map(max, payloads, least)) + frame_bytes(
            tiles=len(places), segments=len(self.segment_names), request=side.request, metadata=metadata or {}
        )

    @_coding
    def requested(
        self,
        x: Float[Tensor, "1 3 h w"] | Array,
        *,
        sigma: float | None = None,
        quality: float | None = None,
        strength: float | None = None,
        tile: int = TILE,
    ) -> Request | None:
        """What the file of a picture will say that it was coded for, see `request`."""
        _, places = self._places(*size(x), tile)
        return self.request(self._parts(x, places), sigma=sigma, quality=quality, strength=strength)

    def _places(self, height: int, width: int, tile: int) -> tuple[int, list[Box]]:
        """The tile's side as the file says it (0: one tile), and all tiles."""
        tile = 0 if tile >= max(height, width) else tile
        if tile % TILE_STEP or not 0 <= tile <= MAX_TILE:
            raise ValueError(f"tiles of {tile} pixels: a tile's side is a multiple of {TILE_STEP} up to {MAX_TILE}")
        if 0 < tile < self.margin:  # a decoder has the neighbours of a tile at hand, not theirs
            raise ValueError(f"tiles of {tile} pixels: this codec's transforms look {self.margin} beyond one")
        return tile, boxes(height, width, tile)

    @_coding
    def _side(
        self,
        x: Tensor | Array,
        places: list[Box],
        *,
        sigma: float | None,
        quality: float | None,
        strength: float | None,
    ) -> Side:
        """What the header says of the whole picture. Its entropy guide is the mean over its tiles, weighted by area."""
        parts = zip(self._parts(x, places), places, strict=True)
        total = sum(self.guide_bpp(part, sigma=sigma) * box[2] * box[3] for part, box in parts)
        h = round(total / sum(box[2] * box[3] for box in places) * H_UNIT)
        request = self.request(self._parts(x, places), sigma=sigma, quality=quality, strength=strength)
        return Side(int(min(max(h, 0), 2**16 - 1)), request)

    def _parts(self, x: Tensor | Array, places: list[Box]) -> Iterator[Float[Tensor, "1 3 h w"]]:
        """The tiles of a picture, each when it is its turn."""
        for top, left, height, width in places:
            yield window(x, (top, top + height), (left, left + width), device=self._device)

    def conditions(self, side: Side) -> Float[Tensor, "1 3"] | None:
        """A header's request as the transforms take it; None for a codec that serves one rate."""
        return None if side.request is None else of_request(side.request).to(self._device, torch.float32)

    def _latents(self, x: Tensor | Array, box: Box, *, side: Side) -> Float[Tensor, "1 c hy wy"]:
        tiling, (top, left), sides = self._tiling, box[:2], size(x)
        height, width = tiling.padded(*box[2:])
        rows, columns = tiling.seen(top, height, sides[0]), tiling.seen(left, width, sides[1])
        seen = laid_out_for_coding(window(x, rows, columns, device=self._device))
        y = self.analyse(seen, self.conditions(side))
        y = y[..., tiling.latents(rows, top, height), tiling.latents(columns, left, width)].contiguous()
        if not torch.isfinite(y).all():
            raise UserError("this picture's latents are not finite: mend its samples, or take weights that converged")
        return y

    @_coding
    def _estimate_tile(self, x: Tensor | Array, box: Box, *, side: Side) -> float:
        return self.estimate_tile(self._latents(x, box, side=side), side=side)

    @_coding
    def _compress_tile(self, x: Tensor | Array, box: Box, *, side: Side) -> Tile:
        segments, symbols = self.encode_tile(self._latents(x, box, side=side), side=side)
        return Tile(_checksum(symbols, box, side), segments)

    # -- bytes -> picture --------------------------------------------------------------------------------------

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        """Inverse of `compress`: the reconstruction, RGB [0, 1]. Raises `CorruptFile` for any other bytes."""
        contents = self._opened(data)
        x_hat = torch.empty(1, 3, contents.height, contents.width, device=self._device)
        for (top, left, height, width), part in self._decompress_tiles(contents):
            x_hat[..., top : top + height, left : left + width] = part
        return x_hat

    def decompress_array(self, data: bytes) -> Array:
        """As `decompress`, rounded to the bit depth of the picture that was compressed."""
        contents = self._opened(data)
        kind = np.uint16 if contents.bit_depth == 16 else np.uint8
        out = np.empty((contents.height, contents.width, 3), dtype=kind)
        for (top, left, height, width), part in self._decompress_tiles(contents):
            levels = (part[0] * np.iinfo(kind).max).round().permute(1, 2, 0)
            out[top : top + height, left : left + width] = levels.int().cpu().numpy()
        return out

    def _opened(self, data: bytes) -> Contents:
        self._ready_to_code()
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
        return contents

    def _decompress_tiles(self, contents: Contents) -> Iterator[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        """Tiles in raster order. Holds the latents of three rows of tiles at most: a row is synthesised once the
        one below it is decoded."""
        jobs = zip(boxes(contents.height, contents.width, contents.tile), contents.tiles, strict=True)
        rows = [list(row) for _, row in groupby(jobs, key=lambda job: job[0][0])]
        above: list[Tensor] = []
        here = self._decode_row(rows[0], side=contents.side)
        for i, row in enumerate(rows):
            below = self._decode_row(rows[i + 1], side=contents.side) if i + 1 < len(rows) else []
            yield from self._synthesise_row([box for box, _ in row], [above, here, below], contents.side)
            # copies: a view would keep the whole of its latents
            above, here = [y[..., -self._tiling.edge :, :].clone() for y in here], below

    def _synthesise_row(
        self, places: list[Box], latents: list[list[Tensor]], side: Side
    ) -> Iterator[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        made = side_by_side(lambda job: self._synthesise_tile(*job, latents, side), list(enumerate(places)))
        yield from zip(places, made, strict=True)

    def _decode_row(self, row: list[tuple[Box, Tile]], *, side: Side) -> list[Tensor]:
        return list(side_by_side(lambda job: self._decode_tile(*job, side=side), row))

    @_coding
    def _decode_tile(self, box: Box, tile: Tile, *, side: Side) -> Float[Tensor, "1 c hy wy"]:
        if len(tile.segments) != len(self.segment_names):
            raise CorruptFile(f"{len(tile.segments)} segments a tile where this codec writes {len(self.segment_names)}")
        height, width = self._tiling.padded(*box[2:])
        y_hat, symbols = self.decode_tile(tile.segments, height=height, width=width, side=side)
        if _checksum(symbols, box, side) != tile.checksum:
            raise CorruptFile("the decoded symbols are not those that were written")
        return y_hat

    @_coding
    def _synthesise_tile(self, i: int, box: Box, latents: list[list[Tensor]], side: Side) -> Float[Tensor, "1 3 _ _"]:
        """Tile ``i`` of a row. ``latents``: of the tiles in the row above, this row and the row below."""
        y_hat, top, left = self._tiling.around(i, latents)
        x_hat = self.synthesise(laid_out_for_coding(y_hat), self.conditions(side))
        return x_hat[..., top : top + box[2], left : left + box[3]].clamp(0, 1)

    def pad(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 hp wp"]:
        """Replicates the right and bottom border up to the next multiple of ``stride``."""
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")

    def _ready_to_code(self) -> None:
        if self.training or not self.tables:
            raise RuntimeError("call eval() and update() before coding")


def _checksum(symbols: Tensor, box: Box, side: Side) -> int:
    """CRC-32 of a tile's place, size, side information and symbols: a file whose size was changed is no file."""
    place = zlib.crc32(np.array([*box, *side.words], dtype="<u4").tobytes())
    return zlib.crc32(symbols.to("cpu", torch.int32).numpy().astype("<i4", copy=False), place)


def _weights_were_loaded(codec: Codec, incompatible_keys: object) -> None:
    # a function of the module, not a lambda: a codec can be pickled
    codec._forget()
