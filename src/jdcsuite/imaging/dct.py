"""Images -> DCT coefficients of their blocks and back, on any device.

Nothing is copied to the device, so that a GPU does not wait.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def basis(side: int, *, like: Tensor) -> Float[Tensor, "k n"]:
    """Orthonormal DCT-II of ``side`` samples: a row for each frequency, on the device of ``like``."""
    k = torch.arange(side, device=like.device, dtype=torch.float32)
    rows = torch.cos(math.pi / side * (k + 0.5) * k[:, None]) * math.sqrt(2 / side)
    return torch.where(k[:, None] == 0, math.sqrt(1 / side), rows)


def block_dct(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c i k j l"]:
    """Coefficient (k, l) of block (i, j) at [:, :, i, k, j, l]. Height and width are multiples of ``side``."""
    rows = basis(side, like=x)
    return torch.einsum("bciyjx,ky,lx->bcikjl", x.unflatten(3, (-1, side)).unflatten(2, (-1, side)), rows, rows)


def block_idct(coefficients: Float[Tensor, "b c i k j l"]) -> Float[Tensor, "b c h w"]:
    """Inverse of `block_dct`."""
    rows = basis(coefficients.shape[-1], like=coefficients)
    return torch.einsum("bcikjl,ky,lx->bciyjx", coefficients, rows, rows).flatten(4, 5).flatten(2, 3)
