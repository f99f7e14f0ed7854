"""Quality, noise and strength -> the three numbers that an any-rate codec is conditioned on.

``quality`` 0 to 100 means lmbda = 64 * 2^(quality / 10), the weight of the MSE of images in [0, 1] against bits per
pixel. ``noise`` is a standard deviation in 8-bit grey levels. ``strength`` 1 removes the noise, 0 keeps it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jdcsuite.entropy.quantize import compand, expand
from jdcsuite.types import Request

QUALITY, NOISE, STRENGTH = range(3)  # columns of a tensor of conditions
OCTAVES = 6.0  # range of log2(1 + noise), which scales the condition to about 0 to 1
# MSE that denoising leaves at noise sigma is about DENOISED * sigma^EXPONENT: fitted to BM3D on Kodak24 at sigma 5 to
# 20 (40.21, 36.42, 34.24, 32.68 dB).
DENOISED, EXPONENT = 1.45e-5, 1.18
CODED = 2.16  # lmbda times the MSE of the coder itself at high rate, where it does not depend on lmbda
MAX_SIGMA = 55.0  # grey levels: the strongest noise that any-rate codecs are trained on (`data.law`)
MAX_DEFAULT, MIN_DEFAULT = 85.0, 20.0  # range of the default quality


def lmbda_of(quality: float | Tensor) -> float | Tensor:
    return 64 * 2 ** (quality / 10)


def denoising_error(sigma: float | Tensor) -> float | Tensor:
    """Approximate MSE, for images in [0, 1], that denoising leaves at ``sigma`` grey levels."""
    return DENOISED * sigma**EXPONENT


def default_quality(sigma: float) -> float:
    """The knee of the rate-distortion curve at a noise level in grey levels: there the error of the coder equals the
    error that denoising leaves, so that further bits mostly code that error."""
    lmbda = CODED / denoising_error(max(sigma, 0.1))
    return min(max(10 * math.log2(lmbda / 64), MIN_DEFAULT), MAX_DEFAULT)


def conditions_of(
    *, quality: Float[Tensor, "b"], noise: Float[Tensor, "b"], strength: Float[Tensor, "b"]
) -> Float[Tensor, "b 3"]:
    """Conditions rounded to the units of the file. All operations are correctly rounded, so that in float64 every
    machine computes the same bits."""
    quality, noise, strength = (
        (unit * x).round() for unit, x in ((10, quality), (16, noise.clamp(0, (2**16 - 1) / 16)), (100, strength))
    )
    return torch.stack([quality / 1000, compand(noise / 16) / OCTAVES, strength / 100], 1)


def removed_noise(conditions: Float[Tensor, "b 3"]) -> Float[Tensor, "b"]:
    """Standard deviation of the noise that the conditions ask to remove, on the scale where white is 1."""
    return expand(OCTAVES * conditions[:, NOISE]) * conditions[:, STRENGTH] / 255


def coding_error(conditions: Float[Tensor, "b 3"]) -> Float[Tensor, "b"]:
    """Standard deviation of the coder's own error at the quality of the conditions and high rate, on the scale where
    white is 1; at low rates it is lower."""
    return torch.sqrt(CODED / lmbda_of(100 * conditions[:, QUALITY]))


def request_conditions(request: Request) -> Float[Tensor, "1 3"]:
    """Conditions of the request in a header, float64."""
    quality, noise, strength = (
        torch.tensor([value / unit], dtype=torch.float64)
        for value, unit in ((request.quality, 10), (request.noise, 16), (request.strength, 100))
    )
    return conditions_of(quality=quality, noise=noise, strength=strength)
