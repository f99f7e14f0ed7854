"""Feature maps -> feature maps: the blocks that the codecs are wired from.

The residual and depth-conv blocks are EVC's (Wang et al., ICLR 2023, fig. 2), which FLLIC (Zhang & Wu, 2024,
fig. 3) builds on; written from their description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.entropy.exact import ExactConv2d

STRIP = 2**21  # elements of a hidden map that are held at once: larger ones leave the caches, and every new page costs


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


def added(made: Tensor, x: Tensor) -> Tensor:
    """``made`` + ``x``; without gradients in place of ``made``, which nothing else may need."""
    return made + x if torch.is_grad_enabled() or made.dtype != x.dtype else made.add_(x)


class ResidualDown(nn.Module):
    """Half the height and width: conv3x3 stride 2, conv3x3, with a strided skip.

    differs from EVC: the skip is 2x2 with stride 2, not 1x1, because a strided 1x1 drops three pixels of four;
    so it mirrors the sub-pixel skip of the synthesis, and both can start as one orthonormal transform.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride=2),
            nn.LeakyReLU(0.01, inplace=True),
            conv3x3(outputs, outputs),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.skip = nn.Conv2d(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return added(self.body(x), self.skip(x))


class ResidualUp(nn.Module):
    """Twice the height and width: sub-pixel conv1x1, conv3x3, with a sub-pixel skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            subpixel(inputs, outputs),
            nn.LeakyReLU(0.01, inplace=True),
            conv3x3(outputs, outputs),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.skip = subpixel(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return added(self.body(x), self.skip(x))


class DepthConv(nn.Module):
    """Two cascaded residual halves: a depthwise-separable one and a pointwise feed-forward one.

    ``prior``: the form that EVC's prior networks use: no activation after the depthwise and second 1x1
    convolution, a feed-forward width of max(min(4c, 1024), 2c) and a leaky slope of .1; its convolutions are exact
    in float64 (`models/exact`).
    """

    def __init__(self, inputs: int, outputs: int, *, prior: bool = False) -> None:
        super().__init__()
        point, conv = (exact1x1, ExactConv2d) if prior else (conv1x1, nn.Conv2d)
        spatial: list[nn.Module] = [point(inputs, inputs), nn.LeakyReLU(0.01, inplace=True)]
        spatial += [conv(inputs, inputs, 3, padding=1, groups=inputs)]
        spatial += [] if prior else [nn.LeakyReLU(0.01, inplace=True)]
        spatial += [point(inputs, outputs)]
        spatial += [] if prior else [nn.LeakyReLU(0.01, inplace=True)]
        self.spatial = nn.Sequential(*spatial)
        self.skip = point(inputs, outputs) if inputs != outputs else nn.Identity()
        hidden = max(min(4 * outputs, 1024), 2 * outputs) if prior else 4 * outputs
        act = nn.LeakyReLU(0.1, inplace=True) if prior else nn.ReLU(inplace=True)
        act_out = nn.LeakyReLU(0.1, inplace=True) if prior else nn.ReLU(inplace=True)
        self.pointwise = nn.Sequential(point(outputs, hidden), act, point(hidden, outputs), act_out)

    def forward(self, x: Tensor) -> Tensor:
        cpu_inference = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if cpu_inference and x.is_contiguous(memory_format=torch.channels_last) and isinstance(self.skip, nn.Identity):
            return self._in_strips(x)
        x = added(self.spatial(x), self.skip(x))
        return added(self.pointwise(x), x)

    def _in_strips(self, x: Tensor) -> Tensor:
        """All that follows the depthwise convolution for some pixels at a time, in its place. A CPU spends more on the
        memory of whole maps, the hidden one above all, than on their values."""
        depth = self.spatial[:3](x).contiguous(memory_format=torch.channels_last)
        strip = max(1, STRIP // self.pointwise[0].out_channels)
        places, pixels = (t.permute(0, 2, 3, 1).view(-1, t.shape[1]).split(strip) for t in (depth, x))
        for place, some in zip(places, pixels, strict=True):
            some = _by_pixel(self.spatial[3:], place).add_(some)
            place.copy_(_by_pixel(self.pointwise, some).add_(some))
        return depth


def _by_pixel(layers: nn.Sequential, pixels: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
    """1x1 convolutions and activations on pixels that lie side by side, as matrix products."""
    for layer in layers:
        pixels = (
            F.linear(pixels, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else layer(pixels)
        )
    return pixels


class Float32(nn.Module):
    """``module`` in float32 whatever the autocast: bf16 spaces values above 256 by 2. Float64 stays what it is."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x if x.dtype == torch.float64 else x.float())
