"""Noisy picture -> what a denoiser hands to a codec: denoise-then-compress, what a joint codec has to beat."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import Pair, UserError


@torch.no_grad()
def denoise(denoiser: object, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> Float[Tensor, "1 3 h w"]:
    """The denoiser's picture, unclamped, of one picture of any size. Whatever has a `denoise` of its own (`Denoiser`,
    in tiles; those that learned nothing) is asked for it; any other network is called as a codec is. ``sigma``: of the
    noise in grey levels, None where unknown. UserError where the net makes no picture."""
    if hasattr(denoiser, "denoise"):
        return denoiser.denoise(x)
    level = torch.tensor([math.nan if sigma is None else sigma], device=x.device)
    made = None
    if isinstance(denoiser, nn.Module):
        with torch.autocast(x.device.type, enabled=False):
            made = denoiser(x, sigma=level).x_hat
    if made is None:
        raise UserError(
            f"{type(denoiser).__name__} makes no picture: give a denoiser's run, as +experiment=unet trains"
        )
    return made


def denoised(denoiser: object, pair: Pair) -> Pair:
    """A Pair of one -> the Pair that a codec behind ``denoiser`` is given: its input is the denoised picture.

    That is rounded to 8 bits, as in the file that a denoiser hands to a codec, so that learned and standard codecs are
    given the same one. The noise's sigma, that of a picture which the codec never sees, is unknown to it.
    """
    sigma = float(pair.sigma[0])
    made = denoise(denoiser, pair.noisy, sigma=None if math.isnan(sigma) else sigma)
    handed = to_tensor(to_bytes(made[0]))[None].to(pair.noisy.device)
    return Pair(noisy=handed, clean=pair.clean, sigma=torch.full_like(pair.sigma, math.nan))
