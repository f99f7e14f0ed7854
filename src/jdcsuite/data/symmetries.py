"""A batch of square crops -> the same crops, each under one of the 8 symmetries of the square.

kornia's flips are not used: 0.9 ignores `batch_prob` at p=1 and flips every image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor


def turned(images: Float[Tensor, "b c s s"], bits: Integer[Tensor, "b 3"]) -> Float[Tensor, "b c s s"]:
    """Each image transposed, then upside down, then mirrored, according to its three bits (0 or 1). Does not wait for
    the device."""
    transpose, upside_down, mirror = (bit.bool().view(-1, 1, 1, 1) for bit in bits.unbind(1))
    images = torch.where(transpose, images.mT, images)
    images = torch.where(upside_down, images.flip(-2), images)
    return torch.where(mirror, images.flip(-1), images)
