"""Output + Pair -> loss of a codec of any rate: quality, strength and what its encoder is told are drawn by crop."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from jdcsuite.coding.conditions import CODED, denoising_error, lmbda_of
from jdcsuite.training.criteria import Parts, rate_and_distortion
from jdcsuite.types import Output, Pair, UserError


class AnyRate(nn.Module):
    """Weighted mean of bpp + lmbda MSE(x_hat, target) over crops that each have a rate and a noise of their own, and
    the error of the noise estimate.

    quality ~ U(0, 100), the share ``ends`` of the crops at one of its ends; lmbda = 64 * 2^(quality / 10). The target
    is the clean crop (strength 1), in the share ``partial`` of the crops clean + (1 - strength) * noise with strength ~
    U(0, 1). The encoder is told the noise's root mean square, off by a factor of e^N(0, ``blur``^2); in the share
    ``blind`` of the crops it has to estimate. A crop weighs 1 / (1 + lmbda * D / 2.16), D being what denoising leaves
    at its noise level: else crops of strong noise at high rates would drown the others, as their loss grows with lmbda
    where that of the rest is alike for every lmbda. ``estimate``: weight of the estimate's smooth-L1 loss in octaves of
    1 + sigma.

    Validation asks for quality 60 at strength 1, blind.
    """

    smallest = 1

    def __init__(
        self, *, ends: float = 0.1, partial: float = 0.1, blind: float = 0.5, blur: float = 0.15, estimate: float = 0.1
    ) -> None:
        super().__init__()
        for name, share in {"ends": ends, "partial": partial, "blind": blind}.items():
            if not 0 <= share <= 1:
                raise UserError(f"criterion.{name}={share} is no share of the crops: give 0 to 1")
        for name, value in {"blur": blur, "estimate": estimate}.items():
            if not 0 <= value < float("inf"):
                raise UserError(f"criterion.{name}={value} is not usable: give 0 or more")
        self.ends, self.partial, self.blind, self.blur, self.estimate = ends, partial, blind, blur, estimate

    @torch.no_grad()
    def prepare(self, pair: Pair) -> Pair:
        noise = pair.noisy - pair.clean
        level = 255 * noise.square().flatten(1).mean(1).sqrt()
        unknown, one = torch.full_like(level, torch.nan), torch.ones_like(level)
        if not self.training:
            return replace(pair, sigma=unknown, level=level, asked={"quality": 60 * one, "strength": one})
        quality, at_end, high, partial, strength, blind = torch.rand(6, len(level), device=level.device)
        quality = 100 * torch.where(at_end < self.ends, (high < 0.5).float(), quality)
        strength = torch.where(partial < self.partial, strength, one)
        told = level * torch.exp(self.blur * torch.randn_like(level))
        target = pair.clean + (1 - strength)[:, None, None, None] * noise
        return replace(
            pair, clean=target, sigma=torch.where(blind < self.blind, unknown, told), level=level,
            asked={"quality": quality, "strength": strength},
        )  # fmt: skip

    def forward(self, output: Output, pair: Pair) -> Parts:
        parts, bpp, error = rate_and_distortion(output, pair)
        lmbda = lmbda_of(pair.asked["quality"])
        # noise that is kept is not lost: what denoising leaves shrinks with the square of what is removed
        weight = 1 / (1 + lmbda * denoising_error(pair.level) * pair.asked["strength"] ** 2 / CODED)
        octaves = F.smooth_l1_loss(torch.log2(1 + output.sigma_hat), torch.log2(1 + pair.level))
        loss = (weight * (bpp + lmbda * error)).mean() + self.estimate * octaves
        return {"loss": loss, "sigma_octaves": octaves.detach(), "weight": weight.mean().detach(), **parts}
