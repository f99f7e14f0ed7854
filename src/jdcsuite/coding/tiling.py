"""Picture -> the windows that its tiles are coded from; latents of neighbouring tiles -> what one tile is made of.

The transforms see ``margin`` pixels of a tile's neighbours, as much as they can look, so tiling changes neither latents
nor, given them, a pixel; only the entropy model stops at a tile's border, and no pixel is coded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

T = TypeVar("T")
Box = tuple[int, int, int, int]  # top, left, height, width
Array = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]
AT_ONCE = 2  # tiles: while one is in the networks, another is in the coder


@dataclass(frozen=True)
class Tiling:
    """The geometry of a codec, in pixels: ``stride`` of its padding, ``latent_stride`` of its latents, and ``margin``,
    a multiple of the latter, that its transforms look beyond a tile."""

    stride: int
    latent_stride: int
    margin: int

    @property
    def edge(self) -> int:
        """Latents beyond a tile that the synthesis looks at."""
        return self.margin // self.latent_stride

    def padded(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.stride) * self.stride, -(-width // self.stride) * self.stride

    def seen(self, start: int, length: int, side: int) -> tuple[int, int]:
        """First and last pixel that a transform looks at for a tile, in a picture padded to the stride."""
        return max(0, start - self.margin), min(self.padded(side, side)[0], start + length + self.margin)

    def latents(self, seen: tuple[int, int], start: int, length: int) -> slice:
        """The latents of a tile among those of all that was seen for it."""
        first = (start - seen[0]) // self.latent_stride
        return slice(first, first + length // self.latent_stride)

    def around(self, i: int, rows: list[list[Tensor]]) -> tuple[Float[Tensor, "1 c _ _"], int, int]:
        """Latents of tile ``i`` of a row with those that the synthesis sees around it, and where in its picture the
        tile's first pixel lies (row, column). ``rows``: latents of the tiles above (or none), here and below."""
        above, here, below = rows

        def across(row: list[Tensor]) -> Tensor:
            left = [row[i - 1][..., -self.edge :]] if i else []
            right = [row[i + 1][..., : self.edge]] if i + 1 < len(row) else []
            return torch.cat([*left, row[i], *right], 3)

        stacked = [across(above)[..., -self.edge :, :]] if above else []
        stacked += [across(here)]
        stacked += [across(below)[..., : self.edge, :]] if below else []
        top = stacked[0].shape[-2] * self.latent_stride if above else 0
        left = min(self.edge, here[i - 1].shape[-1]) * self.latent_stride if i else 0
        return torch.cat(stacked, 2), top, left


def window(
    x: Tensor | Array, rows: tuple[int, int], columns: tuple[int, int], *, device: torch.device
) -> Float[Tensor, "1 3 _ _"]:
    """A part of the picture as float32 in [0, 1]; what lies beyond its bottom and right repeats the border."""
    if isinstance(x, np.ndarray):
        part = x[rows[0] : rows[1], columns[0] : columns[1]]
        # through int32: PyTorch knows few operations on 16 unsigned bits
        part = torch.from_numpy(part.astype(np.int32)).to(device).permute(2, 0, 1)[None].float()
        part = part / np.iinfo(x.dtype).max
    else:
        part = x[..., rows[0] : rows[1], columns[0] : columns[1]].to(device, torch.float32)
    missing = (rows[1] - rows[0] - part.shape[-2], columns[1] - columns[0] - part.shape[-1])
    return F.pad(part, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else part


def size(x: Tensor | Array) -> tuple[int, int]:
    """Height and width in pixels."""
    return tuple(x.shape[:2]) if isinstance(x, np.ndarray) else tuple(x.shape[-2:])


def side_by_side(work: Callable[[T], object], jobs: list[T]) -> Iterator:
    """Results in the order of the jobs, `AT_ONCE` of them at work; one job alone stays on this thread."""
    if len(jobs) == 1:
        yield work(jobs[0])
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(work, jobs)
