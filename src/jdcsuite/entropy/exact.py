"""A network between bits and symbols, computed so that every machine gets the same numbers.

An encoder and a decoder that disagree in the last bit of a probability lose the whole picture, and floating-point
convolutions sum in an order that depends on device, threads and batch. Here the summands are integers: in float64, a
convolution rounds its input to multiples of 2**-11 within +-512 and its weights to multiples of 2**-15, so every
product is a multiple of 2**-26 and every sum of them below 2**27 is exact, whatever its order. What stands between
two convolutions works on single elements, where IEEE arithmetic agrees everywhere.

The arithmetic is chosen by the input's dtype: float32 (training) computes as usual. Weights are rounded when used,
never stored rounded. Rounding costs nothing that can be seen (`experiments/exact_file`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT, WEIGHT = 2.0**11, 2.0**15  # units in one
REACH = 512.0  # of an input
LARGEST = 2.0**53 / (INPUT * WEIGHT)  # of a sum


class _Exact:
    """What the exact convolutions share; mixed into a class of `torch.nn`."""

    _rounded: tuple[tuple, Tensor, Tensor | None] | None = None

    def _integers(self, x: Tensor) -> Tensor:
        """The input in units of 2**-11, as integer-valued float64."""
        return x.clamp(-REACH, REACH).mul_(INPUT).round_()

    def _dyadic(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias, float64: their product with an input of `_integers` is a multiple of 2**-26. Kept until
        the weights change: rounding them takes as long as a convolution of a small picture."""
        said = tuple((p._version, p.data_ptr()) for p in (self.weight, self.bias) if p is not None)
        if self._rounded is None or self._rounded[0] != said:
            weight = torch.round(self.weight.detach().double() * WEIGHT) / (INPUT * WEIGHT)
            bias = None if self.bias is None else torch.round(self.bias.detach().double() * INPUT * WEIGHT)
            self._rounded = (said, weight, None if bias is None else bias / (INPUT * WEIGHT))
        return self._rounded[1:]

    def largest(self) -> float:
        """Bound on the magnitude of a sum that this convolution can form, over all inputs."""
        outputs = 1 if isinstance(self, nn.ConvTranspose2d) else 0
        weight = (self.weight.detach().double().abs() + 1 / WEIGHT).transpose(0, outputs).flatten(1).sum(1)
        bias = 0 if self.bias is None else self.bias.detach().double().abs()
        return float((REACH * weight + bias).max())


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

    def _depthwise(self, a: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        # as multiply-adds: PyTorch's own float64 form takes the channels one at a time on a CPU
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
    """Gives every convolution of a network from elsewhere its exact form, in place: same weights, same names."""
    for module in net.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = ExactConv2d
        elif type(module) is nn.ConvTranspose2d:
            module.__class__ = ExactConvTranspose2d
    return net


def is_exact(net: nn.Module) -> bool:
    """Whether all that the network weighs and sums is summed exactly: every module with parameters of its own is an
    exact convolution, none of whose sums can leave what float64 holds exactly with these weights."""
    weighing = [m for m in net.modules() if any(True for _ in m.parameters(recurse=False))]
    return all(isinstance(m, _Exact) and m.largest() < LARGEST for m in weighing)
