"""Output + Pair -> loss of a codec of any rate: quality, strength and known noise level are drawn for each crop."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from jdcsuite import checks
from jdcsuite.coding.conditions import CODED, denoising_error, lmbda_of
from jdcsuite.training.criteria import Parts, rate_and_distortion
from jdcsuite.types import Output, Pair


class AnyRate(nn.Module):
    """Weighted mean of bpp + lmbda * MSE(x_hat, target) over the crops, plus the error of the noise estimate.

    quality ~ U(0, 100), for the share ``ends`` of the crops 0 or 100; lmbda = 64 * 2^(quality / 10). The target is the
    clean crop (strength 1), for the share ``partial`` of the crops clean + (1 - strength) * noise with strength ~
    U(0, 1). The encoder is given the root mean square of the noise times e^N(0, ``blur``^2); for the share ``blind`` of
    the crops it has to estimate it. The weight of a crop is 1 / (1 + lmbda * D / 2.16), where D is the error that
    denoising leaves at its noise level: without it, crops of strong noise at high rates would dominate, because their
    loss grows with lmbda while that of the others is about the same for every lmbda. ``estimate``: weight of the
    smooth-L1 loss of the noise estimate, in octaves of 1 + sigma.

    Validation uses quality 60 at strength 1, blind.
    """

    smallest = 1

    def __init__(
        self, *, ends: float = 0.1, partial: float = 0.1, blind: float = 0.5, blur: float = 0.15, estimate: float = 0.1
    ) -> None:
        super().__init__()
        for name, value in {"ends": ends, "partial": partial, "blind": blind}.items():
            checks.share(f"criterion.{name}", value)
        for name, value in {"blur": blur, "estimate": estimate}.items():
            checks.number(f"criterion.{name}", value, least=0)
        self.ends, self.partial, self.blind, self.blur, self.estimate = ends, partial, blind, blur, estimate

    @torch.no_grad()
    def prepare(self, pair: Pair) -> Pair:
        noise = pair.noisy - pair.clean
        level = 255 * noise.square().flatten(1).mean(1).sqrt()
        unknown, one = torch.full_like(level, torch.nan), torch.ones_like(level)
        if not self.training:
            return replace(pair, sigma=unknown, level=level, settings={"quality": 60 * one, "strength": one})
        quality, at_end, high, partial, strength, blind = torch.rand(6, len(level), device=level.device)
        quality = 100 * torch.where(at_end < self.ends, (high < 0.5).float(), quality)
        strength = torch.where(partial < self.partial, strength, one)
        given = level * torch.exp(self.blur * torch.randn_like(level))
        target = pair.clean + (1 - strength)[:, None, None, None] * noise
        return replace(
            pair, clean=target, sigma=torch.where(blind < self.blind, unknown, given), level=level,
            settings={"quality": quality, "strength": strength},
        )  # fmt: skip

    def forward(self, output: Output, pair: Pair) -> Parts:
        parts, bpp, error = rate_and_distortion(output, pair)
        lmbda = lmbda_of(pair.settings["quality"])
        # noise that is kept is no error: what denoising leaves scales with the square of the strength
        weight = 1 / (1 + lmbda * denoising_error(pair.level) * pair.settings["strength"] ** 2 / CODED)
        octaves = F.smooth_l1_loss(torch.log2(1 + output.sigma_hat), torch.log2(1 + pair.level))
        loss = (weight * (bpp + lmbda * error)).mean() + self.estimate * octaves
        return {"loss": loss, "sigma_octaves": octaves.detach(), "weight": weight.mean().detach(), **parts}
