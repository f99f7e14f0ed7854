"""Output + Pair -> loss of a codec of any rate: quality, strength and known noise level are drawn for each crop."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.conditions import CODED, denoising_error, lmbda_of
from jdcsuite.training.criteria import Parts, mse, rate_and_distortion
from jdcsuite.types import Output, Pair


def latin_hypercube(variables: int, samples: int, *, device: torch.device) -> Float[Tensor, "variables samples"]:
    """Uniform numbers from 0 to 1, of each variable one in each of ``samples`` equal intervals in random order (McKay,
    Beckman and Conover, 1979): means over a batch vary less than those of independent numbers."""
    order = torch.rand(variables, samples, device=device).argsort(1)
    return (order + torch.rand(variables, samples, device=device)) / samples


class AnyRate(nn.Module):
    """Mean over the crops of the logarithm of bpp + lmbda * MSE(x_hat, target), plus the errors of the noise estimate
    and of the encoder's denoiser.

    Conditions are drawn as a Latin hypercube: the qualities of a batch are spread over the whole range.
    quality ~ U(0, 100), for the share ``ends`` of the crops 0 or 100; lmbda = 64 * 2^(quality / 10). The target is the
    clean crop (strength 1), for the share ``partial`` of the crops clean + (1 - strength) * noise with strength ~
    U(0, 1). The encoder is given the root mean square of the noise times e^N(0, ``blur``^2); for the share ``blind`` of
    the crops it has to estimate it. The loss of a crop is 2.16 log(1 + cost / 2.16) of its cost bpp + lmbda * MSE,
    which weighs the gradient of the cost by 1 / (1 + cost / 2.16). Without it, crops whose error is not the coder's
    would dominate, because their cost grows with lmbda while that of the others is about the same for every lmbda:
    those of strong noise, and those that keep noise which the latents cannot hold.

    ``estimate``: weight of the smooth-L1 loss of the noise estimate, in octaves of 1 + sigma. ``denoised``: weight of
    log(1 + MSE(denoised image, target) / D), where D is the error that denoising leaves at the crop's noise level:
    through the codec alone a denoiser learns slowly.

    Validation uses quality 60 at strength 1, blind.
    """

    smallest = 1

    def __init__(
        self,
        *,
        ends: float = 0.1,
        partial: float = 0.1,
        blind: float = 0.5,
        blur: float = 0.15,
        estimate: float = 0.1,
        denoised: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in {"ends": ends, "partial": partial, "blind": blind}.items():
            checks.share(f"criterion.{name}", value)
        for name, value in {"blur": blur, "estimate": estimate, "denoised": denoised}.items():
            checks.number(f"criterion.{name}", value, least=0)
        self.ends, self.partial, self.blind, self.blur = ends, partial, blind, blur
        self.estimate, self.denoised = estimate, denoised

    @torch.no_grad()
    def prepare(self, pair: Pair) -> Pair:
        noise = pair.noisy - pair.clean
        level = 255 * noise.square().flatten(1).mean(1).sqrt()
        unknown, one = torch.full_like(level, torch.nan), torch.ones_like(level)
        if not self.training:
            return replace(pair, sigma=unknown, level=level, settings={"quality": 60 * one, "strength": one})
        quality, at_end, high, partial, strength, blind = latin_hypercube(6, len(level), device=level.device)
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
        cost = bpp + lmbda_of(pair.settings["quality"]) * error
        octaves = F.smooth_l1_loss(torch.log2(1 + output.sigma_hat), torch.log2(1 + pair.level))
        loss = CODED * torch.log1p(cost / CODED).mean() + self.estimate * octaves
        parts |= {"cost": cost.mean().detach(), "sigma_octaves": octaves.detach()}
        if output.denoised is not None:
            # of levels below 1 grey level nothing that matters is left
            remaining = mse(output.denoised, pair) / denoising_error(pair.level.clamp(min=1))
            loss = loss + self.denoised * torch.log1p(remaining).mean()
            parts["denoised"] = remaining.mean().detach()
        return {"loss": loss, **parts}
