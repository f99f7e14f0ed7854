"""Clean training crops -> other plausible clean pictures: scale, exposure and the order of the colours."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.data.draw import Draw
from jdcsuite.imaging.pixels import quantized
from jdcsuite.types import UserError


class Augmentation:
    """``exposure``: share of the images that are multiplied by a factor from ``darkest`` to ``brightest``;
    ``colours``: share whose colour channels are put in a random order. Both on the whole batch, by device operations,
    and rounded to 8 bits again, for clean pictures are files too. ``halved``: share of the crops that `Crops` cuts
    twice as large, where pictures allow it, and makes smaller. 0 switches each off."""

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
            if not 0 <= share <= 1:
                raise UserError(f"data.augment.{name}={share} is no share: give 0 to 1")
        if not 0 < darkest <= brightest < 10:
            raise UserError(f"exposures from {darkest} to {brightest} are no range: give 0 < darkest <= brightest < 10")
        self.exposure, self.darkest, self.brightest, self.colours = exposure, darkest, brightest, colours
        self.halved = halved

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        chance = draw.uniform(6)
        factor = self.darkest + (self.brightest - self.darkest) * chance[:, 1]
        factor = torch.where(chance[:, 0] < self.exposure, factor, torch.ones_like(factor))
        shuffled, as_is = chance[:, 3:].argsort(1), torch.arange(3, device=clean.device).expand(len(clean), 3)
        order = torch.where(chance[:, 2:3] < self.colours, shuffled, as_is)
        clean = clean.gather(1, order[:, :, None, None].expand_as(clean)) * factor[:, None, None, None]
        return quantized(clean)


def half(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Half the size: the rounded mean of 2x2 pixels; even sides."""
    height, width = image.shape[:2]
    squares = image.reshape(height // 2, 2, width // 2, 2, 3)
    return ((squares.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)
