"""Feature maps -> feature maps: building blocks of the codecs.

The residual and depth-conv blocks are those of EVC (Wang et al., ICLR 2023, fig. 2), on which FLLIC (Zhang and Wu,
2024, fig. 3) builds; implemented from the papers' descriptions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.entropy.exact import ExactConv2d

STRIP = 2**21  # elements of a hidden map per strip: larger ones leave the caches and pay for every new page


def conv3x3(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def exact1x1(inputs: int, outputs: int) -> nn.Conv2d:
    return ExactConv2d(inputs, outputs, 1)


def subpixel(inputs: int, outputs: int, *, exact: bool = False) -> nn.Sequential:
    """1x1 convolution and pixel shuffle: doubles height and width."""
    point = exact1x1 if exact else conv1x1
    return nn.Sequential(point(inputs, 4 * outputs), nn.PixelShuffle(2))


def add(branch: Tensor, x: Tensor) -> Tensor:
    """``branch`` + ``x``, in place of ``branch`` if gradients are disabled."""
    return branch + x if torch.is_grad_enabled() or branch.dtype != x.dtype else branch.add_(x)


class ResidualDown(nn.Module):
    """Halves height and width: conv3x3 stride 2, conv3x3, with a strided skip.

    differs from EVC: the skip is 2x2 with stride 2 instead of 1x1, because a strided 1x1 drops three pixels of four. It
    mirrors the sub-pixel skip of the synthesis, and both can be initialised as one orthonormal transform.
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
        return add(self.body(x), self.skip(x))


class ResidualUp(nn.Module):
    """Doubles height and width: sub-pixel conv1x1, conv3x3, with a sub-pixel skip."""

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
        return add(self.body(x), self.skip(x))


class DepthConv(nn.Module):
    """Two residual halves in sequence: depthwise-separable convolution, then pointwise feed-forward.

    ``prior``: the variant of EVC's prior networks, without activation after the depthwise and the second 1x1
    convolution, with a feed-forward width of max(min(4c, 1024), 2c) and a leaky slope of .1. Its convolutions are exact
    in float64 (`entropy.exact`).
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
        x = add(self.spatial(x), self.skip(x))
        return add(self.pointwise(x), x)

    def _in_strips(self, x: Tensor) -> Tensor:
        """Computes everything after the depthwise convolution for a strip of pixels at a time, in place. For whole
        maps, above all the hidden one, a CPU spends more time on memory than on arithmetic."""
        depth = self.spatial[:3](x).contiguous(memory_format=torch.channels_last)
        strip = max(1, STRIP // self.pointwise[0].out_channels)
        outputs, inputs = (t.permute(0, 2, 3, 1).view(-1, t.shape[1]).split(strip) for t in (depth, x))
        for output, pixels in zip(outputs, inputs, strict=True):
            spatial = _by_pixel(self.spatial[3:], output).add_(pixels)
            output.copy_(_by_pixel(self.pointwise, spatial).add_(spatial))
        return depth


def _by_pixel(layers: nn.Sequential, pixels: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
    """1x1 convolutions and activations on a list of pixels, as matrix products."""
    for layer in layers:
        pixels = (
            F.linear(pixels, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else layer(pixels)
        )
    return pixels


class Float32(nn.Module):
    """Runs ``module`` in float32 under autocast, because bf16 spaces values above 256 by 2. Float64 stays float64."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.module(x if x.dtype == torch.float64 else x.float())
