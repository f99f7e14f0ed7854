"""Gradients of a step -> gradients that the optimiser takes: clipped, or normalised."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SMALLEST_NORM = 1e-12  # of a gradient that is normalised: that of a parameter without influence stays small


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float, normalize: bool) -> Tensor:
    """Scales the gradients of ``parameters`` in place, without waiting for the device; returns their global norm.

    ``max_norm``: the largest global norm, 0 = none. ``normalize``: the gradient of each parameter is first divided by
    its own norm. Where a few samples have large gradients in a few parameters, the global norm keeps all others from
    learning of their batch. Adam and Muon, whose steps do not depend on a constant factor, then weigh all batches
    alike, in every parameter.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    after = norm
    if normalize:
        torch._foreach_div_(gradients, [own.clamp(min=SMALLEST_NORM) for own in norms])
        after = torch.full_like(norm, math.sqrt(len(gradients)))
    if max_norm > 0:
        torch._foreach_mul_(gradients, (max_norm / (after + 1e-6)).clamp(max=1))
    return norm
