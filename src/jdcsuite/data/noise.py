"""Clean images -> noisy images, reproducible on every rank, worker and machine.

Test noise depends on the clean pixels, the noise level and a noise seed only. Training noise depends on the run's seed
and the sample's number (`data.draw`), not on how samples are distributed over ranks and workers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite import checks
from jdcsuite.data.draw import Draw
from jdcsuite.imaging.pixels import quantized, to_tensor
from jdcsuite.types import UserError

PROTOCOLS = ("clip8", "float")  # noisy images rounded and clipped to 8 bits, or as drawn


@runtime_checkable
class Noise(Protocol):
    """Noise that is added to clean images."""

    sigma: float  # standard deviation in 8-bit grey levels, nan if there is no single one

    @property
    def protocol(self) -> str:
        """The noise's name in results."""

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        """Training noise, computed on the device of ``clean``."""

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise: the same for the same pixels and seed."""


@dataclass(frozen=True)
class Recorded:
    """Noise that the images already have. ``protocol``: its name in results."""

    protocol: str
    sigma: float = math.nan


class GaussianNoise:
    """Additive white Gaussian noise of standard deviation ``sigma`` (8-bit grey levels, 0 and above).

    ``protocol``: ``clip8`` rounds and clips the noisy image to 8 bits, as in a file (default); ``float`` leaves it as
    drawn, as denoising papers do. Clipping lowers the measured deviation (19.5 at sigma 20).
    """

    def __init__(self, *, sigma: float, protocol: str = "clip8") -> None:
        checks.noise_level(sigma)
        self.sigma = float(sigma)
        self.protocol = checks.choice("data.noise.protocol", protocol, PROTOCOLS)

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        return self._finish(clean + draw.normal(*clean.shape[1:]) * (self.sigma / 255))

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        random = _random_of(clean, f"{self.sigma:g} {seed}")
        return self._finish(to_tensor(clean + self.sigma * random.standard_normal(clean.shape)))

    def _finish(self, noisy: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return quantized(noisy) if self.protocol == "clip8" else noisy


class PoissonGaussian:
    """Signal-dependent noise of a sensor: clip(a Poisson(x / a) + N(0, b^2)) to [0, 1], for x in [0, 1].

    ``a``: variance per unit of signal, ``b``: standard deviation of the read-out noise (Testolina et al., SPIE 2021, as
    described by JDC: a = b = .04). A range such as [.001, .1] is sampled log-uniformly for each image. ``protocol``:
    as `GaussianNoise`'s. ``sigma`` is nan, because this noise has no single standard deviation.
    """

    sigma = math.nan

    def __init__(
        self, *, a: float | list[float] = 0.04, b: float | list[float] = 0.04, protocol: str = "clip8"
    ) -> None:
        self.a, self.b = (_range(f"data.noise.{name}", value) for name, value in {"a": a, "b": b}.items())
        self.kind = checks.choice("data.noise.protocol", protocol, PROTOCOLS)

    @property
    def protocol(self) -> str:
        return f"poisson-gaussian {self.kind}"

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        # image by image, because how many random numbers Poisson noise takes depends on the pixels
        return torch.stack([self._noisy(x, seed) for x, seed in zip(clean, draw.seeds, strict=True)])

    def _noisy(self, clean: Float[Tensor, "3 h w"], seed: int) -> Float[Tensor, "3 h w"]:
        a, b = self._level(np.random.RandomState(seed % 2**32))
        generator = torch.Generator(clean.device).manual_seed(seed)
        signal = torch.poisson(clean / a, generator=generator) * a
        return self._finish(signal + b * torch.randn(clean.shape, generator=generator, device=clean.device))

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        random = _random_of(clean, f"{self.a} {self.b} {seed}")
        a, b = self._level(random)
        noisy = a * random.poisson(clean / 255 / a) + b * random.standard_normal(clean.shape)
        return self._finish(to_tensor(noisy * 255))

    def _level(self, random: np.random.RandomState) -> tuple[float, float]:
        return tuple(low * (high / low) ** random.random_sample() for low, high in (self.a, self.b))

    def _finish(self, noisy: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return quantized(noisy) if self.kind == "clip8" else noisy.clamp(0, 1)


def _random_of(clean: UInt8[np.ndarray, "h w 3"], settings: str) -> np.random.RandomState:
    """A generator seeded by the SHA-256 of the pixels, their shape and ``settings``; RandomState, because its numbers
    are guaranteed not to change between versions of numpy."""
    digest = hashlib.sha256(np.ascontiguousarray(clean).tobytes())
    digest.update(f"{clean.shape} {settings}".encode())
    return np.random.RandomState(np.frombuffer(digest.digest(), dtype="<u4"))


def _range(name: str, value: float | list[float]) -> tuple[float, float]:
    low, high = value if isinstance(value, list) and len(value) == 2 else (value, value)
    if not (checks.is_number(low) and checks.is_number(high) and 0 < low <= high):
        raise UserError(f"{name}={value} is no noise level: give a number above 0, or [low, high]")
    return float(low), float(high)
