"""Latents -> the cheapest of many priors at each place, and the likelihoods under it.

Brummer and De Vleeschouwer, "End-to-end optimized image compression with competition of prior distributions"
(CVPR workshops 2021, arXiv 2111.09172): a prior is a whole factorised model, one density a channel; each place of
the latent is coded under the one that costs least, and its number is sent.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from jdcsuite.entropy.coder import Tables
from jdcsuite.entropy.priors import MonotoneCDF, between, monotone_logits

# `MonotoneCDF`'s chain starts at the paper's N(0, .01) slopes: softplus(0)^4 is the slope of the logit.
SPREAD = math.log(2.0) ** -4
# Priors that start apart: their scales are a channel's own times 2**-OCTAVES to 2**OCTAVES, but not under NARROWEST.
OCTAVES, NARROWEST = 3.0, 0.08
# Symbols beyond +-REACH cost alike under every prior when one is chosen: all of them send it by the escape.
REACH = 128
REVIVE_AFTER, REVIVE_SHARE = 50, 0.1
# Counts of chosen priors: what is left of them a step later, and how many more each context has, spread as all are.
INDEX_DECAY, INDEX_PRIOR = 0.99, 16.0


class Competition(MonotoneCDF):
    """``num_priors`` priors of ``num_latents`` independent monotone densities; density p * num_latents + c is that of
    channel c under prior p.

    ``index_cost``: what the number of a prior costs. ``fixed``: log2 of ``num_priors`` bits, as published.
    ``adaptive``: its code length given the number above it, under how often each followed which in training: static
    tables of the model. Training is as with ``fixed``: a search that is charged for rare numbers starves the priors
    that have them (measured: .2963 bpp instead of .2858). An encoder's choice is charged.
    ``lr_scale``: these scalars learn so many times faster than the transforms (the reference's training: 10).
    ``elements``: values that a search holds at once; it bounds the memory, not the result. None: what suits the
    device.

    differs from the paper: likelihoods have a floor of 1e-9 (theirs adds 1e-10 and ends at 50 bits), and the counters
    of unused priors are part of a checkpoint, because a resumed run has to be the run that was interrupted.
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
        # [number above (the last row: none), number], decayed counts
        self.register_buffer("seen", torch.zeros(num_priors + 1, num_priors))

    @torch.no_grad()
    def spread(self, deviations: Float[Tensor, "c"]) -> None:
        """Priors that all start alike leave the choice to a handful of them. Here each starts as logistic densities of
        the channels' own standard ``deviations``, all times one factor that is the prior's own."""
        factors = torch.exp2(torch.linspace(-OCTAVES, OCTAVES, self.num_priors))
        scales = (math.sqrt(3) / math.pi * factors[:, None] * deviations).clamp(min=NARROWEST).flatten()
        self.h.add_(torch.log(torch.expm1(scales**-0.25)) - math.log(math.expm1(SPREAD**-0.25)))

    # -- likelihoods -------------------------------------------------------------------------------------------

    def forward(self, y: Float[Tensor, "b c hy wy"]) -> dict[str, Tensor]:
        """Likelihoods of ``y`` (relaxed when training, integers otherwise): "y" (b, hy, wy, c), "index" (b, hy, wy).

        The search has no gradient; the winner is then evaluated alone, so the gradients are those of the naive form,
        which evaluates all and gathers, at one part in ``num_priors`` of its memory.
        """
        rows, grid = y.permute(0, 2, 3, 1).flatten(0, 2), (y.shape[0], *y.shape[2:])
        if self.training:
            index, cost = self.search(rows.detach())
            self._count(index.view(grid))
            numbers = self._revive(index, cost).view(grid)
        else:
            numbers = self.choose(y)
        p_index = self.index_probabilities()[self.above(numbers), numbers]
        return {"y": self.likelihood(rows, numbers.flatten()).view(*grid, -1), "index": p_index}

    def likelihood(self, rows: Float[Tensor, "n c"], index: Int[Tensor, "n"]) -> Float[Tensor, "n c"]:
        """Probability of the unit bin around each latent, each place under its own prior; with gradient."""
        scalars = [s[:, index] for s in self._by_prior()]
        return self.floor(between(monotone_logits(rows - 0.5, *scalars), monotone_logits(rows + 0.5, *scalars)))

    def _by_prior(self) -> list[Float[Tensor, "stages p c"]]:
        return [s.unflatten(1, (self.num_priors, self.num_latents)) for s in self.scalars()]

    # -- the search --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def search(self, rows: Float[Tensor, "n c"]) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
        """(number of the cheapest prior, what it costs in bits) of each place."""
        cost, index = self._costs(rows).min(1)
        return index, cost

    @torch.no_grad()
    def choose(self, y: Float[Tensor, "b c hy wy"]) -> Int[Tensor, "b hy wy"]:
        """Numbers of the cheapest priors of integers, that of the number itself included, a row after the other."""
        costs = self._costs_of_integers(y.permute(0, 2, 3, 1).flatten(0, 2)).view(y.shape[0], *y.shape[2:], -1)
        if self.index_cost == "fixed":
            return costs.argmin(3)
        bits = -torch.log2(self.index_probabilities())
        rows = [torch.full_like(costs[:, 0, :, 0], self.num_priors, dtype=torch.int64)]
        for row in costs.unbind(1):
            rows.append((row + bits[rows[-1]]).argmin(2))
        return torch.stack(rows[1:], 1)

    def _costs(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n p"]:
        """Bits of each place under each prior, some places at a time."""
        scalars = self._by_prior()
        # Blocks that stay in a CPU's cache are several times faster there; a GPU wants few large ones.
        elements = self.elements or (2**24 if rows.is_cuda else 2**17)
        costs = []
        for some in rows.split(max(1, elements // (self.num_priors * self.num_latents))):
            costs.append(self._bits(some[:, None], *scalars).sum(2))
        return torch.cat(costs)

    @torch.no_grad()
    def _bits(self, x: Tensor, slopes: Tensor, offsets: Tensor, bends: Tensor) -> Tensor:
        """-log2 of `likelihood`, without gradient and in place: a fraction of the time of the same by `monotone_logits`
        and `between`, most of which goes into fetching memory for what is used once. Twice the logits are computed,
        because tanh(x) = 2 sigmoid(2x) - 1 takes a fifth of tanh's time on a CPU."""
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
        # on the side where neither sigmoid is close to one: both ends mirrored where their middle is above 0
        width = upper - lower
        middle = upper.add_(lower).abs_()
        far = torch.add(middle, width, out=lower).mul_(-0.25).sigmoid_()
        near = width.sub_(middle).mul_(0.25).sigmoid_()
        return self.floor(near.sub_(far)).log2_().neg_()

    def _costs_of_integers(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n p"]:
        """The same for integers: each density is evaluated once a symbol, then looked up."""
        rows = rows.clamp(-REACH, REACH)
        lowest, highest = int(rows.min()), int(rows.max())
        symbols = torch.arange(lowest, highest + 1, device=rows.device, dtype=rows.dtype)
        table = self._costs_by_symbol(symbols)
        at = (rows - lowest).long() + len(symbols) * torch.arange(self.num_latents, device=rows.device)
        return F.embedding_bag(at, table, mode="sum")

    def _costs_by_symbol(self, symbols: Float[Tensor, "s"]) -> Float[Tensor, "cs p"]:
        edges = torch.cat([symbols - 0.5, symbols[-1:] + 0.5])
        logits = self.logits(edges.expand(self.num_priors * self.num_latents, -1))
        bits = -torch.log2(self.floor(between(logits[:, :-1], logits[:, 1:])))
        return bits.unflatten(0, (self.num_priors, -1)).permute(1, 2, 0).flatten(0, 1).contiguous()

    # -- which priors are used ---------------------------------------------------------------------------------

    def _frequencies(self) -> Float[Tensor, "p"]:
        """Probability of each prior's number without context."""
        if self.index_cost == "fixed":
            return torch.full_like(self.seen[0], 1 / self.num_priors)
        counts = self.seen.sum(0) + 1
        return counts / counts.sum()

    def index_probabilities(self) -> Float[Tensor, "above p"]:
        """Probability of each prior's number, given the number above it; the last row: where there is none."""
        prior = INDEX_PRIOR * self._frequencies()
        counts = prior + (0 if self.index_cost == "fixed" else self.seen)
        return counts.expand_as(self.seen) / counts.sum(-1, keepdim=True)

    def above(self, numbers: Int[Tensor, "b hy wy"]) -> Int[Tensor, "b hy wy"]:
        """The number above each, ``num_priors`` in the first row."""
        return F.pad(numbers[:, :-1], (0, 0, 1, 0), value=self.num_priors)

    @torch.no_grad()
    def _count(self, numbers: Int[Tensor, "b hy wy"]) -> None:
        # bincount, written so that a GPU is not waited for
        at = (self.above(numbers) * self.num_priors + numbers).flatten()
        counts = torch.zeros_like(self.seen).flatten().scatter_add_(0, at, torch.ones_like(at, dtype=self.seen.dtype))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)  # a prior that one rank uses is in use
        counts = counts.view_as(self.seen)
        self.idle.add_(1).mul_(counts.sum(0) == 0)
        self.seen.mul_(INDEX_DECAY).add_(counts)

    @torch.no_grad()
    def _revive(self, index: Int[Tensor, "n"], cost: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Priors that won nothing for ``REVIVE_AFTER`` steps are given the places that cost most, one each, at most
        ``REVIVE_SHARE`` of all: without a gradient they would never win again."""
        dead = self.idle > REVIVE_AFTER
        count = min(self.num_priors, int(REVIVE_SHARE * len(index)))
        # the dead ones first, in random order; written without a branch, so that the device is not waited for
        drawn = (torch.rand_like(self.seen[0]) + dead).argsort(descending=True)[:count]
        hardest = cost.topk(count).indices
        self.idle[drawn] *= ~dead[drawn]
        return index.scatter(0, hardest, torch.where(dead[drawn], drawn, index[hardest]))

    # -- coding ------------------------------------------------------------------------------------------------

    def tables(self, *, most: int = REACH) -> Tables:
        """As `MonotoneCDF.tables`; what lies beyond +-REACH is sent by the escape."""
        return super().tables(most=most)

    def index_tables(self) -> Tables:
        pmfs = self.index_probabilities().double().cpu()
        return Tables.from_pmfs(list(pmfs), offsets=[0] * len(pmfs))
