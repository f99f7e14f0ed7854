"""A training step of the many-priors codec -> its time and memory with the search of priors, without any search, and in
the naive form (`tests/naive.py`): a row for each width and batch.

python experiments/many_priors/step.py [cpu|cuda] > experiments/many_priors/results.csv
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jdcsuite.artifacts import environment
from jdcsuite.bench.coding import photograph
from jdcsuite.bench.common import configuration
from jdcsuite.judging.metrics import timed
from jdcsuite.training import job as training
from jdcsuite.types import Pair

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

sys.path.extend(map(str, (Path(__file__).parents[1], Path(__file__).parents[2] / "tests")))
import naive
import script

# crops, their side, widths, repeats: a small batch, and the published one
SETTINGS = ((4, 128, (0.1, 0.25, 0.5, 1.0), 15), (5, 256, (0.1, 0.25, 0.5, 1.0), 5))


@dataclass(frozen=True)
class Steps:
    """``times``: wall times in ms. ``kernel``: fraction of the CPU time that was spent in the operating system, mostly
    for memory allocation. ``loss``: of the first step. ``kept``: bytes that its forward pass keeps for the backward
    pass, weights included."""

    times: list[float]
    kernel: float
    loss: float
    kept: int


def measure(
    *, width: float, batch: int = 4, crop: int = 128, repeats: int = 5, device: str = "cpu"
) -> dict[str, Steps]:
    """Alternating training steps on the same crops and quantisation noise: "searched" with the search of the codec,
    "naive" in the naive form, "free" with the choice of the first step, a lower bound for any search. RuntimeError: the
    first losses differ."""
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
    slow.forward = partial(naive.likelihoods, slow)
    free.search = once(free.search)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = criterion(model(pair.noisy), pair)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    times: list[list[float]] = [[] for _ in forms]
    cpu = [np.zeros(2) for _ in forms]  # CPU seconds in user and in kernel mode
    first: list[tuple[float, int]] = []
    for turn in range(repeats + 1):
        for form_times, form_cpu, parts in zip(times, cpu, models, strict=True):
            torch.manual_seed(turn)  # the same quantisation noise for all
            if turn:
                before = os.times()
                form_times.append(timed(partial(step, *parts), clean)[1])
                form_cpu += np.subtract(os.times()[:2], before[:2])
            else:  # warm-up
                first.append(_kept(partial(step, *parts)))
    losses = [loss for loss, _ in first]
    if not all(math.isclose(losses[0], loss, rel_tol=1e-4) for loss in losses):
        raise RuntimeError(f"the forms of the competition have different losses: {losses}")
    return {
        form: Steps(form_times, float(form_cpu[1] / max(form_cpu.sum(), 1e-9)), loss, kept)
        for form, form_times, form_cpu, (loss, kept) in zip(forms, times, cpu, first, strict=True)
    }


def once(work: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``work`` at the first call; later calls return the same result."""
    results: list[Tensor] = []

    def cached(x: Tensor) -> Tensor:
        if not results:
            results.append(work(x))
        return results[0]

    return cached


def _kept(work: Callable[[], float]) -> tuple[float, int]:
    """The result of ``work``, and the bytes of all tensors that autograd kept during it."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    return result, sum(storages.values())


def steps(given: argparse.Namespace) -> None:
    out = None
    for batch, crop, widths, repeats in SETTINGS:
        for width in widths:
            forms = measure(width=width, batch=batch, crop=crop, repeats=repeats, device=given.device)
            slow, searched, free = (np.array(forms[form].times) for form in ("naive", "searched", "free"))
            low, middle, high = np.quantile(slow / searched, (0.25, 0.5, 0.75))
            row = {"crops": batch, "crop": crop, "width": width, "naive_over_searched": f"{middle:.3f}"}
            row |= {"low": f"{low:.3f}", "high": f"{high:.3f}", "naive_over_free": f"{np.median(slow / free):.3f}"}
            for form in ("naive", "searched"):
                steps = forms[form]
                row |= {f"kept_{form}_mib": f"{steps.kept / 2**20:.1f}", f"kernel_{form}": f"{steps.kernel:.3f}"}
                row |= {f"loss_{form}": f"{steps.loss:.6f}"}
            row |= {"repeats": repeats, "hardware": environment.hardware()}
            if out is None:
                out = csv.DictWriter(sys.stdout, row)
                out.writeheader()
            out.writerow(row)
            sys.stdout.flush()


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("device", choices=("cpu", "cuda"), nargs="?", default="cpu")
    script.run(steps, parser, words)


if __name__ == "__main__":
    main()
