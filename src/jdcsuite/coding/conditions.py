"""Quality, noise and strength <-> the three numbers that a codec of any rate is conditioned on.

``quality`` 0..100 stands for lmbda = 64 * 2^(quality / 10), bits per pixel against the MSE of pictures in [0, 1].
``noise`` is a standard deviation in 8-bit grey levels. ``strength`` 1 removes the noise, 0 keeps it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jdcsuite.entropy.quantize import compand
from jdcsuite.types import Request

OCTAVES = 6.0  # of 1 + noise, on which conditions are about 0 to 1
# Mean squared error that a denoiser leaves at noise sigma, about: fitted to BM3D on Kodak24 at sigma 5 to 20 (40.21,
# 36.42, 34.24, 32.68 dB); and lmbda times the coder's own error at high rate, where it is the same for every lmbda.
DENOISED, EXPONENT, CODED = 1.45e-5, 1.18, 2.16
NOISIEST = 55.0  # grey levels: up to where codecs of any rate are trained (`data/law`)
HIGHEST, LOWEST = 85.0, 20.0  # qualities that are chosen unasked


def lmbda_of(quality: float | Tensor) -> float | Tensor:
    return 64 * 2 ** (quality / 10)


def denoising_error(sigma: float | Tensor) -> float | Tensor:
    """MSE in [0, 1] units that is left after denoising at ``sigma`` grey levels, about."""
    return DENOISED * sigma**EXPONENT


def bend(sigma: float) -> float:
    """The quality where the rate curve bends at a noise level: the coder's error is as large as what denoising leaves,
    so more bits mostly code what is wrong anyway."""
    lmbda = CODED / denoising_error(max(sigma, 0.1))
    return min(max(10 * math.log2(lmbda / 64), LOWEST), HIGHEST)


def conditions_of(
    *, quality: Float[Tensor, "b"], noise: Float[Tensor, "b"], strength: Float[Tensor, "b"]
) -> Float[Tensor, "b 3"]:
    """As a file holds them: rounded to its units. Every operation is correctly rounded, so in float64 every machine
    computes the same bits."""
    quality, noise, strength = (
        (unit * x).round() for unit, x in ((10, quality), (16, noise.clamp(0, (2**16 - 1) / 16)), (100, strength))
    )
    return torch.stack([quality / 1000, compand(noise / 16) / OCTAVES, strength / 100], 1)


def request_conditions(request: Request) -> Float[Tensor, "1 3"]:
    """A file's header as float64."""
    quality, noise, strength = (
        torch.tensor([value / unit], dtype=torch.float64)
        for value, unit in ((request.quality, 10), (request.noise, 16), (request.strength, 100))
    )
    return conditions_of(quality=quality, noise=noise, strength=strength)
