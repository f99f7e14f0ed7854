"""Noisy picture -> standard deviation of its noise, whatever its kind: the flagship's blind estimate.

A wavelet estimate takes noise to be white and reads a quarter of what developed pictures have; this one learns from the
noises that the codec is trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.models.layers import conv1x1, conv3x3

UNIT = 16.0  # grey levels


class NoiseLevel(nn.Module):
    """Root mean square of noisy - clean in 8-bit grey levels, for pictures of any size in [0, 1].

    Every place gives an estimate and how far to trust it; the picture's is their mean so weighted, as noise shows best
    where the picture is flat. A place's estimate grows as the noise does, as convolutions and their activations do by
    themselves: when they gave its logarithm, a short training read 150 for noise of 50. The mean is of log2(1 + sigma).
    """

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.PixelUnshuffle(2),
            conv3x3(12, width), nn.LeakyReLU(0.1),
            conv3x3(width, width), nn.LeakyReLU(0.1),
            conv3x3(width, width, stride=2), nn.LeakyReLU(0.1),
            conv1x1(width, 2),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            # 16 grey levels are 1 here, so that noise is of order 1
            level, trust = self.net((x.float() - 0.5) * (255 / UNIT)).flatten(2).unbind(1)
            octaves = torch.log2(1 + UNIT * F.softplus(level))
            return torch.exp2((octaves * trust.softmax(1)).sum(1)) - 1
