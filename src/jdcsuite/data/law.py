"""Clean images -> images with noise of random kind and level: training noise for networks that serve every noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from jdcsuite import checks
from jdcsuite.data import recompression
from jdcsuite.data.camera import PARAMETERS, camera_noise
from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import PROTOCOLS, GaussianNoise
from jdcsuite.imaging.pixels import quantized
from jdcsuite.types import UserError

FINEST, COARSEST = 0.5, 10.0  # grey levels: range of JPEG's quantisation step, qualities of about 98 to 69


class NoiseLaw:
    """Gaussian, Poisson-Gaussian and camera-like noise from none to strong, drawn for each image.

    ``none``: share of images without noise; ``logarithmic``: share with levels log-uniform from ``lowest`` to
    ``highest`` grey levels; the rest is uniform from 0 to ``highest``. ``poisson``, ``camera``: shares of these kinds,
    the rest is white Gaussian; kind and level are independent. ``jpeg``: share of images that are coded by JPEG after
    that, at most .5: half of those with camera noise, and others. ``protocol``: as `GaussianNoise`'s. ``sigma``: of
    the test noise, which is Gaussian (nan: there is none).

    A batch is computed as a whole, without waiting for the device, and an image's noise depends on the draw and its own
    pixels only. Levels are root mean squares before JPEG, rounding and clipping. Camera noise and JPEG, the most
    expensive, are only in the last places of a batch, as few as their shares need: whatever else depends on the place
    must be shuffled.
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
        jpeg: float = 0.15,
    ) -> None:
        checks.choice("the noise law's protocol", protocol, PROTOCOLS)
        if not 0 < lowest <= highest < math.inf:
            raise UserError(f"levels from {lowest} to {highest} are no range: give 0 < lowest <= highest")
        shares = {"none": none, "logarithmic": logarithmic, "poisson": poisson, "camera": camera}
        for name, share in shares.items():
            checks.share(f"the noise law's {name}", share)
        checks.number("the noise law's jpeg", jpeg, least=0, most=0.5)
        for pair in (("none", "logarithmic"), ("poisson", "camera")):
            if sum(shares[name] for name in pair) > 1 + 1e-9:
                raise UserError(f"the noise law's {pair[0]} and {pair[1]} are together over 1: make one smaller")
        self._test = None if math.isnan(sigma) else GaussianNoise(sigma=sigma, protocol=protocol)
        self.sigma, self.kind = float(sigma), protocol
        self.none, self.logarithmic, self.lowest, self.highest = none, logarithmic, float(lowest), float(highest)
        self.poisson, self.camera, self.jpeg = poisson, camera, jpeg

    @property
    def protocol(self) -> str:
        return f"law to {self.highest:g} {self.kind}"

    def __call__(self, clean: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
        kind, logarithm, of_camera, of_poisson, shot, of_jpeg, coarse, halved, *parameters = draw.uniform(
            8 + PARAMETERS
        ).unbind(1)
        normal, level = draw.normal(*clean.shape[1:]), _wide(self.levels(kind, logarithm))
        is_poisson = of_poisson * (1 - self.camera) < self.poisson
        noise = normal * _deviation(clean, level, shot=_wide(shot * is_poisson))
        rows, is_camera = _last(draw, self.camera, self.camera, of_camera)
        if len(is_camera):
            uniform = torch.stack(parameters, 1)[rows]
            developed = camera_noise(clean[rows], level=level[rows], normal=normal[rows], uniform=uniform)
            noise[rows] = torch.where(_wide(is_camera), developed, noise[rows])
        noisy = self._stored(clean + noise)
        rows, is_jpeg = _last(draw, self.jpeg, 2 * self.jpeg, of_jpeg)
        if len(is_jpeg):
            step = FINEST * (COARSEST / FINEST) ** _wide(coarse[rows])
            compressed = self._stored(
                recompression.jpeg(noisy[rows].clamp(0, 1), step=step, halved=_wide(halved[rows]) < 0.5)
            )
            noisy[rows] = torch.where(_wide(is_jpeg), compressed, noisy[rows])
        return noisy

    def _stored(self, noisy: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return quantized(noisy) if self.kind == "clip8" else noisy

    def levels(self, kind: Float[Tensor, "b"], u: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """Two uniform numbers per image -> the root mean square of its noise, on a scale where white is 1."""
        log_uniform = self.lowest * (self.highest / self.lowest) ** u
        level = torch.where(kind < self.none + self.logarithmic, log_uniform, self.highest * u)
        return torch.where(kind < self.none, torch.zeros_like(level), level) / 255

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise: Gaussian of ``sigma``."""
        if self._test is None:
            raise UserError("this noise law has no level for tests: give it sigma, as in sigma=10")
        return self._test.fixed(clean, seed=seed)


def _last(draw: Draw, share: float, among: float, chance: Float[Tensor, "b"]) -> tuple[slice, Bool[Tensor, "n"]]:
    """Rows of this rank's images in the last places of a batch, as many as the share ``among`` needs, which is known on
    the CPU; and which of these images are chosen, ``share`` of all images."""
    places = math.ceil(among * draw.batch)
    first = min((row for row, place in enumerate(draw.places) if place >= draw.batch - places), default=len(draw))
    chosen = (draw.place() >= draw.batch - places) & (chance * places < share * draw.batch)
    return slice(first, len(draw)), chosen[first:]


def _wide(x: Shaped[Tensor, "b"]) -> Shaped[Tensor, "b 1 1 1"]:
    return x[:, None, None, None]


def _deviation(
    clean: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b 1 1 1"], *, shot: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, "b 3 h w"]:
    """Standard deviation of each pixel: variance a x + b^2 with a = ``shot`` level^2 / mean(x) and
    b^2 = (1 - ``shot``) level^2, so that its mean over the image is level^2 (less in nearly black images, whose mean is
    taken as .02).

    differs from Poisson-Gaussian noise: Gaussian of the same mean and variance, because how many random numbers
    `torch.poisson` takes depends on the pixels, and ranks would no longer draw the same.
    """
    mean = clean.mean((1, 2, 3), keepdim=True).clamp(min=0.02)
    return level * (shot * clean / mean + 1 - shot).sqrt()
