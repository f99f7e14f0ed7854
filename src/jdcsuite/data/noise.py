"""Clean pictures -> noisy pictures: drawn from a seed, the same on every rank, worker and machine.

Test noise is a function of the clean pixels, sigma and a noise seed. Training noise is a function of a seed that
belongs to the sample, so it does not depend on how samples are dealt to ranks and workers.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from kornia.augmentation import RandomGaussianNoise
from torch import Tensor

from jdcsuite.types import UserError


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
        self._add = RandomGaussianNoise(p=1.0)

    def __call__(self, clean: Float[Tensor, "b 3 h w"], seeds: list[int]) -> Float[Tensor, "b 3 h w"]:
        """Training noise, on the device of ``clean``: image i from its own generator, seeded by ``seeds[i]``."""
        shape = clean.shape[1:]
        draws = [
            torch.randn(shape, generator=torch.Generator(clean.device).manual_seed(s), device=clean.device)
            for s in seeds
        ]
        noise = torch.stack(draws) * (self.sigma / 255)
        size = torch.tensor(clean.shape)
        params = {"gaussian_noise": noise, "batch_prob": torch.ones(len(seeds)), "forward_input_shape": size}
        return self.protocolled(self._add(clean, params=params))

    def fixed(self, clean: UInt8[np.ndarray, "h w 3"], *, seed: int) -> Float[Tensor, "3 h w"]:
        """Test noise = f(SHA-256 of the clean pixels and their shape, sigma, seed), through numpy's RandomState."""
        digest = hashlib.sha256(np.ascontiguousarray(clean).tobytes())
        digest.update(f"{clean.shape} {self.sigma:g} {seed}".encode())
        random = np.random.RandomState(np.frombuffer(digest.digest(), dtype="<u4"))
        noisy = clean + self.sigma * random.standard_normal(clean.shape)
        return self.protocolled(to_tensor(noisy))

    def protocolled(self, noisy: Tensor) -> Tensor:
        return (noisy * 255).round().clamp(0, 255) / 255 if self.protocol == "clip8" else noisy


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """(h, w, 3) in [0, 255] -> (3, h, w) float32 in [0, 1], contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def to_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """[0, 1] -> the nearest 8-bit picture."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def estimate_sigma(noisy: Float[Tensor, "3 h w"]) -> float:
    """Blind estimate of white noise in grey levels: the median absolute deviation of the finest diagonal wavelet
    band over .6745 (Donoho and Johnstone, 1994), mean of the three channels. 0 for pictures under 4 pixels."""
    from skimage.restoration import estimate_sigma as estimate

    if min(noisy.shape[-2:]) < 4:
        return 0.0
    return float(estimate(noisy.cpu().numpy() * 255, channel_axis=0, average_sigmas=True))
