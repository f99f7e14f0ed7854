"""Noisy image -> denoised 8-bit input of a codec: denoise-then-compress, the baseline of joint codecs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import Pair, UserError


@torch.no_grad()
def denoise(denoiser: object, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> Float[Tensor, "1 3 h w"]:
    """Output of a denoiser, unclamped, for one image of any size. Uses the `denoise` method of the object if it has one
    (`Denoiser`, training-free denoisers); any other network is called like a codec. ``sigma``: of the noise in grey
    levels, None if unknown. UserError: the object returns no image."""
    if hasattr(denoiser, "denoise"):
        return denoiser.denoise(x)
    level = torch.tensor([math.nan if sigma is None else sigma], device=x.device)
    x_hat = None
    if isinstance(denoiser, nn.Module):
        with torch.autocast(x.device.type, enabled=False):
            x_hat = denoiser(x, sigma=level).x_hat
    if x_hat is None:
        raise UserError(
            f"{type(denoiser).__name__} returns no image: give a denoiser's run, as +experiment=unet trains"
        )
    return x_hat


def denoised(denoiser: object, pair: Pair) -> Pair:
    """The Pair that a codec behind ``denoiser`` codes, with the denoised image as its input, for a Pair of one image.

    The denoised image is rounded to 8 bits, as in a file between denoiser and codec, so that learned and standard
    codecs get the same input. Its sigma is unknown, because the codec never sees the noisy image.
    """
    sigma = float(pair.sigma[0])
    x_hat = denoise(denoiser, pair.noisy, sigma=None if math.isnan(sigma) else sigma)
    rounded = to_tensor(to_bytes(x_hat[0]))[None].to(pair.noisy.device)
    return Pair(noisy=rounded, clean=pair.clean, sigma=torch.full_like(pair.sigma, math.nan))
