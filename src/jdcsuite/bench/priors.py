"""A training step of the many-priors codec: its own search, the naive form, and no search at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from jdcsuite.bench.coding import photograph
from jdcsuite.bench.common import configuration
from jdcsuite.entropy import naive
from jdcsuite.judging.metrics import timed
from jdcsuite.training import job as training
from jdcsuite.types import Pair

T = TypeVar("T")


@dataclass(frozen=True)
class Steps:
    """``times``: wall times in ms. ``kernel``: share of their CPU time that the operating system took, as it does to
    hand out memory. ``loss``: of the first step. ``kept``: bytes that its forward pass left for the backward pass,
    weights included."""

    times: list[float]
    kernel: float
    loss: float
    kept: int


def competition(
    *, width: float, batch: int = 4, crop: int = 128, repeats: int = 5, device: str = "cpu"
) -> dict[str, Steps]:
    """Training steps of JDC's codec with its own search ("searched"), in the naive form (`entropy/naive`; "naive") and
    with the first step's choice of priors kept, which no search can undercut ("free"); in turns on the same crops and
    noise. RuntimeError where the first losses are not one number."""
    config = configuration(f"width={width}", experiment="jdc_cn")
    clean = torch.cat(photograph((crop, batch * crop)).to(device).split(crop, 3))
    pair = Pair(noisy=clean, clean=clean, sigma=torch.full((batch,), math.nan, device=device))
    criterion = training.construct(config["criterion"])
    forms = ("searched", "naive", "free")
    models = []
    for _ in forms:
        L.seed_everything(config["seed"], verbose=False)
        model = training.construct(config["model"]).to(device).train()
        models.append((model, torch.optim.Adam(model.parameters(), lr=config["lr"])))
    slow, free = (model.prior_y for model, _ in models[1:])
    slow.forward = lambda y: naive.likelihoods(slow, y)
    free.search = once(free.search)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = criterion(model(pair.noisy), pair)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    times: list[list[float]] = [[] for _ in forms]
    cpu = [np.zeros(2) for _ in forms]  # seconds of CPU time: of the program itself, and of the system for it
    first: list[tuple[float, int]] = []
    for turn in range(repeats + 1):
        for spent, used, parts in zip(times, cpu, models, strict=True):
            torch.manual_seed(turn)  # the same noise in the place of rounding
            if turn:
                before = os.times()
                spent.append(timed(lambda parts=parts: step(*parts), clean)[1])
                used += np.subtract(os.times()[:2], before[:2])
            else:  # the warm-up
                first.append(_kept(lambda parts=parts: step(*parts)))
    made = {
        form: Steps(spent, float(used[1] / max(used.sum(), 1e-9)), *said)
        for form, spent, used, said in zip(forms, times, cpu, first, strict=True)
    }
    losses = [made[form].loss for form in forms]
    if not all(math.isclose(losses[0], loss, rel_tol=1e-4) for loss in losses):
        raise RuntimeError(f"the forms of the competition have different losses: {losses}")
    return made


def once(work: Callable[[Tensor], T]) -> Callable[[Tensor], T]:
    """``work``, done at the first call only; later ones get the same result."""
    done: list[T] = []

    def kept(x: Tensor) -> T:
        if not done:
            done.append(work(x))
        return done[0]

    return kept


def _kept(work: Callable[[], float]) -> tuple[float, int]:
    """What ``work`` returns, and the bytes of all that autograd kept on its way."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    return result, sum(storages.values())
