"""Decoded pictures in the memory of the device that trains: workers send places, and the device cuts the crops.

A place is the number of a crop's first pixel among all pixels, and the width of its picture. The crops are those that
`Crops` cuts from the cache, bit for bit.
"""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from jdcsuite.data.cache import ImageCache

SHARE = 0.25  # of the memory that is free


def fits(cache: ImageCache, device: torch.device) -> bool:
    """Whether the pictures take at most a quarter of what is free on a CUDA device; elsewhere they stay where they
    are."""
    return device.type == "cuda" and cache.size <= SHARE * torch.cuda.mem_get_info(device)[0]


class Resident:
    """The pictures of ``cache`` on ``device``, one after the other, a row a pixel. ``halves``: whether some crops are
    cut twice as large and made smaller."""

    def __init__(self, cache: ImageCache, *, device: torch.device, halves: bool) -> None:
        self.halves = halves
        self.pixels = torch.empty(cache.size // 3, 3, dtype=torch.uint8, device=device)
        for i in range(len(cache)):
            start, picture = cache.pixel(i, 0, 0), torch.from_numpy(cache[i]).flatten(0, 1)
            self.pixels[start : start + len(picture)] = picture

    def cut(
        self, at: Int[Tensor, "b"], width: Int[Tensor, "b"], scale: Int[Tensor, "b"], *, crop: int
    ) -> UInt8[Tensor, "b 3 crop crop"]:
        """Squares of ``crop`` pixels whose first pixel is ``at``, in pictures so ``wide``; where ``scale`` is 2, every
        pixel is the rounded mean of 2x2 (`augment.half`), the square being twice as large."""
        at, width, scale = (numbers[:, None, None] for numbers in (at, width, scale))
        along = torch.arange(crop, device=self.pixels.device)
        index = at + scale * (along[:, None] * width + along)
        if self.halves:
            # at a scale of 1 all four are the same pixel, which is their rounded mean
            beside = [(scale - 1) * (down * width + right) for down in (0, 1) for right in (0, 1)]
            total = sum(self.pixels[index + one].short() for one in beside)
            cut = ((total + 2) // 4).byte()
        else:
            cut = self.pixels[index]
        return cut.permute(0, 3, 1, 2).contiguous()
