"""Clean pictures -> noisy pictures: drawn from a seed, the same on every rank, worker and machine.

Test noise is a function of the clean pixels, sigma and a noise seed. Training noise is a function of the run's seed
and the sample's number (`data/draw`), so it does not depend on how samples are dealt to ranks and workers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pywt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.data.draw import Draw
from jdcsuite.types import UserError


@runtime_checkable
class Noise(Protocol):
    """What a datamodule asks of a noise."""

    sigma: float  # grey levels, nan where there is no one number

    @property
    def protocol(self) -> str: ...

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]: ...

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]: ...


@dataclass(frozen=True)
class Recorded:
    """Noise that came with the pictures, or was put into them once: nothing is drawn. ``protocol``: what the rows
    say of it."""

    protocol: str
    sigma: float = math.nan


class GaussianNoise:
    """Additive white Gaussian noise of standard deviation ``sigma`` (8-bit grey levels, 0 and above).

    ``protocol``: ``clip8`` rounds and clips the noisy picture to 8 bits, as a camera file is (default); ``float``
    leaves it as drawn, as denoising papers do. Clipping lowers the measured deviation (19.5 at sigma 20).
    """

    def __init__(self, *, sigma: float, protocol: str = "clip8") -> None:
        if not 0 <= sigma < math.inf:
            raise UserError(f"sigma={sigma} is not a noise level: give grey levels of 0 or more, as in sigma=10")
        if protocol not in ("clip8", "float"):
            raise UserError(f"data.noise.protocol={protocol} is unknown: choose clip8 or float")
        self.sigma, self.protocol = float(sigma), protocol

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        """Training noise, on the device of ``clean``."""
        return self.protocolled(clean + draw.normal(*clean.shape[1:]) * (self.sigma / 255))

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise = f(SHA-256 of the clean pixels and their shape, sigma, seed), through numpy's RandomState."""
        digest = hashlib.sha256(np.ascontiguousarray(clean).tobytes())
        digest.update(f"{clean.shape} {self.sigma:g} {seed}".encode())
        random = np.random.RandomState(np.frombuffer(digest.digest(), dtype="<u4"))
        noisy = clean + self.sigma * random.standard_normal(clean.shape)
        return self.protocolled(to_tensor(noisy))

    def protocolled(self, noisy: Tensor) -> Tensor:
        return (noisy * 255).round().clamp(0, 255) / 255 if self.protocol == "clip8" else noisy


class PoissonGaussian:
    """Signal-dependent noise of a sensor: clip(a Poisson(x / a) + N(0, b^2)) to [0, 1].

    ``a``: variance for each unit of signal, ``b``: standard deviation of the read-out, pictures being in [0, 1]
    (Testolina et al., SPIE 2021, as JDC describes it: a = b = .04). A range, as [.001, .1], is drawn from
    log-uniformly, an image at a time. ``protocol``: as `GaussianNoise`'s.
    ``sigma`` is nan: this noise has no one standard deviation.
    """

    sigma = math.nan

    def __init__(
        self, *, a: float | list[float] = 0.04, b: float | list[float] = 0.04, protocol: str = "clip8"
    ) -> None:
        if protocol not in ("clip8", "float"):
            raise UserError(f"data.noise.protocol={protocol} is unknown: choose clip8 or float")
        self.a, self.b = (_range(value, name) for name, value in {"a": a, "b": b}.items())
        self.kind, self.rounds = protocol, protocol == "clip8"

    @property
    def protocol(self) -> str:
        return f"poisson-gaussian {self.kind}"

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        """Training noise, on the device of ``clean``: image by image, because Poisson noise depends on its pixels."""
        return torch.stack([self._one(x, seed) for x, seed in zip(clean, draw.seeds, strict=True)])

    def _one(self, clean: Tensor, seed: int) -> Tensor:
        a, b = self._level(np.random.RandomState(seed % 2**32))
        generator = torch.Generator(clean.device).manual_seed(seed)
        signal = torch.poisson(clean / a, generator=generator) * a
        return self._clipped(signal + b * torch.randn(clean.shape, generator=generator, device=clean.device))

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise = f(SHA-256 of the clean pixels and their shape, a, b, seed), through numpy's RandomState."""
        digest = hashlib.sha256(np.ascontiguousarray(clean).tobytes())
        digest.update(f"{clean.shape} {self.a} {self.b} {seed}".encode())
        random = np.random.RandomState(np.frombuffer(digest.digest(), dtype="<u4"))
        a, b = self._level(random)
        noisy = a * random.poisson(clean / 255 / a) + b * random.standard_normal(clean.shape)
        return self._clipped(to_tensor(noisy * 255))

    def _level(self, random: np.random.RandomState) -> tuple[float, float]:
        return tuple(low * (high / low) ** random.random_sample() for low, high in (self.a, self.b))

    def _clipped(self, noisy: Tensor) -> Tensor:
        noisy = noisy.clamp(0, 1)
        return (noisy * 255).round() / 255 if self.rounds else noisy


def _range(value: float | list[float], name: str) -> tuple[float, float]:
    low, high = value if isinstance(value, list) else (value, value)
    if not 0 < low <= high < math.inf:
        raise UserError(f"data.noise.{name}={value} is no noise level: give a number above 0, or [low, high]")
    return float(low), float(high)


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """(h, w, 3) in [0, 255] -> (3, h, w) float32 in [0, 1], contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def to_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] -> the nearest 8-bit picture."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def estimate_sigma(noisy: Float[Tensor, "3 h w"]) -> float:
    """Blind estimate of white noise in grey levels: the median absolute deviation of the finest diagonal wavelet
    band over .6745 (Donoho and Johnstone, 1994), mean of the three channels. 0 for pictures under 4 pixels."""
    return float(np.mean([white_deviation(plane) for plane in noisy.cpu().numpy() * 255]))


def white_deviation(plane: Float[np.ndarray, "h w"]) -> float:
    """`estimate_sigma` of one channel, in its own unit. Details of exactly 0 are taken for masked or clipped parts, as
    scikit-image takes them; 0 where there are no others."""
    if min(plane.shape) < 4:
        return 0.0
    details = pywt.dwt2(plane, "db2")[1][2]
    details = np.abs(details[details != 0])
    return float(np.median(details)) / 0.6744897501960817 if details.size else 0.0
