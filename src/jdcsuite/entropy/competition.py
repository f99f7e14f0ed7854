"""Latents -> the cheapest of many priors at each position, and the likelihoods under it.

Brummer and De Vleeschouwer, "End-to-end optimized image compression with competition of prior distributions"
(CVPR workshops 2021, arXiv 2111.09172): a prior is a full factorised model with one density per channel. Each spatial
position of the latents is coded under the prior that costs least there, and the index of that prior is coded too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.priors import MonotoneCDF, interval_probability, monotone_logits

# Initial scale at which the parameters h of `MonotoneCDF` are N(0, .01), as in the paper: the logit has slope
# softplus(0)^4.
SPREAD = math.log(2.0) ** -4
# `spread`: the initial scales of the priors are those of the channel times 2**-OCTAVES to 2**OCTAVES, at least
# MIN_SCALE.
OCTAVES, MIN_SCALE = 3.0, 0.08
# Symbols beyond +-REACH are coded by the escape of every prior, so the choice of a prior ignores the excess.
REACH = 128
# Priors that no position chose for so many steps are assigned to positions, at most this share of all.
REVIVE_AFTER, REVIVE_SHARE = 50, 0.1
# Counts of chosen indexes: decay per step, and pseudo-counts per context, distributed like the counts of all contexts.
INDEX_DECAY, INDEX_PRIOR = 0.99, 16.0


class Competition(MonotoneCDF):
    """``num_priors`` priors of ``num_latents`` independent monotone densities; density p * num_latents + c is that of
    channel c under prior p.

    ``index_cost``: code length of the index of a prior. ``fixed``: log2(``num_priors``) bits, as published.
    ``adaptive``: its code length given the index above it, from frequencies counted in training and stored as static
    tables. Training searches as with ``fixed``, because a search that is charged for rare indexes starves their priors
    (measured: .2963 bpp instead of .2858); only the choice of the encoder is charged.
    ``lr_scale``: learning rate of these scalars relative to that of the transforms (reference training: 10).
    ``elements``: values that a search holds at once, which bounds its memory and does not change the result. None:
    chosen by device.

    differs from the paper: likelihoods have a floor of 1e-9 (theirs adds 1e-10 and saturates at 50 bits), and the
    counters of unused priors are part of a checkpoint, because a resumed run has to equal the uninterrupted one.
    """

    def __init__(
        self,
        *,
        num_priors: int,
        num_latents: int,
        index_cost: str = "fixed",
        lr_scale: float = 10.0,
        elements: int | None = None,
    ) -> None:
        super().__init__(num_distributions=num_priors * num_latents, init_spread=SPREAD)
        self.num_priors, self.num_latents = num_priors, num_latents
        self.index_cost, self.lr_scale, self.elements = index_cost, lr_scale, elements
        self.register_buffer("idle", torch.zeros(num_priors, dtype=torch.int64))
        # decayed counts of [index above (last row: none), index]
        self.register_buffer("seen", torch.zeros(num_priors + 1, num_priors))

    @torch.no_grad()
    def spread(self, deviations: Float[Tensor, "c"]) -> None:
        """Initialises each prior with logistic densities of the standard ``deviations`` of the channels times a factor
        of its own. If all priors start alike, only a handful of them is ever chosen."""
        factors = torch.exp2(torch.linspace(-OCTAVES, OCTAVES, self.num_priors))
        scales = (math.sqrt(3) / math.pi * factors[:, None] * deviations).clamp(min=MIN_SCALE).flatten()
        self.h.add_(torch.log(torch.expm1(scales**-0.25)) - math.log(math.expm1(SPREAD**-0.25)))

    # -- likelihoods -------------------------------------------------------------------------------------------

    def forward(self, y: Float[Tensor, "b c hy wy"]) -> dict[str, Tensor]:
        """Likelihoods of ``y`` (relaxed when training, integers otherwise): "y" (b, hy, wy, c), "index" (b, hy, wy).

        The search has no gradient and only its winner is evaluated with one. The gradients equal those of the naive
        form, which evaluates all priors and gathers, at 1 / ``num_priors`` of its memory.
        """
        rows, grid = y.permute(0, 2, 3, 1).flatten(0, 2), (y.shape[0], *y.shape[2:])
        if self.training:
            cheapest, cost = self.search(rows.detach())
            self._count(cheapest.view(grid))
            index = self._revive(cheapest, cost).view(grid)
        else:
            index = self.choose(y)
        p_index = self.index_probabilities()[self.above(index), index]
        return {"y": self.likelihood(rows, index.flatten()).view(*grid, -1), "index": p_index}

    def likelihood(self, rows: Float[Tensor, "n c"], index: Int[Tensor, "n"]) -> Float[Tensor, "n c"]:
        """Probability of the unit bin around each latent under the prior of its position; differentiable."""
        scalars = [s[:, index] for s in self._by_prior()]
        return self.floor(
            interval_probability(monotone_logits(rows - 0.5, *scalars), monotone_logits(rows + 0.5, *scalars))
        )

    def _by_prior(self) -> list[Float[Tensor, "stages p c"]]:
        return [s.unflatten(1, (self.num_priors, self.num_latents)) for s in self.scalars()]

    # -- the search --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def search(self, rows: Float[Tensor, "n c"]) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
        """Index of the cheapest prior at each position, and its cost in bits."""
        cost, index = self._costs(rows).min(1)
        return index, cost

    @torch.no_grad()
    def choose(self, y: Float[Tensor, "b c hy wy"]) -> Int[Tensor, "b hy wy"]:
        """Indexes of the cheapest priors for integer latents, the cost of the index included; greedy, row by row."""
        costs = self._costs_of_integers(y.permute(0, 2, 3, 1).flatten(0, 2)).view(y.shape[0], *y.shape[2:], -1)
        if self.index_cost == "fixed":
            return costs.argmin(3)
        bits = -torch.log2(self.index_probabilities())
        rows = [torch.full_like(costs[:, 0, :, 0], self.num_priors, dtype=torch.int64)]
        for row in costs.unbind(1):
            rows.append((row + bits[rows[-1]]).argmin(2))
        return torch.stack(rows[1:], 1)

    def _costs(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n p"]:
        """Bits of each position under each prior, computed in blocks of positions."""
        scalars = self._by_prior()
        # On a CPU, blocks that fit its cache are several times faster; a GPU wants few large ones.
        elements = self.elements or (2**24 if rows.is_cuda else 2**17)
        blocks = rows.split(max(1, elements // (self.num_priors * self.num_latents)))
        return torch.cat([self._bits(block[:, None], *scalars).sum(2) for block in blocks])

    @torch.no_grad()
    def _bits(self, x: Tensor, slopes: Tensor, offsets: Tensor, bends: Tensor) -> Tensor:
        """-log2 of `likelihood`, without gradient and in place. `monotone_logits` and `interval_probability` take
        several times as long, mostly to allocate memory that is used once. The logits are computed times 2, because
        tanh(x) = 2 sigmoid(2x) - 1 takes a fifth of the time of tanh on a CPU."""
        bent, ends = None, []
        for side in (-0.5, 0.5):
            end = torch.addcmul(2 * (offsets[0] + side * slopes[0]), 2 * slopes[0], x)
            bent = torch.empty_like(end) if bent is None else bent
            for stage in range(3):
                end.addcmul_(4 * bends[stage], torch.sigmoid(end, out=bent))
                shift = 2 * (offsets[stage + 1] - bends[stage] * slopes[stage + 1])
                torch.addcmul(shift, slopes[stage + 1], end, out=end)
            ends.append(end)
        lower, upper = ends
        # both ends are mirrored where their middle is above 0, so that neither sigmoid is close to 1
        width = upper - lower
        middle = upper.add_(lower).abs_()
        far = torch.add(middle, width, out=lower).mul_(-0.25).sigmoid_()
        near = width.sub_(middle).mul_(0.25).sigmoid_()
        return self.floor(near.sub_(far)).log2_().neg_()

    def _costs_of_integers(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n p"]:
        """As `_costs` for integers: each density is evaluated once per symbol value, then looked up."""
        rows = rows.clamp(-REACH, REACH)
        lowest, highest = int(rows.min()), int(rows.max())
        symbols = torch.arange(lowest, highest + 1, device=rows.device, dtype=rows.dtype)
        table = self._costs_by_symbol(symbols)
        at = (rows - lowest).long() + len(symbols) * torch.arange(self.num_latents, device=rows.device)
        return F.embedding_bag(at, table, mode="sum")

    def _costs_by_symbol(self, symbols: Float[Tensor, "s"]) -> Float[Tensor, "cs p"]:
        edges = torch.cat([symbols - 0.5, symbols[-1:] + 0.5])
        logits = self.logits(edges.expand(self.num_priors * self.num_latents, -1))
        bits = -torch.log2(self.floor(interval_probability(logits[:, :-1], logits[:, 1:])))
        return bits.unflatten(0, (self.num_priors, -1)).permute(1, 2, 0).flatten(0, 1).contiguous()

    # -- usage of the priors ------------------------------------------------------------------------------------

    def _frequencies(self) -> Float[Tensor, "p"]:
        """Probability of each index without context."""
        if self.index_cost == "fixed":
            return torch.full_like(self.seen[0], 1 / self.num_priors)
        counts = self.seen.sum(0) + 1
        return counts / counts.sum()

    def index_probabilities(self) -> Float[Tensor, "above p"]:
        """Probability of each index given the index above it; last row: without one."""
        prior = INDEX_PRIOR * self._frequencies()
        counts = prior + (0 if self.index_cost == "fixed" else self.seen)
        return counts.expand_as(self.seen) / counts.sum(-1, keepdim=True)

    def above(self, index: Int[Tensor, "b hy wy"]) -> Int[Tensor, "b hy wy"]:
        """The index above each position; ``num_priors`` in the first row."""
        return F.pad(index[:, :-1], (0, 0, 1, 0), value=self.num_priors)

    @torch.no_grad()
    def _count(self, index: Int[Tensor, "b hy wy"]) -> None:
        # a bincount that does not synchronise with a GPU
        at = (self.above(index) * self.num_priors + index).flatten()
        counts = torch.zeros_like(self.seen).flatten().scatter_add_(0, at, torch.ones_like(at, dtype=self.seen.dtype))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)  # a prior is in use if any rank uses it
        counts = counts.view_as(self.seen)
        self.idle.add_(1).mul_(counts.sum(0) == 0)
        self.seen.mul_(INDEX_DECAY).add_(counts)

    @torch.no_grad()
    def _revive(self, index: Int[Tensor, "n"], cost: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Assigns priors that no position chose for ``REVIVE_AFTER`` steps to the costliest positions, one each, at
        most ``REVIVE_SHARE`` of all. Without a gradient they would never be chosen again."""
        dead = self.idle > REVIVE_AFTER
        count = min(self.num_priors, int(REVIVE_SHARE * len(index)))
        # dead priors first, in random order; without a branch, which would synchronise with the device
        drawn = (torch.rand_like(self.seen[0]) + dead).argsort(descending=True)[:count]
        hardest = cost.topk(count).indices
        self.idle[drawn] *= ~dead[drawn]
        return index.scatter(0, hardest, torch.where(dead[drawn], drawn, index[hardest]))

    # -- coding ------------------------------------------------------------------------------------------------

    def tables(self, *, max_reach: int = REACH) -> Tables:
        """As `MonotoneCDF.tables`; symbols beyond +-REACH are coded by the escape."""
        return super().tables(max_reach=max_reach)

    def index_tables(self) -> Tables:
        pmfs = self.index_probabilities().double().cpu()
        return Tables.from_pmfs(list(pmfs), offsets=[0] * len(pmfs))
