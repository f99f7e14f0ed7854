"""Decoded images in the memory of the device that trains: workers send positions, the device cuts the crops.

A position is the index of a crop's first pixel among all pixels, and the width of its image. The crops are, bit for
bit, those that `samples.Crops` cuts from the cache.
"""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from jdcsuite.data.cache import ImageCache

SHARE = 0.25  # of the free memory


def fits(cache: ImageCache, device: torch.device) -> bool:
    """Whether the images take at most a quarter of the free memory of a CUDA device; False on other devices."""
    return device.type == "cuda" and cache.size <= SHARE * torch.cuda.mem_get_info(device)[0]


class Resident:
    """The images of ``cache`` on ``device``: all pixels in one (pixels, 3) tensor. ``halves``: whether some crops are
    cut twice as large and scaled to half."""

    def __init__(self, cache: ImageCache, *, device: torch.device, halves: bool) -> None:
        self.halves = halves
        self.pixels = torch.empty(cache.size // 3, 3, dtype=torch.uint8, device=device)
        for i in range(len(cache)):
            start, pixels = cache.pixel(i, 0, 0), torch.from_numpy(cache[i]).flatten(0, 1)
            self.pixels[start : start + len(pixels)] = pixels

    def cut(
        self, at: Int[Tensor, "b"], width: Int[Tensor, "b"], scale: Int[Tensor, "b"], *, crop: int
    ) -> UInt8[Tensor, "b 3 crop crop"]:
        """Squares of ``crop`` pixels. ``at``: index of the first pixel; ``width``: of the image. Where ``scale`` is 2,
        the square is twice as large and every pixel is the rounded mean of 2x2 (`augment.half`)."""
        at, width, scale = (numbers[:, None, None] for numbers in (at, width, scale))
        along = torch.arange(crop, device=self.pixels.device)
        index = at + scale * (along[:, None] * width + along)
        if self.halves:
            # at a scale of 1 all four are the same pixel, which is their rounded mean
            offsets = [(scale - 1) * (down * width + right) for down in (0, 1) for right in (0, 1)]
            total = sum(self.pixels[index + offset].short() for offset in offsets)
            crops = ((total + 2) // 4).byte()
        else:
            crops = self.pixels[index]
        return crops.permute(0, 3, 1, 2).contiguous()
