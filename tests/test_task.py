"""The training step: learning rates, parameter groups, and gradients over several processes."""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jdcsuite.models.unet import UNet
from jdcsuite.training.callbacks import EMA
from jdcsuite.training.criteria import Denoising, EntropyGuided
from jdcsuite.training.gradients import scale_gradients
from jdcsuite.training.task import CodecTask, DenoiserTask, Task, halving
from jdcsuite.types import Output, Pair, UserError

# -- learning rate ---------------------------------------------------------------------------------------------------


def test_halving_is_the_schedule_of_fllic() -> None:
    """1e-4, halved every 4e4 of 1.6e5 steps, to 1.25e-5."""
    factor = halving(steps=160_000, warmup=0, every=0.25, lowest=0.125)
    rates = [1e-4 * factor(step) for step in (0, 39_999, 40_000, 80_000, 119_999, 120_000, 159_999, 400_000)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 5e-5, 2.5e-5, 2.5e-5, 1.25e-5, 1.25e-5, 1.25e-5])


def test_halving_warms_up_linearly() -> None:
    factor = halving(steps=100, warmup=4, every=0.02, lowest=0.125)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75 * 0.5, 1.0 * 0.5, 0.25, 0.25]


class Scaled(nn.Module):
    """``fast`` has an ``lr_scale`` and a part of its own; ``frozen`` does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast, self.frozen = nn.Linear(2, 3), nn.PReLU(), nn.Linear(2, 2).requires_grad_(False)
        self.fast.lr_scale = 10.0
        self.fast.part = nn.Linear(1, 1, bias=False)


def test_lr_scale_multiplies_the_rate_of_its_own_parameters_only() -> None:
    model = Scaled()
    optimizer = partial(torch.optim.SGD, lr=0.01)
    parts = {"model": model, "criterion": nn.Identity(), "max_norm": 1.0, "seed": 0}
    task = Task(**parts, optimizer=optimizer, schedule=halving(steps=4, warmup=0, every=0.25, lowest=0.125))
    optimizers = task.configure_optimizers()
    groups = optimizers["optimizer"].param_groups
    members = {group["lr"]: {id(p) for p in group["params"]} for group in groups}
    assert members == {
        0.01: {id(p) for p in (model.slow.weight, model.slow.bias, model.fast.part.weight)},
        0.1: {id(model.fast.weight)},
    }
    optimizers["optimizer"].step()
    optimizers["lr_scheduler"]["scheduler"].step()
    assert sorted(group["lr"] for group in groups) == pytest.approx([0.005, 0.05]), "the schedule moves all groups"


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"max_norm": -1.0}, "task.max_norm=-1.0 is not usable"), ({"qualities": [20, 150]}, "task.qualities=150 is not")],
)
def test_a_task_refuses_values_out_of_range(setting: dict, message: str) -> None:
    parts = {"model": nn.Identity(), "criterion": nn.Identity(), "optimizer": partial(torch.optim.SGD, lr=0.1)}
    with pytest.raises(UserError, match=message):
        Task(**parts, **{"schedule": lambda step: 1.0, "max_norm": 1.0, "seed": 0, **setting})


@pytest.mark.parametrize(
    ("max_norm", "normalize", "expected"),
    [
        (0.0, False, ([3.0, 4.0], [12.0])),
        (6.5, False, ([1.5, 2.0], [6.0])),
        (20.0, False, ([3.0, 4.0], [12.0])),
        (0.0, True, ([0.6, 0.8], [1.0])),
        (0.5**0.5, True, ([0.3, 0.4], [0.5])),
    ],
)
def test_gradients_are_scaled_to_known_values(max_norm: float, normalize: bool, expected: tuple) -> None:
    a, b, without = (nn.Parameter(torch.zeros(size)) for size in (2, 1, 3))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    norm = scale_gradients([a, b, without], max_norm=max_norm, normalize=normalize)
    assert float(norm) == pytest.approx(13.0), "the norm before"
    torch.testing.assert_close((a.grad, b.grad), tuple(map(torch.tensor, expected)))
    assert without.grad is None


def test_clipping_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(size)) for size in (5, 7)] for _ in range(2))
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = 10 * torch.randn_like(mine)
        other.grad = mine.grad.clone()
    norm = scale_gradients(ours, max_norm=1.0, normalize=False)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, 1.0))
    assert all(torch.equal(mine.grad, other.grad) for mine, other in zip(ours, theirs, strict=True))


def test_with_normalized_gradients_one_parameter_does_not_stop_the_others() -> None:
    """A crop whose brightness is wrong has a gradient 45 times as large in two gains as the rest has in all others."""
    large, small = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    left = {}
    for normalize in (False, True):
        large.grad, small.grad = torch.tensor([1e4]), torch.tensor([1.0])
        scale_gradients([large, small], max_norm=1.0, normalize=normalize)
        left[normalize] = float(small.grad)
    assert left[False] < 1e-3 and left[True] > 0.5


def test_gradients_that_are_zero_or_missing_stay_so() -> None:
    zero, without = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    zero.grad = torch.zeros(2)
    assert float(scale_gradients([zero, without], max_norm=1.0, normalize=True)) == 0
    assert torch.equal(zero.grad, torch.zeros(2)) and without.grad is None
    assert float(scale_gradients([without], max_norm=1.0, normalize=True)) == 0


# -- several processes -----------------------------------------------------------------------------------------------


class Deterministic(nn.Module):
    """A codec without quantisation noise, guided by a frozen network."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.rate = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 4, 4)
        self.guide = nn.Linear(3, 1).requires_grad_(False)

    def forward(self, x: Tensor, *, sigma: Tensor | None = None, bpp_noisy: Tensor | None = None) -> Output:
        h_hat = 1 + self.guide(x.mean((2, 3)))[:, 0].square()
        return Output(x_hat=self.picture(x), likelihoods={"y": torch.sigmoid(self.rate(x))}, h_hat=h_hat)


def tasks() -> dict[str, Task]:
    L.seed_everything(0, verbose=False)
    common = {"optimizer": partial(torch.optim.SGD, lr=1e-3), "schedule": lambda step: 1.0, "seed": 0}
    guided = EntropyGuided(lmbda=2.0, target="codec", dual_rate=0.1)
    return {
        "denoiser": DenoiserTask(model=UNet(width=2), criterion=Denoising(distance="l1"), max_norm=1.0, **common),
        "guided codec": CodecTask(model=Deterministic(), criterion=guided, max_norm=1.0, **common),
    }


class Gradients(L.Callback):
    """Keeps the gradients of every step, reduced over the ranks, before clipping."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Task, optimizer: torch.optim.Optimizer) -> None:
        self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


def fit(pairs: list[Pair], *, devices: int, folder: Path) -> dict[str, object]:
    """Gradients of a step for each of ``pairs``, and the last mu, of each task."""
    results: dict[str, object] = {}
    for name, task in tasks().items():
        gradients = Gradients()
        trainer = L.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=len(pairs),
            callbacks=[EMA(), gradients], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
        )  # fmt: skip
        assert trainer.world_size == devices
        trainer.fit(task, DataLoader(pairs, batch_size=None, collate_fn=lambda pair: pair))
        results[name] = gradients.steps
        if isinstance(task.criterion, EntropyGuided):
            results["mu"] = float(task.criterion.log_mu.exp())
    return results


def batches(of: slice = slice(None)) -> list[Pair]:
    """Three batches of four crops, of very different noise, or a part of each."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(3):
        clean = torch.rand(4, 3, 32, 32, generator=generator)
        noise = torch.tensor([0.0, 0.05, 0.2, 0.4])[:, None, None, None] * torch.randn(clean.shape, generator=generator)
        pairs.append(Pair(noisy=(clean + noise)[of], clean=clean[of], sigma=torch.full((4,), 10.0)[of]))
    return pairs


def _rank(rank: int, port: int, folder: Path) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}  # as torchrun sets them
    os.environ.update({name: str(value) for name, value in (group | address).items()})
    torch.save(fit(batches(slice(2 * rank, 2 * rank + 2)), devices=2, folder=folder), folder / f"{rank}.pt")


def test_gradients_of_two_ranks_are_those_of_one_process_on_the_union_batch(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mp.spawn(_rank, args=(port, tmp_path), nprocs=2)
    expected = fit(batches(), devices=1, folder=tmp_path)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result.keys() == expected.keys()
        assert result["mu"] == pytest.approx(expected["mu"], rel=1e-6) and abs(expected["mu"] - 2) > 0.1
        for name in ("denoiser", "guided codec"):
            assert len(result[name]) == 3
            for ours, union in zip(result[name], expected[name], strict=True):
                assert ours.keys() == union.keys() and len(union) >= 4
                whole = torch.cat([gradient.flatten() for gradient in union.values()]).norm()
                for parameter, gradient in union.items():
                    error = (ours[parameter] - gradient).norm()
                    assert error <= 1e-5 * whole and error <= 1e-4 * gradient.norm() > 0, (name, parameter, error)
