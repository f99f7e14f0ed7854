"""A configuration or trained weights -> what Lightning's loop and the coder cost beside the networks, as ratios.

Medians after a warm-up. The two training loops take turns in one process, a block of steps each, so that whatever
else slows the machine down slows both.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from jdcsuite import resolvers, runs, tracker, training, weights
from jdcsuite.data.images import embedded
from jdcsuite.data.noise import to_tensor
from jdcsuite.metrics import timed
from jdcsuite.models.codec import Codec
from jdcsuite.task import Task
from jdcsuite.types import Pair


@dataclass(frozen=True)
class Overhead:
    """``ratios``: Lightning's time over the bare loop's, one a block of steps. ``averages``: the averaged parameters
    that each loop ends with, Lightning's first."""

    ratios: list[float]
    averages: tuple[list[Tensor], list[Tensor]]


def configuration(*overrides: str) -> dict:
    """FLLIC's configuration as the launcher composes it, without progress bar and W&B."""
    resolvers.register()
    said = ["+experiment=fllic", "logger=none", "trainer.progress=false", *overrides]
    with initialize_config_dir(str(Path(__file__).resolve().parent / "conf"), version_base="1.3"):
        return runs.plain(compose("config", said))


class BareLoop:
    """A task's training step in plain PyTorch: same noise, criterion, clipping, optimiser, schedule and average."""

    def __init__(self, task: Task, *, device: torch.device, precision: str) -> None:
        self.task, self.device, self.bf16, self.taken = task.to(device).train(), device, precision == "bf16-mixed", 0
        made = task.configure_optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.trainable, self.parameters = list(task.trainable()), [p.detach() for p in task.parameters()]
        self.average = [p.clone() for p in self.parameters]

    def __call__(self, pair: Pair) -> None:
        task, t = self.task, self.taken
        torch.manual_seed(hash((task.seed, t, 0)) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pair = task.criterion.prepare(pair)
            parts = task.criterion(task.predict(pair), pair)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.trainable, task.max_norm or math.inf)
        if torch.isfinite(norm):
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
        trainer = training._trainer(config, Path(folder), tracker.loggers(folder=Path(folder), tracker=None))
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]
        device = trainer.strategy.root_device

        def clock() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        bare = BareLoop(tasks[1], device=device, precision=str(trainer.precision))
        batches = [_batch(config).to(device) for _ in range(4)]
        turns = Turns(batches, bare=bare, steps=steps, blocks=blocks, clock=clock)
        trainer.fit(tasks[0], turns)
    # a fit ends with the average in the task
    averages = ([p.detach().to(device) for p in tasks[0].parameters()], bare.average)
    return Overhead([lightning / plain for lightning, plain in turns.seconds[1:]], averages)


def _batch(config: dict) -> Pair:
    """A training batch of the configuration's size, of uniform noise."""
    count, side, sigma = config["data"]["batch"], config["data"]["crop"], float(config["sigma"])
    clean = torch.rand(count, 3, side, side)
    noisy = (clean + sigma / 255 * torch.randn_like(clean)).clamp(0, 1)
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((count,), sigma))


def codec_speed(
    codec: str | Path | Codec, *, size: tuple[int, int] = (512, 768), repeats: int = 5, device: str = "cpu"
) -> dict[str, list[tuple[float, float]]]:
    """``compress`` and ``decompress``: for each repeat, wall time in ms and the share of it outside the networks.

    Codes a photograph of ``size`` (height, width); files stay in memory. ``codec``: a run, its weights, or a model
    that is ready to code. Its networks are the parts that are called as modules; outside them are entropy coding,
    container and the hash of the weights."""
    model = (codec if isinstance(codec, Codec) else weights.load(codec)).to(device)
    grown = np.pad(embedded("test")[0][1], [(0, max(size)), (0, max(size)), (0, 0)], mode="symmetric")
    x = to_tensor(grown[: size[0], : size[1]])[None].to(device)
    data = model.compress(x, sigma=10.0)
    model.decompress(data)
    work = {"compress": lambda: model.compress(x, sigma=10.0), "decompress": lambda: model.decompress(data)}
    return {verb: [_split(model, do, like=x) for _ in range(repeats)] for verb, do in work.items()}


def _split(model: nn.Module, work: Callable[[], object], *, like: Tensor) -> tuple[float, float]:
    """Wall time of ``work`` in ms, and the share of it spent outside the calls of the model's parts."""
    inside: list[float] = []

    def clocked(forward: Callable) -> Callable:
        def call(*given: object) -> object:
            result, ms = timed(lambda: forward(*given), like)
            inside.append(ms)
            return result

        return call

    parts = list(model.children())
    for part in parts:
        part.forward = clocked(part.forward)
    try:
        _, total = timed(work, like)
    finally:
        for part in parts:
            del part.forward
    return total, 1 - sum(inside) / total


def bench(console: Console, *, overrides: tuple[str, ...] = (), steps: int = 10, blocks: int = 11) -> None:
    """Prints this machine's figures for FLLIC, its weights as they start; the demo budget's unless ``overrides`` say
    otherwise."""
    ratios = loop_overhead(overrides=overrides, steps=steps, blocks=blocks).ratios
    model = training.build(configuration(*overrides), {})[1].model.eval()
    model.update()
    speed = codec_speed(model, device="cuda" if torch.cuda.is_available() else "cpu")
    table = Table("what", "median", "quartiles", title=f"FLLIC on {runs.hardware()}")
    table.add_row(f"training step, Lightning / bare loop ({blocks - 1} x {steps} steps)", *_told(ratios, ".3f"))
    for verb, repeats in speed.items():
        ms, outside = zip(*repeats, strict=True)
        table.add_row(f"{verb} 768x512 pixels, ms", *_told(ms, ".0f"))
        table.add_row("  share outside the networks", *_told(outside, ".0%"))
    console.print(table)


def _told(values: list[float] | tuple[float, ...], form: str) -> tuple[str, str]:
    low, middle, high = (format(float(q), form) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"
