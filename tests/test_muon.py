"""Muon for kernels beside Adam for the rest, against torch's two optimisers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jdcsuite.training.muon import Muon, orthogonalised


def network() -> nn.Sequential:
    """Two dense kernels of one shape, one tall and one wide, between layers that stay with Adam."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.Conv2d(40, 40, 3), nn.Conv2d(40, 40, 3), nn.Conv2d(40, 40, 3, groups=40),
        nn.Conv2d(40, 96, 1), nn.Conv2d(96, 40, 1), nn.Conv2d(40, 3, 1),
    )  # fmt: skip


DENSE = ("1.weight", "2.weight", "4.weight", "5.weight")


def steps(net: nn.Module, *optimisers: torch.optim.Optimizer, count: int = 4) -> None:
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        for optimiser in optimisers:
            optimiser.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_move_as_the_matrices_of_torchs_muon_and_the_rest_as_with_adam(layout: torch.memory_format) -> None:
    ours = network()
    reference = copy.deepcopy(ours)
    ours = ours.to(memory_format=layout)
    steps(ours, Muon(ours.parameters(), lr=1e-3, momentum=0.9))
    matrices = {name: nn.Parameter(dict(reference.named_parameters())[name].detach().flatten(1)) for name in DENSE}
    rest = [p for name, p in reference.named_parameters() if name not in DENSE]
    muon = torch.optim.Muon(
        list(matrices.values()), lr=1e-3, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )

    class Matrices:
        def step(self) -> None:
            for name, matrix in matrices.items():
                matrix.grad = dict(reference.named_parameters())[name].grad.flatten(1)
            muon.step()

    before = copy.deepcopy(dict(network().named_parameters()))
    steps(reference, Matrices(), torch.optim.Adam(rest, lr=1e-3))
    for name, parameter in ours.named_parameters():
        expected = matrices[name].view(parameter.shape) if name in matrices else reference.get_parameter(name)
        moved = (expected - before[name]).abs().max()
        assert moved > 1e-4
        # torch and we round the same products to bf16, but one by one and together
        share = 0.05 if name in matrices else 1e-4
        torch.testing.assert_close(parameter, expected, rtol=0, atol=share * float(moved))


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    net = network()
    optimiser = Muon(net.parameters(), lr=1e-3, fused=True)
    optimiser.found_inf = torch.tensor(0.0)
    steps(net, optimiser, count=2)
    before = copy.deepcopy((net.state_dict(), optimiser.state_dict()["state"]))
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimiser.found_inf = torch.tensor(1.0)
    optimiser.step()
    after = (net.state_dict(), optimiser.state_dict()["state"])
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    for number, kept in before[1].items():
        assert kept and all(torch.equal(value, after[1][number][name]) for name, value in kept.items())
    optimiser.found_inf = torch.tensor(0.0)
    steps(net, optimiser, count=1)
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_restored_state_continues_alike() -> None:
    whole, halves = network(), network()
    optimiser = Muon(whole.parameters(), lr=1e-3)
    steps(whole, optimiser, count=3)
    first = Muon(halves.parameters(), lr=1e-3)
    steps(halves, first, count=3)
    second = Muon(halves.parameters(), lr=5.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(whole, optimiser, count=1)
    steps(halves, second, count=1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_singular_values_become_about_1() -> None:
    torch.manual_seed(0)
    for shape in ((3, 32, 288), (1, 96, 40)):
        matrices = torch.randn(shape) * torch.logspace(0, -2, shape[1])[:, None]
        made = orthogonalised(matrices)
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.5 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        cosine = ((u @ v) * made).sum((1, 2)) / made.norm(dim=(1, 2)) / (u @ v).norm(dim=(1, 2))
        assert cosine.min() > 0.95
    assert torch.equal(orthogonalised(torch.zeros(1, 32, 32)), torch.zeros(1, 32, 32))
