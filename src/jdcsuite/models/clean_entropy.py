"""Noisy image, its lossless code length and sigma -> predicted bits per pixel of the clean image.

Clean-entropy network of FLLIC (Zhang and Wu, arXiv 2401.13616, 2024, section "entropy estimation"): U-Net
features, global average pool, then two fully connected layers over features, H(noisy) and sigma.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.types import Output, UserError

MAX_STAGES = 8  # each halves the size of its features


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class CleanEntropy(nn.Module):
    """``widths``: channels of the five encoder stages; the first keeps the size, each further one halves it.
    ``hidden``: width of the fully connected layer. ``lossless``: the coder that measures H(noisy) when an image is
    compressed, the same as in training. ``unit``: bits per pixel for a network output of 1.

    The paper states neither the pooling nor the widths after the first, 32. Global average pooling gives images of any
    size one estimate.
    """

    def __init__(
        self, *, widths: list[int], hidden: int = 64, lossless: Lossless | None = None, unit: float = 8.0
    ) -> None:
        super().__init__()
        checks.number("model.unit", unit, above=0)
        checks.whole("the number of model.widths", len(widths), least=1, most=MAX_STAGES)
        self.lossless, self.unit = lossless, unit
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(_two_convs(i, o) for i, o in zip(inputs, widths, strict=True))
        upper = list(reversed(widths))
        self.up = nn.ModuleList(_two_convs(a + b, b) for a, b in pairwise(upper))
        self.head = nn.Sequential(nn.Linear(widths[0] + widths[-1] + 2, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """``sigma`` in grey levels, ``bpp_noisy`` in bits per pixel; the result is ``h_hat`` in bits per pixel.
        UserError: one of them is missing."""
        if sigma is None or bpp_noisy is None:
            raise UserError("the clean-entropy network needs sigma and H(noisy): set data.lossless to a coder")
        multiple = 2 ** (len(self.down) - 1)
        x = F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode="replicate")
        skips: list[Tensor] = []
        for stage in self.down:
            x = stage(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        deepest = skips.pop()
        for stage in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skips.pop()], 1))
        features = torch.cat([x.mean((2, 3)), deepest.mean((2, 3))], 1).float()
        scalars = torch.stack([bpp_noisy / self.unit - 2, sigma / 10 - 1], 1)
        with torch.autocast(x.device.type, enabled=False):
            h = self.head(torch.cat([features, scalars.to(features)], 1)).squeeze(1)
        return Output(h_hat=self.unit * h)

    @torch.no_grad()
    def estimate(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None) -> Float[Tensor, "1"]:
        """Estimate for one image in bits per pixel; measures H(noisy) and, if it is None, sigma."""
        if self.lossless is None:
            raise UserError("these weights name no lossless coder to measure H(noisy): train with data.lossless")
        sigma = estimate_sigma(x[0]) if sigma is None else sigma
        bpp_noisy = x.new_tensor([self.lossless.bpp(to_bytes(x[0]))])
        return self(x, sigma=x.new_tensor([sigma]), bpp_noisy=bpp_noisy).h_hat


def analytic_entropy(
    noisy: Float[Tensor, "3 h w"], *, sigma: float, bpp_noisy: float, first_order: bool = False
) -> float:
    """H(clean) in bits per pixel by eq. (3) and (6) of FLLIC: H(noisy) minus half the log2 of (lambda + sigma^2) /
    lambda, summed over all 3hw eigenvalues lambda and divided by hw.

    ``sigma`` in grey levels. The eigenvalues are the noisy periodogram of each principal colour minus sigma^2, floored
    at 1/12, the variance of rounding. ``first_order``: eq. (7), with sigma^2 / lambda in place of the log, which
    assumes sigma^2 << lambda and so does not hold for images.
    """
    pixels = noisy.double() * 255
    height, width = pixels.shape[-2:]
    flat = pixels.flatten(1) - pixels.mean((1, 2))[:, None]
    _, colours = torch.linalg.eigh(flat @ flat.T)
    spectrum = torch.fft.fft2((colours.T @ flat).view(3, height, width)).abs() ** 2 / (height * width)
    eigenvalues = (spectrum - sigma**2).clamp(min=1 / 12)
    ratio = sigma**2 / eigenvalues
    bits = ratio / math.log(2) if first_order else torch.log2(1 + ratio)
    return bpp_noisy - 0.5 * float(bits.sum()) / (height * width)
