"""The noise that a network for every noise is trained with: its kind and level are drawn for each image."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from jdcsuite.data.camera import PARAMETERS, camera_noise
from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.pixels import quantized
from jdcsuite.types import UserError


class NoiseLaw:
    """Gaussian, Poisson-Gaussian and camera-like noise from none to strong, image by image.

    ``none``: share of images without noise; ``logarithmic``: of those whose level is drawn log-uniformly from
    ``lowest`` to ``highest`` grey levels; the rest is uniform from 0 to ``highest``. ``poisson``, ``camera``: shares
    of the kinds, the rest is white Gaussian; the kind is independent of the level. ``protocol``: as `GaussianNoise`'s.
    ``sigma``: of the test noise, which is Gaussian (nan: there is none).

    A batch is computed as a whole, without waiting for the device, and an image's noise depends on the draw and its own
    pixels alone. Levels are root mean squares before rounding and clipping.
    Camera noise, which costs most, stands only in the last places of a batch, as few as its share needs: what else is
    dealt by places must be shuffled.
    """

    def __init__(
        self,
        *,
        sigma: float = math.nan,
        protocol: str = "clip8",
        none: float = 0.15,
        logarithmic: float = 0.55,
        lowest: float = 1.5,
        highest: float = 55.0,
        poisson: float = 0.25,
        camera: float = 0.15,
    ) -> None:
        if protocol not in ("clip8", "float"):
            raise UserError(f"the noise law's protocol={protocol} is unknown: choose clip8 or float")
        if not 0 < lowest <= highest < math.inf:
            raise UserError(f"levels from {lowest} to {highest} are no range: give 0 < lowest <= highest")
        shares = {"none": none, "logarithmic": logarithmic, "poisson": poisson, "camera": camera}
        if bad := [name for name, share in shares.items() if not 0 <= share <= 1]:
            raise UserError(f"the noise law's {bad[0]}={shares[bad[0]]} is no share: give 0 to 1")
        for pair in (("none", "logarithmic"), ("poisson", "camera")):
            if sum(shares[name] for name in pair) > 1 + 1e-9:
                raise UserError(f"the noise law's {pair[0]} and {pair[1]} are together over 1: make one smaller")
        self._test = None if math.isnan(sigma) else GaussianNoise(sigma=sigma, protocol=protocol)
        self.sigma, self.kind = float(sigma), protocol
        self.none, self.logarithmic, self.lowest, self.highest = none, logarithmic, float(lowest), float(highest)
        self.poisson, self.camera = poisson, camera

    @property
    def protocol(self) -> str:
        return f"law to {self.highest:g} {self.kind}"

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        """Training noise, on the device of ``clean``."""
        chance, normal = draw.uniform(5 + PARAMETERS), draw.normal(*clean.shape[1:])
        level = _wide(self.levels(chance[:, 0], chance[:, 1]))
        is_poisson = chance[:, 3] * (1 - self.camera) < self.poisson
        noise = normal * _deviation(clean, level, shot=_wide(chance[:, 4] * is_poisson))
        # the smallest slice that holds them: their places are known on the CPU, their rows follow each other
        places = math.ceil(self.camera * draw.batch)
        first = min((row for row, place in enumerate(draw.places) if place >= draw.batch - places), default=len(clean))
        if first < len(clean):
            is_camera = (draw.place() >= draw.batch - places) & (chance[:, 2] * places < self.camera * draw.batch)
            developed = camera_noise(
                clean[first:], level=level[first:], normal=normal[first:], uniform=chance[first:, 5:]
            )
            chosen = torch.where(_wide(is_camera[first:]), developed, noise[first:])
            noise = torch.cat([noise[:first], chosen])
        noisy = clean + noise
        return quantized(noisy) if self.kind == "clip8" else noisy

    def levels(self, kind: Float[Tensor, "b"], u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Two uniform numbers an image -> the root mean square of its noise, 1 being white."""
        log_uniform = self.lowest * (self.highest / self.lowest) ** u
        level = torch.where(kind < self.none + self.logarithmic, log_uniform, self.highest * u)
        return torch.where(kind < self.none, torch.zeros_like(level), level) / 255

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise: Gaussian of ``sigma``, as `GaussianNoise.fixed` gives it."""
        if self._test is None:
            raise UserError("this noise law has no level for tests: give it sigma, as in sigma=10")
        return self._test.fixed(clean, seed=seed)


def _wide(x: Shaped[Tensor, "b"]) -> Shaped[Tensor, "b 1 1 1"]:
    return x[:, None, None, None]


def _deviation(
    clean: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b 1 1 1"], *, shot: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, "b 3 h w"]:
    """Deviation of each pixel: variance a x + b^2, a = ``shot`` level^2 / mean(x), b^2 = (1 - ``shot``) level^2,
    so that its mean over the image is level^2 (less in nearly black images, whose mean counts as .02).

    differs from Poisson-Gaussian noise: Gaussian of the same mean and variance, because how many random numbers
    `torch.poisson` takes depends on the pixels, and ranks would no longer draw the same.
    """
    mean = clean.mean((1, 2, 3), keepdim=True).clamp(min=0.02)
    return level * (shot * clean / mean + 1 - shot).sqrt()
