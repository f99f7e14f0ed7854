"""Clean training crops -> other plausible clean crops: scale, exposure, order of the channels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite import checks
from jdcsuite.data.draw import Draw
from jdcsuite.imaging.pixels import quantized
from jdcsuite.types import UserError


class Augmentation:
    """Changes of clean crops, each with its own probability; 0 switches one off.

    ``exposure``: of a multiplication by a factor from ``darkest`` to ``brightest``; ``colours``: of a random order of
    the channels. Both are applied to whole batches on the device, and the result is rounded to 8 bits, as clean files
    are. ``halved``: of a crop that `samples.Crops` cuts twice as large, where the image allows it, and scales to half.
    """

    def __init__(
        self,
        *,
        exposure: float = 0.25,
        darkest: float = 0.5,
        brightest: float = 1.1,
        colours: float = 0.125,
        halved: float = 0.25,
    ) -> None:
        for name, share in {"exposure": exposure, "colours": colours, "halved": halved}.items():
            checks.share(f"data.augment.{name}", share)
        if not 0 < darkest <= brightest < 10:
            raise UserError(f"exposures from {darkest} to {brightest} are no range: give 0 < darkest <= brightest < 10")
        self.exposure, self.darkest, self.brightest, self.colours = exposure, darkest, brightest, colours
        self.halved = halved

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        chance = draw.uniform(6)
        factor = self.darkest + (self.brightest - self.darkest) * chance[:, 1]
        factor = torch.where(chance[:, 0] < self.exposure, factor, torch.ones_like(factor))
        shuffled, unchanged = chance[:, 3:].argsort(1), torch.arange(3, device=clean.device).expand(len(clean), 3)
        order = torch.where(chance[:, 2:3] < self.colours, shuffled, unchanged)
        clean = clean.gather(1, order[:, :, None, None].expand_as(clean)) * factor[:, None, None, None]
        return quantized(clean)


def half(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Half the size: the rounded mean of 2x2 pixels; even sides only."""
    height, width = image.shape[:2]
    squares = image.reshape(height // 2, 2, width // 2, 2, 3)
    return ((squares.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)
