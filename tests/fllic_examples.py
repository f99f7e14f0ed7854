"""A small FLLIC, images for it, and what its files may differ by from the forward pass."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.models.fllic import FLLIC

TINY = {"widths": [8, 8, 16], "num_latents": 32, "prior_width": 8}
SIZES = [(1, 1), (1, 150), (63, 65), (64, 64), (130, 67)]


def tiny(*, seed: int = 0, **changes) -> FLLIC:
    torch.manual_seed(seed)
    return FLLIC(**{**TINY, **changes})


def ready(net: FLLIC) -> FLLIC:
    net.eval().update()
    return net


def smooth(height: int, width: int, *, seed: int = 0, finest: float = 0.05) -> Tensor:
    """A random image: little power above ``finest`` cycles per pixel, chroma a fifth of luma."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    field = np.fft.ifft2(np.fft.fft2(random.standard_normal((3, height, width))) * np.exp(-((frequency / finest) ** 2)))
    luma, a, b = field.real / max(field.real.std(), 1e-9)
    rgb = np.stack([luma + 0.2 * (a + b), luma - 0.4 * b, luma - 0.2 * (a - b)])
    return torch.from_numpy(0.5 + 0.12 * rgb).clamp(0, 1).float()[None]


def image(height: int, width: int, *, seed: int = 0) -> Tensor:
    """A smooth image with noise of sigma 5."""
    whole = smooth(max(height, 64), max(width, 64), seed=seed)
    return GaussianNoise(sigma=5)(whole, Draw.whole(1, seed=seed))[..., :height, :width]


def mse(x_hat: Tensor, x: Tensor) -> Tensor:
    return ((x_hat - x) ** 2).mean()


def psnr(x_hat: Tensor, x: Tensor) -> float:
    return -10 * math.log10(mse(x_hat, x).item())


def equals_forward(decoded: Tensor, x_hat: Tensor) -> bool:
    """Forward computes the entropy parameters in float32 with unrounded weights, coding in float64 with rounded weights
    and activations (`entropy.exact`). Steps and means differ by about 1e-4, so that a latent halfway between two
    integers is sometimes rounded the other way, which changes its block of pixels by part of a step. Hence a tight
    bound for most pixels, and for the worst one, which is asserted, the effect of one latent. False where the bound for
    most pixels is exceeded, as by two such latents in an image of four blocks of 64x64 or fewer."""
    error = (decoded - x_hat.clamp(0, 1)).abs() * 255
    assert decoded.shape == x_hat.shape and error.max() < 8
    return bool(error.median() < 0.01 and error.mean() < 0.2)


def assert_equals_forward(decoded: Tensor, x_hat: Tensor) -> None:
    assert equals_forward(decoded, x_hat)
