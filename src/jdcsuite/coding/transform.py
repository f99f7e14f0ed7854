"""Image -> latents -> segments -> latents -> image: codecs with an analysis and a synthesis transform.

Such a codec defines `forward` for training and two pairs of mirrors for coding: `analyse` and `synthesise` (image <->
latents), `encode_tile` and `decode_tile` (latents <-> segments). An image is coded tile by tile (`coding.tiling`), in
memory bounded by the width of the image, not by its area.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jdcsuite import checks
from jdcsuite.coding.codec import Codec, coding_mode, tile_checksum
from jdcsuite.coding.conditions import request_conditions
from jdcsuite.coding.container import Contents, Tile
from jdcsuite.coding.tiling import PARALLEL_TILES, Array, Box, Tiling, in_parallel, in_windows, size, window
from jdcsuite.device import laid_out_for_coding
from jdcsuite.types import CorruptFile, Output, Side

# Bytes that entropy decoding takes per latent of a tile, and a window of the networks per pixel: measured on the
# flagship, 1024 and 2048 pixels a side.
BYTES_PER_LATENT, BYTES_PER_PIXEL = 100, 160
LARGE = 1024  # pixels: the networks compute larger tiles in windows of this side, which bounds their memory


class TransformCodec(Codec):
    """Base of the transform codecs. ``num_latents``: channels of the latents. ``stride``: height and width of a tile
    are padded to its multiples. ``latent_stride``: pixels per latent. ``margin``: how far the transforms reach beyond a
    tile in pixels, a multiple of ``latent_stride``. ``segment_names``: the coded tensor of each segment, which is also
    the name of its table.
    """

    num_latents: int
    stride: int
    latent_stride: int = 16
    margin: int = 48

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """Training view. ``sigma`` (grey levels) and ``bpp_noisy`` (bits per pixel of a lossless code of x) are what an
        encoder may know besides the pixels; codecs without a guide ignore them."""

    @abstractmethod
    def analyse(
        self, x: Float[Tensor, "1 3 h w"], conditions: Float[Tensor, "1 3"] | None = None
    ) -> Float[Tensor, "1 c hy wy"]:
        """Padded image -> latents. ``conditions``: of codecs of any rate, see `coding.conditions`."""

    @abstractmethod
    def synthesise(
        self, y_hat: Float[Tensor, "1 c hy wy"], conditions: Float[Tensor, "1 3"] | None = None
    ) -> Float[Tensor, "1 3 h w"]:
        """Decoded latents -> padded image, unclamped."""

    @abstractmethod
    def encode_tile(self, y: Float[Tensor, "1 c hy wy"], *, side: Side) -> tuple[list[bytes], Int[Tensor, "n"]]:
        """Latents of a tile -> its segments, and all symbols in decoding order."""

    @abstractmethod
    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, side: Side
    ) -> tuple[Float[Tensor, "1 c hy wy"], Int[Tensor, "n"]]:
        """Segments -> decoded latents and symbols. ``height``, ``width``: of the padded tile, in pixels."""

    def estimate_tile(self, y: Float[Tensor, "1 c hy wy"], *, side: Side) -> float:
        """Approximate size of the segments of a tile in bytes."""
        return float(sum(map(len, self.encode_tile(y, side=side)[0])))

    @property
    def table_names(self) -> tuple[str, ...]:
        return self.segment_names

    def pad(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 hp wp"]:
        """Replicates the right and bottom border up to the next multiple of ``stride``."""
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")

    # -- image -> tiles ----------------------------------------------------------------------------------------

    def encode_tiles(self, x: Float[Tensor, "1 3 h w"] | Array, contents: Contents) -> Iterator[Tile]:
        return in_parallel(lambda box: self._encode_box(x, box, side=contents.side), contents.boxes)

    def estimate_tiles(self, x: Float[Tensor, "1 3 h w"] | Array, contents: Contents) -> Iterator[float]:
        return in_parallel(lambda box: self._estimate_box(x, box, side=contents.side), contents.boxes)

    @coding_mode
    def _encode_box(self, x: Tensor | Array, box: Box, *, side: Side) -> Tile:
        segments, symbols = self.encode_tile(self._latents(x, box, side=side), side=side)
        return Tile(checksum=tile_checksum(symbols, box=box, side=side), segments=segments)

    @coding_mode
    def _estimate_box(self, x: Tensor | Array, box: Box, *, side: Side) -> float:
        return self.estimate_tile(self._latents(x, box, side=side), side=side)

    def _latents(self, x: Tensor | Array, box: Box, *, side: Side) -> Float[Tensor, "1 c hy wy"]:
        tiling, (full_height, full_width) = self._tiling, size(x)
        height, width = tiling.padded(box.height, box.width)
        rows, columns = tiling.reach(box.top, height, full_height), tiling.reach(box.left, width, full_width)
        pixels = laid_out_for_coding(window(x, rows, columns, device=self.device))
        y = self.analyse(pixels, self._conditions(side))
        y = y[..., tiling.latents(rows, box.top, height), tiling.latents(columns, box.left, width)].contiguous()
        return checks.finite("this image's latents", y)

    @property
    def _tiling(self) -> Tiling:
        return Tiling(stride=self.stride, latent_stride=self.latent_stride, margin=self.margin)

    def _conditions(self, side: Side) -> Float[Tensor, "1 3"] | None:
        """The request of a header as the transforms take it; None for codecs of one rate."""
        return None if side.request is None else request_conditions(side.request).to(self.device, torch.float32)

    # -- tiles -> image ----------------------------------------------------------------------------------------

    def decoding_memory(self, contents: Contents) -> int:
        """The image, the latents of three rows of tiles, and for every thread the symbols of a tile and a window of the
        networks."""
        boxes = contents.boxes
        area = math.prod(self._tiling.padded(boxes[0].height, boxes[0].width))
        latents = self.num_latents * area // self.latent_stride**2
        across = sum(box.top == 0 for box in boxes)
        work = BYTES_PER_LATENT * latents + BYTES_PER_PIXEL * min(area, LARGE**2)
        threads = min(PARALLEL_TILES, len(boxes))
        return super().decoding_memory(contents) + 4 * 3 * across * latents + threads * work

    def decode_tiles(self, contents: Contents) -> Iterator[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        """Holds the latents of at most three rows of tiles: a row is synthesised once the one below it is decoded."""
        jobs = zip(contents.boxes, contents.tiles, strict=True)
        rows = [list(row) for _, row in groupby(jobs, key=lambda job: job[0].top)]
        above: list[Tensor] = []
        current = self._decode_row(rows[0], side=contents.side)
        for i, row in enumerate(rows):
            below = self._decode_row(rows[i + 1], side=contents.side) if i + 1 < len(rows) else []
            boxes = [box for box, _ in row]
            yield from self._synthesise_row(boxes, side=contents.side, above=above, row=current, below=below)
            # clones: views would keep whole tiles of latents alive
            above, current = [y[..., -self._tiling.edge :, :].clone() for y in current], below

    def _decode_row(self, row: list[tuple[Box, Tile]], *, side: Side) -> list[Tensor]:
        return list(in_parallel(lambda job: self._decode_box(*job, side=side), row))

    def _synthesise_row(
        self, boxes: list[Box], *, side: Side, **latents: list[Tensor]
    ) -> Iterator[tuple[Box, Float[Tensor, "1 3 _ _"]]]:
        parts = in_parallel(lambda job: self._synthesise_box(*job, side=side, **latents), list(enumerate(boxes)))
        yield from zip(boxes, parts, strict=True)

    @coding_mode
    def _decode_box(self, box: Box, tile: Tile, *, side: Side) -> Float[Tensor, "1 c hy wy"]:
        height, width = self._tiling.padded(box.height, box.width)
        y_hat, symbols = self.decode_tile(tile.segments, height=height, width=width, side=side)
        if tile_checksum(symbols, box=box, side=side) != tile.checksum:
            raise CorruptFile("the decoded symbols are not those that were written")
        return y_hat

    @coding_mode
    def _synthesise_box(self, i: int, box: Box, *, side: Side, **latents: list[Tensor]) -> Float[Tensor, "1 3 _ _"]:
        """Pixels of tile ``i`` of a row. ``latents``: arguments of `Tiling.with_neighbours`."""
        y_hat, top, left = self._tiling.with_neighbours(i, **latents)
        conditions, edge = self._conditions(side), self._tiling.edge

        def synthesised(rows: slice, columns: slice) -> Float[Tensor, "1 3 _ _"]:
            return self.synthesise(laid_out_for_coding(y_hat[..., rows, columns]), conditions)

        # a tile of `LARGE` pixels with its neighbours is one window
        x_hat = in_windows(
            synthesised, *y_hat.shape[-2:], side=LARGE // self.latent_stride + 2 * edge, margin=edge,
            scale=self.latent_stride, check=_check_samples,
        )  # fmt: skip
        return x_hat[..., top : top + box.height, left : left + box.width].clamp(0, 1)


def _check_samples(x_hat: Float[Tensor, "1 3 _ _"]) -> None:
    if not torch.isfinite(x_hat).all():
        raise CorruptFile("decoded samples are not finite: a forged file, or weights that did not converge")
