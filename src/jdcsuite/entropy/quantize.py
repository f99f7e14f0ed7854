"""Real-valued latents -> integers, with the surrogates that let a gradient through.

Training needs two views of one latent: the decoder sees what it will see when coding (rounding, straight-through
gradient), the rate sees a smooth relaxation (additive uniform noise; Balle et al., ICLR 2017).
"""

from __future__ import annotations

import torch
from compressai.ops import LowerBound
from torch import Tensor

__all__ = ["LowerBound", "add_noise", "compand", "round_ste"]


class _RoundSTE(torch.autograd.Function):
    # A Function and not x + (round(x) - x).detach(): the value is the rounded one by construction, whatever the
    # arithmetic, and so the decoder's picture is forward's picture.
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
    """``x`` + U(-.5, .5): the relaxation of rounding whose density is the rate's (Balle et al., 2017)."""
    # contiguous, so that a seed means the same noise in whatever order the memory of x is
    return x + torch.rand_like(x, memory_format=torch.contiguous_format) - 0.5


def compand(x: Tensor) -> Tensor:
    """What the prior networks see of a latent, which at 1-4 bpp reaches hundreds of steps: sign(x) log2(1 + |x|), with
    straight lines between the powers of two.

    Exponent and mantissa give it without a logarithm, so every machine computes the same bits."""
    mantissa, exponent = torch.frexp(1 + x.abs())
    return torch.sign(x) * (exponent + 2 * (mantissa - 1))
