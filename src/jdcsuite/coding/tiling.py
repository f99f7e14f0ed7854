"""Image size -> tiles -> the pixels that each is coded from; latents of adjacent tiles -> input of a synthesis.

The transforms of a tile see up to ``margin`` pixels of its neighbours, which is all that they can reach. Tiling
therefore changes neither the latents nor, given the latents, a pixel. Only the entropy model stops at the border of a
tile, and no pixel is coded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

T = TypeVar("T")
Array = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]
PARALLEL_TILES = 2  # one tile runs through the networks while another is entropy-coded


class Box(NamedTuple):
    """Position and size of a tile in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of the tile, to index an image with."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def boxes(height: int, width: int, tile: int) -> list[Box]:
    """All tiles in raster order, smaller at the right and bottom. ``tile``: side in pixels, 0 = one tile."""
    if not tile:
        return [Box(0, 0, height, width)]
    return [
        Box(top, left, min(tile, height - top), min(tile, width - left))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Geometry of a transform codec in pixels.

    ``stride``: padded sizes are multiples of it. ``latent_stride``: pixels per latent. ``margin``: how far the
    transforms reach beyond a tile, a multiple of ``latent_stride``.
    """

    stride: int
    latent_stride: int
    margin: int

    @property
    def edge(self) -> int:
        """Latents beyond a tile that the synthesis reaches."""
        return self.margin // self.latent_stride

    def padded(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.stride) * self.stride, -(-width // self.stride) * self.stride

    def reach(self, start: int, length: int, side: int) -> tuple[int, int]:
        """First and last pixel, along one axis of ``side`` pixels, that the analysis of a tile depends on."""
        return max(0, start - self.margin), min(self.padded(side, side)[0], start + length + self.margin)

    def latents(self, reach: tuple[int, int], start: int, length: int) -> slice:
        """Latents of the tile itself among those of its whole `reach`."""
        first = (start - reach[0]) // self.latent_stride
        return slice(first, first + length // self.latent_stride)

    def with_neighbours(
        self, i: int, *, above: list[Tensor], row: list[Tensor], below: list[Tensor]
    ) -> tuple[Float[Tensor, "1 c _ _"], int, int]:
        """Latents of tile ``i`` of a ``row`` with those of its neighbours that the synthesis reaches, and the row and
        column of the first pixel of the tile in what is synthesised from them. ``above``, ``below``: latents of the
        adjacent rows of tiles, empty at the edge of the image."""

        def across(latents: list[Tensor]) -> Tensor:
            left = [latents[i - 1][..., -self.edge :]] if i else []
            right = [latents[i + 1][..., : self.edge]] if i + 1 < len(latents) else []
            return torch.cat([*left, latents[i], *right], 3)

        stacked = [across(above)[..., -self.edge :, :]] if above else []
        stacked += [across(row)]
        stacked += [across(below)[..., : self.edge, :]] if below else []
        top = stacked[0].shape[-2] * self.latent_stride if above else 0
        left = min(self.edge, row[i - 1].shape[-1]) * self.latent_stride if i else 0
        return torch.cat(stacked, 2), top, left


def in_windows(
    work: Callable[[slice, slice], Float[Tensor, "b c _ _"]],
    height: int,
    width: int,
    *,
    side: int,
    margin: int,
    scale: int,
    check: Callable[[Tensor], object] | None = None,
) -> Float[Tensor, "b c _ _"]:
    """What ``work`` makes of an input of ``height`` x ``width``, computed in squares of ``side`` to bound its memory.

    ``work``: rows and columns of the input -> output, ``scale`` times as large. ``margin``: how far, in the input, an
    output depends on it. ``check``: is given each part before the next one is computed.
    """
    whole = None
    for box in boxes(height, width, side):
        top, left = max(0, box.top - margin), max(0, box.left - margin)
        inside = box._replace(top=box.top - top, left=box.left - left)
        part = work(slice(top, box.top + box.height + margin), slice(left, box.left + box.width + margin))
        part = part[..., *Box(*(scale * n for n in inside)).pixels]
        if check is not None:
            check(part)
        if part.shape[-2:] == (scale * height, scale * width):
            return part
        whole = part.new_empty(*part.shape[:2], scale * height, scale * width) if whole is None else whole
        whole[..., *Box(*(scale * n for n in box)).pixels] = part
    return whole


def window(
    x: Tensor | Array, rows: tuple[int, int], columns: tuple[int, int], *, device: torch.device
) -> Float[Tensor, "1 3 _ _"]:
    """Part of an image as float32 in [0, 1]; beyond the bottom and right border the border is replicated."""
    if isinstance(x, np.ndarray):
        part = x[rows[0] : rows[1], columns[0] : columns[1]]
        # int32, because PyTorch supports few operations on uint16
        part = torch.from_numpy(part.astype(np.int32)).to(device).permute(2, 0, 1)[None].float()
        part = part / np.iinfo(x.dtype).max
    else:
        part = x[..., rows[0] : rows[1], columns[0] : columns[1]].to(device, torch.float32)
    missing = (rows[1] - rows[0] - part.shape[-2], columns[1] - columns[0] - part.shape[-1])
    return F.pad(part, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else part


def size(x: Tensor | Array) -> tuple[int, int]:
    """Height and width in pixels."""
    return tuple(x.shape[:2]) if isinstance(x, np.ndarray) else tuple(x.shape[-2:])


def in_parallel(work: Callable[[T], object], jobs: list[T]) -> Iterator:
    """Results in the order of the jobs, from `PARALLEL_TILES` threads; a single job runs on the calling thread."""
    if len(jobs) == 1:
        yield work(jobs[0])
        return
    with ThreadPoolExecutor(PARALLEL_TILES) as pool:
        yield from pool.map(work, jobs)
