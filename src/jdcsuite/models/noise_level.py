"""Noisy image -> standard deviation of its noise of any kind: the blind estimate of the flagship.

A wavelet estimate assumes white noise and returns a quarter of the noise level of developed photographs; these networks
learn from the noise that the codec is trained on. The result is in 8-bit grey levels, for images of any size in [0, 1]:
the root mean square of noisy - clean. Every position gives an estimate and a confidence, because noise is most visible
where the image is flat; the result is the confidence-weighted mean on a logarithmic scale.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.imaging.dct import block_dct
from jdcsuite.models.layers import conv1x1, conv3x3

UNIT = 16.0  # grey levels
BLOCK = 16  # pixels
BANDS = (1, 3, 6, 10, 14, 18, 22, 31)  # limits of row + column; the mean of a block (0) is image content


class RepeatedBorder(nn.Conv2d):
    """3x3 convolution of an image extended by repeating its border. Concatenated, because the compiler of torch 2.11
    and 2.15 expects another layout of the gradient of `F.pad` than it gets."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        for axis in (2, 3):
            x = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, x.shape[axis] - 1, 1)], axis)
        return super().forward(x)


class BandLevel(nn.Module):
    """A network on the energies of the DCT bands of 16x16 blocks, by which white noise, the coarse grain of developed
    photographs, what JPEG left of it, and texture differ.

    On a logarithmic scale noises of one kind have the same features but for a constant, from which the estimate starts,
    so a minute of training is enough (`experiments/flagship`). A block sees its neighbours. Sides that are smaller than
    a block are extended by repeating the border.
    """

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        features = 3 * (len(BANDS) - 1)
        self.net = nn.Sequential(
            conv1x1(features, width), nn.LeakyReLU(0.1),
            RepeatedBorder(width, width, 3), nn.LeakyReLU(0.1),
            conv1x1(width, width), nn.LeakyReLU(0.1),
            conv1x1(width, 2),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        with torch.autocast(x.device.type, enabled=False):
            octaves = band_octaves(x.float())
            correction, confidence = self.net(octaves / 2).flatten(2).unbind(1)
            octaves = octaves[:, len(BANDS) // 2].flatten(1) + correction
            return torch.exp2((octaves * confidence.softmax(1)).sum(1))


def band_octaves(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f i j"]:
    """Half of log2 of the mean energy in each band of each block, of luminance and two colour differences: log2 of the
    standard deviation in grey levels, for white noise. Energies below .1 are those of rounding."""
    height, width = x.shape[-2:]
    # whole blocks only, if there is one: a border that is repeated has less noise
    missing = [max(0, BLOCK - side) for side in (width, height)]
    x = F.pad(255 * x, (0, missing[0], 0, missing[1]), mode="replicate")
    x = x[..., : x.shape[-2] // BLOCK * BLOCK, : x.shape[-1] // BLOCK * BLOCK]
    red, green, blue = x.split(1, 1)
    colours = [(red + green + blue) / 3**0.5, (red - blue) / 2**0.5, (red - 2 * green + blue) / 6**0.5]
    energies = block_dct(torch.cat(colours, 1), BLOCK).square()
    k = torch.arange(BLOCK, device=x.device)
    order = k[:, None] + k
    bands = torch.stack([(low <= order) & (order < high) for low, high in pairwise(BANDS)]).float()
    means = torch.einsum("bcikjl,nkl->bcnij", energies, bands / bands.sum((1, 2), keepdim=True))
    return torch.log2(0.1 + means).flatten(1, 2) / 2


class ConvolutionLevel(nn.Module):
    """The estimate of the first weights, kept to read them. The estimate of a position is a level, not its logarithm,
    because it then grows with the noise as convolutions and their activations do."""

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


ESTIMATES = {"bands": BandLevel, "convolutions": ConvolutionLevel}
