"""Latents -> likelihoods (training) or integer probability tables (coding), one class per distribution.

The priors learn no quantiles: the support of a table is found by a scan when the table is built, so that one optimiser
trains all parameters.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.quantize import LowerBound

# Symbols in a tail of less than this probability are coded by the escape; one unit of a 16-bit table is 2**-16.
TAIL = 2.0**-17


PER_SCALE = math.pi / math.sqrt(3)  # logit of the logistic distribution per standard deviation


class LikelihoodFloor(nn.Module):
    """p -> max(p, 1e-9) with a gradient that can raise p. Float32 tails underflow; the escape codes what is beyond."""

    def __init__(self) -> None:
        super().__init__()
        self.bound = LowerBound(1e-9)

    def forward(self, p: Tensor) -> Tensor:
        return self.bound(p)


class Residuals(nn.Module):
    """Zero-mean distribution integrated over unit bins, for residuals in step units given their standard deviation.

    There is a table for every scale 2**(``lowest`` + i / ``density``) up to 2**``highest`` steps. The index follows
    from the log2 of a scale by a multiplication with a power of two, which is exact on every machine. For a larger
    scale, symbol >> k is coded with the table of scale / 2**k, in (2**(highest - 1), 2**highest], and the k low bits
    are stored as they are. That costs under 3e-4 bit per symbol; a single 16-bit table at scale 1024 would cost .4 bit.
    """

    def __init__(self, *, lowest: float = -3.25, highest: int = 5, density: int = 16) -> None:
        super().__init__()
        self.lowest, self.highest, self.density = lowest, highest, density
        self.levels = round((highest - lowest) * density) + 1
        self.floor = LikelihoodFloor()

    @abstractmethod
    def forward(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Probability of the unit bin around each ``residual`` given its ``scale``, both in steps and of one shape."""

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """Cumulative distribution for scale 1, float64."""

    @abstractmethod
    def quantile(self, p: float) -> float:
        """Inverse of `cdf`."""

    def index(self, log2_scale: Tensor) -> tuple[Tensor, Tensor]:
        """log2 of the scale in steps -> table index (int32) and number k of raw low bits (uint8)."""
        k = torch.ceil(log2_scale - self.highest).clamp_(0, 16)
        position = torch.floor((log2_scale - k - self.lowest) * self.density + 0.5)
        return position.clamp_(0, self.levels - 1).to(torch.int32), k.to(torch.uint8)

    def tables(self) -> Tables:
        """Integer tables of all scales, computed in float64 on the CPU so that they do not depend on the device."""
        scales = torch.exp2(self.lowest + torch.arange(self.levels, dtype=torch.float64) / self.density)
        reach = torch.ceil(scales * -self.quantile(TAIL) + 0.5).int()
        pmfs = []
        for scale, r in zip(scales.tolist(), reach.tolist(), strict=True):
            edges = (torch.arange(-r, r + 2, dtype=torch.float64) - 0.5) / scale
            pmfs.append(self.cdf(edges).diff())
        return Tables.from_pmfs(pmfs, offsets=(-reach).tolist())


class Gaussian(Residuals):
    """Normal distribution."""

    def forward(self, residual: Tensor, scale: Tensor) -> Tensor:
        distance = residual.abs()
        upper, lower = ((0.5 - distance) / scale, (-0.5 - distance) / scale)
        return self.floor(0.5 * (torch.erfc(-upper / math.sqrt(2)) - torch.erfc(-lower / math.sqrt(2))))

    def cdf(self, x: Tensor) -> Tensor:
        return torch.special.ndtr(x)

    def quantile(self, p: float) -> float:
        return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


class Logistic(Residuals):
    """Logistic distribution: more mass at the centre and in the tails than the normal one, as residuals whose scales
    are predicted with some error have."""

    def forward(self, residual: Tensor, scale: Tensor) -> Tensor:
        slope = PER_SCALE / scale
        return self.floor(interval_probability((residual - 0.5) * slope, (residual + 0.5) * slope))

    def cdf(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x * PER_SCALE)

    def quantile(self, p: float) -> float:
        return math.log(p / (1 - p)) / PER_SCALE


RESIDUALS = {"gaussian": Gaussian, "logistic": Logistic}


def monotone_logits(x: Tensor, slopes: Tensor, offsets: Tensor, bends: Tensor) -> Tensor:
    """The chain of `MonotoneCDF` at ``x``; the scalars of each stage broadcast with it."""
    for stage in range(3):
        x = slopes[stage] * x + offsets[stage]
        x = x + bends[stage] * torch.tanh(x)
    return slopes[3] * x + offsets[3]


def interval_probability(lower: Tensor, upper: Tensor) -> Tensor:
    """Probability between two points of a cumulative distribution, given their logits: the difference of two sigmoids,
    mirrored to the side where neither is close to 1."""
    sign = torch.where(lower + upper > 0, -1.0, 1.0).to(lower)
    return torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))


class MonotoneCDF(nn.Module):
    """``num_distributions`` independent learned densities, each a monotone scalar chain.

    Four stages of width one, 11 scalars per distribution (the fully factorised prior of Balle et al., ICLR 2018, as
    used by EVC and by the many-priors codec): x <- softplus(h) x + b, then x + tanh(a) tanh(x); the last stage gives
    the logit. ``init_spread``: scale of the logistic density at initialisation.
    """

    def __init__(self, *, num_distributions: int, init_spread: float = 2.0) -> None:
        super().__init__()
        slope = (1 / init_spread) ** 0.25
        self.h = nn.Parameter(torch.randn(4, num_distributions) * 0.01 + math.log(math.expm1(slope)))
        self.b = nn.Parameter(torch.randn(4, num_distributions) * 0.01)
        self.a = nn.Parameter(torch.randn(3, num_distributions) * 0.01)
        self.floor = LikelihoodFloor()

    def logits(self, x: Tensor) -> Tensor:
        """Logit of the cumulative distribution at ``x`` (d, any): row i under distribution i."""
        return monotone_logits(x, *(p[..., None] for p in self.scalars(like=x)))

    def scalars(self, *, like: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes (4, d), offsets (4, d) and bends (3, d) of the chain, for `monotone_logits`, in the precision and on
        the device of ``like``."""
        h, b, a = ((p if like is None else p.to(like)) for p in (self.h, self.b, self.a))
        return F.softplus(h), b, torch.tanh(a)

    def forward(self, z: Tensor) -> Tensor:
        """Probability of the unit bin around each element of ``z`` (b, d, hz, wz)."""
        x = z.transpose(0, 1).flatten(1)
        p = interval_probability(self.logits(x - 0.5), self.logits(x + 0.5))
        return self.floor(p).unflatten(1, (z.shape[0], *z.shape[2:])).transpose(0, 1)

    @torch.no_grad()
    def tables(self, *, max_reach: int = 2**13) -> Tables:
        """Integer tables over the integers whose tails exceed 2**-17, bracketed by doubling up to ``max_reach``.
        Computed in float64 on the CPU."""
        reach = 8
        while reach < max_reach and self._tail(reach) > TAIL:
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
