"""Latents -> likelihoods under the cheapest of many priors, written directly from the formula.

The reference for tests of `entropy.competition`, and what experiments/many_priors times it against: every density of
every prior is evaluated with gradient and the winner is gathered, so memory grows with the number of priors. Priors are
not revived and their usage is not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jdcsuite.entropy.competition import Competition


def all_likelihoods(prior: Competition, y: Tensor) -> Tensor:
    """Probability of the unit bin of each latent, (b, c, hy, wy), under each prior: (b, hy, wy, priors, c)."""
    p, c = prior.num_priors, prior.num_latents
    h, b, a = (s.view(-1, p, c, 1, 1) for s in (prior.h, prior.b, prior.a))

    def cumulative(x: Tensor) -> Tensor:
        for stage in range(3):
            x = nn.functional.softplus(h[stage]) * x + b[stage]
            x = x + torch.tanh(a[stage]) * torch.tanh(x)
        return torch.sigmoid(nn.functional.softplus(h[3]) * x + b[3])

    x = y[:, None]
    return (cumulative(x + 0.5) - cumulative(x - 0.5)).clamp(min=1e-9).permute(0, 3, 4, 1, 2)


def likelihoods(prior: Competition, y: Tensor) -> dict[str, Tensor]:
    """As ``prior(y)`` in training, with the fixed cost of an index."""
    every = all_likelihoods(prior, y)
    cost = -torch.log2(every).sum(4)
    winner = cost.argmin(3)[..., None, None].expand(-1, -1, -1, 1, prior.num_latents)
    index = torch.full_like(every[..., 0, 0], 1 / prior.num_priors)
    return {"y": every.gather(3, winner).squeeze(3), "index": index}
