"""Feature maps -> feature maps: the blocks that the codecs are wired from.

The residual and depth-conv blocks are EVC's (Wang et al., ICLR 2023, fig. 2), which FLLIC (Zhang & Wu, 2024,
fig. 3) builds on; written from their description.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jdcsuite.models.exact import ExactConv2d


def conv3x3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def exact1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return ExactConv2d(inputs, outputs, 1)


def subpixel(inputs: int, outputs: int, *, exact: bool = False) -> nn.Sequential:
    """1x1 convolution and pixel shuffle: twice the height and width."""
    point = exact1x1 if exact else conv1x1
    return nn.Sequential(point(inputs, 4 * outputs), nn.PixelShuffle(2))


class ResidualDown(nn.Module):
    """Half the height and width: conv3x3 stride 2, conv3x3, with a strided skip.

    differs from EVC: the skip is 2x2 with stride 2, not 1x1, because a strided 1x1 drops three pixels of four;
    so it mirrors the sub-pixel skip of the synthesis, and both can start as one orthonormal transform.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride=2),
            nn.LeakyReLU(0.01),
            conv3x3(outputs, outputs),
            nn.LeakyReLU(0.1),
        )
        self.skip = nn.Conv2d(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class ResidualUp(nn.Module):
    """Twice the height and width: sub-pixel conv1x1, conv3x3, with a sub-pixel skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            subpixel(inputs, outputs), nn.LeakyReLU(0.01), conv3x3(outputs, outputs), nn.LeakyReLU(0.1)
        )
        self.skip = subpixel(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class DepthConv(nn.Module):
    """Two cascaded residual halves: a depthwise-separable one and a pointwise feed-forward one.

    ``prior``: the form that EVC's prior networks use: no activation after the depthwise and second 1x1
    convolution, a feed-forward width of max(min(4c, 1024), 2c) and a leaky slope of .1; its convolutions are exact
    in float64 (`models/exact`).
    """

    def __init__(self, inputs: int, outputs: int, *, prior: bool = False) -> None:
        super().__init__()
        point, conv = (exact1x1, ExactConv2d) if prior else (conv1x1, nn.Conv2d)
        spatial: list[nn.Module] = [point(inputs, inputs), nn.LeakyReLU(0.01)]
        spatial += [conv(inputs, inputs, 3, padding=1, groups=inputs)]
        spatial += [] if prior else [nn.LeakyReLU(0.01)]
        spatial += [point(inputs, outputs)]
        spatial += [] if prior else [nn.LeakyReLU(0.01)]
        self.spatial = nn.Sequential(*spatial)
        self.skip = point(inputs, outputs) if inputs != outputs else nn.Identity()
        hidden = max(min(4 * outputs, 1024), 2 * outputs) if prior else 4 * outputs
        act = nn.LeakyReLU(0.1) if prior else nn.ReLU()
        act_out = nn.LeakyReLU(0.1) if prior else nn.ReLU()
        self.pointwise = nn.Sequential(point(outputs, hidden), act, point(hidden, outputs), act_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spatial(x) + self.skip(x)
        return self.pointwise(x) + x


class Float32(nn.Module):
    """``module`` in float32 whatever the autocast: bf16 spaces values above 256 by 2. Float64 stays what it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x if x.dtype == torch.float64 else x.float())
