"""Latents -> likelihoods when training, integer probability tables when coding; one class per distribution.

No prior learns quantiles: the support of a table is found by scanning when the table is built, so one optimiser
trains everything.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.quantize import LowerBound

# Beyond this probability a symbol is left to the escape: one unit of a 16-bit table is 2**-16.
TAIL = 2.0**-17


class LikelihoodFloor(nn.Module):
    """p -> max(p, 1e-9), gradient-aware. A float32 tail underflows; the escape codes what lies beyond."""

    def __init__(self) -> None:
        super().__init__()
        self.bound = LowerBound(1e-9)

    def forward(self, p: Tensor) -> Tensor:
        return self.bound(p)


class Gaussian(nn.Module):
    """Zero-mean normal integrated over unit bins: residuals in step units, given their scale.

    Tables stand at the scales 2**(``lowest`` + i / ``density``), up to 2**``highest`` steps; the index of one follows
    from a log2 scale by multiplication with a power of two, exactly on every machine. A larger scale is coded as
    symbol >> k against scale / 2**k in (highest / 2, highest], and the k low bits as they are: that costs under
    3e-4 bit a symbol, where one 16-bit table at scale 1024 would lose .4 bit.
    """

    def __init__(self, *, lowest: float = -3.25, highest: int = 5, density: int = 16) -> None:
        super().__init__()
        self.lowest, self.highest, self.density = lowest, highest, density
        self.levels = round((highest - lowest) * density) + 1
        self.floor = LikelihoodFloor()

    def forward(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Probability of the unit bin around each ``residual`` (steps), at ``scale`` (steps), same shape."""
        distance = residual.abs()
        upper, lower = ((0.5 - distance) / scale, (-0.5 - distance) / scale)
        return self.floor(0.5 * (torch.erfc(-upper / math.sqrt(2)) - torch.erfc(-lower / math.sqrt(2))))

    def index(self, log2_scale: Tensor) -> tuple[Tensor, Tensor]:
        """log2 of the scale (steps) -> (table index int32, number k of raw low bits uint8)."""
        k = torch.ceil(log2_scale - self.highest).clamp_(0, 16)
        position = torch.floor((log2_scale - k - self.lowest) * self.density + 0.5)
        return position.clamp_(0, self.levels - 1).to(torch.int32), k.to(torch.uint8)

    def tables(self) -> Tables:
        """Integer tables of all levels, in float64: their entries do not depend on the device."""
        scales = torch.exp2(self.lowest + torch.arange(self.levels, dtype=torch.float64) / self.density)
        reach = torch.ceil(scales * -torch.special.ndtri(torch.tensor(TAIL, dtype=torch.float64)) + 0.5).int()
        pmfs = []
        for scale, r in zip(scales.tolist(), reach.tolist(), strict=True):
            edges = (torch.arange(-r, r + 2, dtype=torch.float64) - 0.5) / scale
            pmfs.append(torch.special.ndtr(edges).diff())
        return Tables.from_pmfs(pmfs, offsets=(-reach).tolist())


def monotone_logits(x: Tensor, slopes: Tensor, offsets: Tensor, bends: Tensor) -> Tensor:
    """The chain of `MonotoneCDF` at ``x``; each stage of the scalars is anything that broadcasts with it."""
    for stage in range(3):
        x = slopes[stage] * x + offsets[stage]
        x = x + bends[stage] * torch.tanh(x)
    return slopes[3] * x + offsets[3]


def between(lower: Tensor, upper: Tensor) -> Tensor:
    """Probability between two points of a cumulative, given their logits: the difference of two sigmoids, taken on
    the side where neither is close to one."""
    sign = torch.where(lower + upper > 0, -1.0, 1.0).to(lower)
    return torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))


class MonotoneCDF(nn.Module):
    """Independent learned densities: a monotone scalar chain for each of ``num_distributions``.

    Four stages of width one, 11 scalars a distribution (the fully factorised prior of Balle et al., ICLR 2018,
    as used by EVC and by the many-priors codec): x <- softplus(h) x + b, then x + tanh(a) tanh(x); the last
    stage is the logit. ``init_spread`` is the scale of the logistic density that it starts as.
    """

    def __init__(self, *, num_distributions: int, init_spread: float = 2.0) -> None:
        super().__init__()
        slope = (1 / init_spread) ** 0.25
        self.h = nn.Parameter(torch.randn(4, num_distributions) * 0.01 + math.log(math.expm1(slope)))
        self.b = nn.Parameter(torch.randn(4, num_distributions) * 0.01)
        self.a = nn.Parameter(torch.randn(3, num_distributions) * 0.01)
        self.floor = LikelihoodFloor()

    def logits(self, x: Tensor) -> Tensor:
        """Logit of the cumulative at ``x`` (d, anything): row i under distribution i."""
        return monotone_logits(x, *(p[..., None] for p in self.scalars(like=x)))

    def scalars(self, *, like: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes (4, d), offsets (4, d) and bends (3, d) of the chain, for `monotone_logits`; ``like``: in its
        precision and on its device."""
        h, b, a = ((p if like is None else p.to(like)) for p in (self.h, self.b, self.a))
        return F.softplus(h), b, torch.tanh(a)

    def forward(self, z: Tensor) -> Tensor:
        """Probability of the unit bin around each element of z (b, d, hz, wz)."""
        x = z.transpose(0, 1).flatten(1)
        p = between(self.logits(x - 0.5), self.logits(x + 0.5))
        return self.floor(p).unflatten(1, (z.shape[0], *z.shape[2:])).transpose(0, 1)

    @torch.no_grad()
    def tables(self, *, most: int = 2**13) -> Tables:
        """Integer tables over the integers whose tail exceeds 2**-17, bracketed by doubling up to ``most``; float64,
        CPU."""
        reach = 8
        while reach < most and self._tail(reach) > TAIL:
            reach *= 2
        grid = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
        cdf = torch.sigmoid(self.logits(grid.expand(self.h.shape[1], -1)))
        pmfs, offsets = [], []
        for row in cdf:
            first = max(int((row <= TAIL).sum()) - 1, 0)
            last = min(int((row < 1 - TAIL).sum()), len(row) - 1)
            pmfs.append(row[first : last + 1].diff())
            offsets.append(first - reach)
        return Tables.from_pmfs(pmfs, offsets=offsets)

    def _tail(self, reach: int) -> float:
        edge = torch.full((self.h.shape[1], 1), reach - 0.5, dtype=torch.float64)
        upper, lower = torch.sigmoid(-self.logits(edge)), torch.sigmoid(self.logits(-edge))
        return float(torch.maximum(upper, lower).max())
