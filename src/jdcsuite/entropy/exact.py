"""Convolutional networks -> the same output bits on every machine, for the networks that predict probabilities.

If encoder and decoder disagree in the last bit of a probability the whole image is lost, and the summation order of
floating-point convolutions depends on device, threads and batch. In float64, the convolutions here round their input to
multiples of 2**-11 within +-512 and their weights to multiples of 2**-15. Every product is then a multiple of 2**-26,
and every sum of them below 2**27 is exact in any order. The operations between two convolutions are elementwise, and
IEEE arithmetic agrees on those everywhere.

The dtype of the input selects the arithmetic: float32 (training) is not rounded. Weights are stored unrounded and
rounded when used. The rounding has no measurable cost (`experiments/exact_file`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_UNITS, WEIGHT_UNITS = 2.0**11, 2.0**15  # units per 1
MAX_INPUT = 512.0  # inputs are clamped to +- this value
MAX_SUM = 2.0**53 / (INPUT_UNITS * WEIGHT_UNITS)  # below this magnitude, sums are exact


class _Exact:
    """Mixin of the exact convolutions, for classes of `torch.nn`."""

    _rounded: tuple[tuple, Tensor, Tensor | None] | None = None

    def _integers(self, x: Tensor) -> Tensor:
        """``x`` in units of 2**-11, as integer-valued float64."""
        return x.clamp(-MAX_INPUT, MAX_INPUT).mul_(INPUT_UNITS).round_()

    def _affine(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias in float64, before rounding."""
        return self.weight.detach().double(), None if self.bias is None else self.bias.detach().double()

    def _dyadic(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias in float64, scaled so that the output of a convolution of `_integers` is in natural units.
        Cached until the weights change, because rounding them takes as long as a convolution of a small image."""
        version = tuple((t._version, t.data_ptr()) for t in self.state_dict(keep_vars=True).values())
        if self._rounded is None or self._rounded[0] != version:
            weight, bias = self._affine()
            weight = torch.round(weight * WEIGHT_UNITS) / (INPUT_UNITS * WEIGHT_UNITS)
            bias = None if bias is None else torch.round(bias * INPUT_UNITS * WEIGHT_UNITS)
            self._rounded = (version, weight, None if bias is None else bias / (INPUT_UNITS * WEIGHT_UNITS))
        return self._rounded[1:]

    def largest(self) -> float:
        """Bound on the magnitude of any sum that this convolution can form, over all inputs."""
        outputs = 1 if isinstance(self, nn.ConvTranspose2d) else 0
        weight, bias = self._affine()
        weight = (weight.abs() + 1 / WEIGHT_UNITS).transpose(0, outputs).flatten(1).sum(1)
        return float((MAX_INPUT * weight + (0 if bias is None else bias.abs())).max())


class ExactConv2d(_Exact, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            return super().forward(x)
        a, (w, bias) = self._integers(x), self._dyadic()
        plain = self.stride == self.dilation == (1, 1) and self.padding_mode == "zeros"
        if plain and 1 < self.groups == self.in_channels == self.out_channels:
            return self._depthwise(a, w, bias)
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1:
            out = w.flatten(1) @ a.flatten(2)
            return (out if bias is None else out.add_(bias[:, None])).unflatten(2, a.shape[2:])
        return F.conv2d(a, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def part(
        self, x: Tensor, *, inputs: Tensor | None = None, outputs: Tensor | None = None, bias: bool = False
    ) -> Tensor:
        """Share of the channels ``inputs``, given by ``x`` (b, i, h, w) in float64, in the channels ``outputs`` of a
        1x1 convolution, which are vectors of channel numbers (None: all). The shares of all inputs, one of them with
        ``bias``, add up to the bits of the whole, because all sums are exact."""
        weight, offset = self._dyadic()
        weight, a = weight.flatten(1), self._integers(x).flatten(2)
        weight = weight if outputs is None else weight[outputs.to(weight.device)]
        weight = weight if inputs is None else weight[:, inputs.to(weight.device)]
        out = weight @ a
        if bias and offset is not None:
            out += (offset if outputs is None else offset[outputs.to(offset.device)])[:, None]
        return out.unflatten(2, x.shape[2:])

    def _depthwise(self, a: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        # multiply-adds, because PyTorch's float64 depthwise convolution loops over the channels on a CPU
        (kh, kw), (ph, pw) = self.kernel_size, self.padding
        a = F.pad(a, (pw, pw, ph, ph))
        height, width = a.shape[2] - kh + 1, a.shape[3] - kw + 1
        out = torch.zeros_like(a[..., :height, :width])
        for i in range(kh):
            for j in range(kw):
                out.addcmul_(a[..., i : i + height, j : j + width], w[:, 0, i, j, None, None])
        return out if bias is None else out.add_(bias[:, None, None])


class ExactConvTranspose2d(_Exact, nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            return super().forward(x)
        w, bias = self._dyadic()
        return F.conv_transpose2d(
            self._integers(x), w, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def make_exact(net: nn.Module) -> nn.Module:
    """Replaces every convolution of a third-party network by its exact form, in place; weights and names stay."""
    for module in net.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = ExactConv2d
        elif type(module) is nn.ConvTranspose2d:
            module.__class__ = ExactConvTranspose2d
    return net


def is_exact(net: nn.Module) -> bool:
    """Whether the network computes the same bits on every machine: every module with parameters of its own is an exact
    convolution, and with these weights no sum can exceed what float64 holds exactly."""
    weighted = [m for m in net.modules() if any(True for _ in m.parameters(recurse=False))]
    return all(isinstance(m, _Exact) and m.largest() < MAX_SUM for m in weighted)
