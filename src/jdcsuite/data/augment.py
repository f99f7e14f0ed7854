"""Clean training crops -> other plausible clean pictures: exposure and the order of the colours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from jdcsuite.data.draw import Draw
from jdcsuite.types import UserError


class Augmentation:
    """``exposure``: share of the images that are multiplied by a factor from ``darkest`` to ``brightest``;
    ``colours``: share whose colour channels are put in a random order. 0 switches either off. The result is rounded to
    8 bits again, for clean pictures are files too. Device operations on the whole batch."""

    def __init__(
        self, *, exposure: float = 0.25, darkest: float = 0.5, brightest: float = 1.1, colours: float = 0.125
    ) -> None:
        for name, share in {"exposure": exposure, "colours": colours}.items():
            if not 0 <= share <= 1:
                raise UserError(f"data.augment.{name}={share} is no share: give 0 to 1")
        if not 0 < darkest <= brightest < 10:
            raise UserError(f"exposures from {darkest} to {brightest} are no range: give 0 < darkest <= brightest < 10")
        self.exposure, self.darkest, self.brightest, self.colours = exposure, darkest, brightest, colours

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        chance = draw.uniform(6)
        factor = self.darkest + (self.brightest - self.darkest) * chance[:, 1]
        factor = torch.where(chance[:, 0] < self.exposure, factor, torch.ones_like(factor))
        shuffled, as_is = chance[:, 3:].argsort(1), torch.arange(3, device=clean.device).expand(len(clean), 3)
        order = torch.where(chance[:, 2:3] < self.colours, shuffled, as_is)
        clean = clean.gather(1, order[:, :, None, None].expand_as(clean)) * factor[:, None, None, None]
        return (clean * 255).round().clamp(0, 255) / 255
