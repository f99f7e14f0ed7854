"""Gradients -> weights: Muon for the kernels of dense convolutions, Adam for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # coefficients of the quintic iteration
ITERATIONS = 5
SMALLEST_MATRIX = 32  # channels: kernels with fewer inputs or outputs stay with Adam


class Muon(torch.optim.Adam):
    """Muon (Jordan et al., 2024) for kernels of dense convolutions, as matrices of outputs by inputs and positions: the
    step is the momentum with all its singular values replaced by about 1, times ``scale`` * sqrt(larger side), which
    makes its root mean square that of Adam's steps (Liu et al., arXiv 2502.16982, section 2.2), so that both have one
    learning rate. Other parameters, and kernels with fewer than 32 input or output channels, are left to Adam, whose
    arguments are passed on.

    torch.optim.Muon takes matrices only, and an optimiser of its own for the rest. Kernels of one shape are computed
    together, because the matrices are small. Like fused Adam, a step changes nothing where ``found_inf`` is set, and
    never waits for the device.
    """

    def __init__(self, params: object, *, momentum: float = 0.95, scale: float = 0.2, **adam: object) -> None:
        super().__init__(params, **adam)
        for group in self.param_groups:
            group.setdefault("momentum", momentum)
            group.setdefault("scale", scale)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken = [(p, p.grad) for group in self.param_groups for p in self._step_of_kernels(group)]
        for p, _ in taken:
            p.grad = None  # Adam passes over parameters without gradients
        super().step()
        for p, gradient in taken:
            p.grad = gradient
        return loss

    def _step_of_kernels(self, group: dict) -> list[Tensor]:
        """Changes the group's kernels and returns them."""
        of_shape = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None and p.ndim == 4 and min(p.shape[:2]) >= SMALLEST_MATRIX:
                of_shape[p.shape].append(p)
        bad = getattr(self, "found_inf", None)
        for shape, kernels in of_shape.items():
            outputs, inputs = shape[0], math.prod(shape[1:])
            size = group["scale"] * math.sqrt(max(outputs, inputs)) * group["lr"]
            steps = []
            for p in kernels:
                if "momentum" not in self.state[p]:
                    # Adam wants to find a step count in every state that is restored
                    self.state[p] |= {"momentum": torch.zeros_like(p), "step": torch.zeros((), device=p.device)}
                momentum = self.state[p]["momentum"]
                gradient = p.grad if bad is None else torch.where(bad > 0, momentum, p.grad)
                momentum.lerp_(gradient, 1 - group["momentum"])
                steps.append(gradient.lerp(momentum, group["momentum"]).flatten(1))
            step = -size * orthogonalised(torch.stack(steps))
            if bad is not None:
                step = torch.where(bad > 0, 0, step)
            for p, own in zip(kernels, step, strict=True):
                p.add_(own.view(shape))
        return [p for kernels in of_shape.values() for p in kernels]


def orthogonalised(matrices: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
    """U V^T of each matrix U S V^T, roughly: its singular values are .7 to 1.2, those near 0 excepted. In bf16, whose
    errors the iteration corrects."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
