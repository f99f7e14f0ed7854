"""Real-valued latents -> integers, with differentiable surrogates for training.

Training quantises a latent twice: the decoder sees the rounded values that it will see when coding (straight-through
gradient), the rate is computed on a smooth relaxation (additive uniform noise; Balle et al., ICLR 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        x, bound = ctx.saved_tensors
        return grad * ((x >= bound) | (grad < 0)), None


class LowerBound(nn.Module):
    """max(x, bound), with a gradient also below the bound where a descent step raises x (Balle et al., ICLR 2017).

    Equal to that of compressai.ops, whose import takes seconds in every command."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return _Bounded.apply(x, self.bound)


class _RoundSTE(torch.autograd.Function):
    # A Function instead of x + (round(x) - x).detach(): the value is exactly the rounded one in any arithmetic, so the
    # decoder reconstructs the image of the forward pass.
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def round_ste(x: Tensor) -> Tensor:
    """Exactly ``torch.round(x)``, with the gradient of the identity."""
    return _RoundSTE.apply(x)


def add_noise(x: Tensor) -> Tensor:
    """``x`` + U(-.5, .5), the relaxation of rounding under which the rate is a density (Balle et al., 2017)."""
    # contiguous, so that a seed gives the same noise for every memory layout of x
    return x + torch.rand_like(x, memory_format=torch.contiguous_format) - 0.5


def compand(x: Tensor) -> Tensor:
    """sign(x) log2(1 + |x|), linear between powers of two: compresses the range of latents, which reach hundreds of
    steps at 1 to 4 bpp, for the prior networks.

    Computed from exponent and mantissa instead of a logarithm, so that every machine gets the same bits."""
    mantissa, exponent = torch.frexp(1 + x.abs())
    return torch.sign(x) * (exponent + 2 * (mantissa - 1))


def expand(c: Tensor) -> Tensor:
    """The inverse of `compand`."""
    whole = c.abs().floor()
    return torch.sign(c) * (torch.exp2(whole) * (1 + c.abs() - whole) - 1)
