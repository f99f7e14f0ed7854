"""Noisy image -> standard deviation of its noise of any kind: the blind estimate of the flagship.

A wavelet estimate assumes white noise and returns a quarter of the noise level of developed photographs; this network
learns from the noise that the codec is trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.models.layers import conv1x1, conv3x3

UNIT = 16.0  # grey levels


class NoiseLevel(nn.Module):
    """Root mean square of noisy - clean in 8-bit grey levels, for images of any size in [0, 1].

    Every position gives an estimate and a confidence, because noise is most visible where the image is flat; the result
    is the confidence-weighted mean of log2(1 + sigma). The estimate of a position is a level, not its logarithm,
    because it then grows with the noise as convolutions and their activations do: with logarithms, a short training
    estimated 150 for noise of 50.
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
            # in units of 16 grey levels, so that noise is of order 1
            level, confidence = self.net((x.float() - 0.5) * (255 / UNIT)).flatten(2).unbind(1)
            octaves = torch.log2(1 + UNIT * F.softplus(level))
            return torch.exp2((octaves * confidence.softmax(1)).sum(1)) - 1
