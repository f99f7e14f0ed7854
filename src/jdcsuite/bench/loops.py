"""Training under Lightning against a plain loop.

Medians after a warm-up. The two loops take turns in one process, a block of steps each, so that whatever else slows
the machine down slows both.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from jdcsuite.bench.common import configuration
from jdcsuite.device import layout
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.training.task import Task
from jdcsuite.types import Pair


@dataclass(frozen=True)
class Overhead:
    """``ratios``: Lightning's time over the bare loop's, one a block of steps. ``averages``: the averaged parameters
    that each loop ends with, Lightning's first."""

    ratios: list[float]
    averages: tuple[list[Tensor], list[Tensor]]


class BareLoop:
    """A task's training step in plain PyTorch: same noise, criterion, clipping, optimiser, schedule and average."""

    def __init__(self, task: Task, *, device: torch.device, precision: str) -> None:
        self.task = task.to(device).to(memory_format=layout(device)).train()
        self.device, self.bf16, self.taken = device, precision == "bf16-mixed", 0
        made = task.configure_optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.parameters = [p.detach() for p in task.parameters()]
        self.average = [p.clone() for p in self.parameters]

    def __call__(self, pair: Pair) -> None:
        task, t = self.task, self.taken
        torch.manual_seed(hash((task.seed, task.first_of(t), 0)) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pair = task.criterion.prepare(pair)
            parts = task.criterion(task.predict(pair), pair)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.learning, task.max_norm or math.inf)
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()
        self.optimizer.step()
        self.scheduler.step()
        decay = min(0.999, (1 + t) / (10 + t)) if t else 0.0
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.taken += 1


class Turns:
    """Batches for Lightning's loop. After each block of ``steps`` of its own, the bare loop takes as many, on the
    same clock; one more step of each, untimed, ends the fit."""

    def __init__(
        self, batches: list[Pair], *, bare: Callable[[Pair], None], steps: int, blocks: int, clock: Callable[[], float]
    ) -> None:
        self.block = [batches[i % len(batches)] for i in range(steps)]
        self.bare, self.blocks, self.clock = bare, blocks, clock
        self.seconds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.blocks * len(self.block) + 1

    def __iter__(self) -> Iterator[Pair]:
        for _ in range(self.blocks):
            start = self.clock()
            yield from self.block
            middle = self.clock()
            for pair in self.block:
                self.bare(pair)
            self.seconds.append((middle - start, self.clock() - middle))
        self.bare(self.block[0])
        yield self.block[0]


def now(device: torch.device) -> float:
    """Seconds, once all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def loop_overhead(*, overrides: tuple[str, ...] = (), steps: int = 10, blocks: int = 11) -> Overhead:
    """The training step of a budget's FLLIC under Lightning's Trainer, as `training` makes it (average, clipping,
    metrics.csv), against `BareLoop`. Batches lie in memory; nothing is validated or saved. The first block of
    each loop is its warm-up. ``overrides``: of the configuration, whose budget is demo."""
    config = configuration(f"trainer.max_steps={blocks * steps + 1}", *overrides)
    tasks = []
    for _ in range(2):
        L.seed_everything(config["seed"], verbose=False)
        tasks.append(training.build(config, {})[1])
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(config, Path(folder), loggers.create(folder=Path(folder)))
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]
        device = trainer.strategy.root_device
        bare = BareLoop(tasks[1], device=device, precision=str(trainer.precision))
        batches = [_batch(config).to(device) for _ in range(4)]
        turns = Turns(batches, bare=bare, steps=steps, blocks=blocks, clock=partial(now, device))
        training.fit(trainer, tasks[0], turns)
    # a fit ends with the average in the task
    averages = ([p.detach().to(device) for p in tasks[0].parameters()], bare.average)
    return Overhead([lightning / plain for lightning, plain in turns.seconds[1:]], averages)


def _batch(config: dict) -> Pair:
    """A training batch of the configuration's size, of uniform noise."""
    count, side, sigma = config["data"]["batch"], config["data"]["crop"], float(config["sigma"])
    clean = torch.rand(count, 3, side, side)
    noisy = (clean + sigma / 255 * torch.randn_like(clean)).clamp(0, 1)
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((count,), sigma))
