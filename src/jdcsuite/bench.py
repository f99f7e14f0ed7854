"""A configuration or trained weights -> what Lightning's loop and the coder cost beside the networks, as ratios.

Medians after a warm-up. The two training loops take turns in one process, a block of steps each, so that whatever
else slows the machine down slows both.
"""

from __future__ import annotations

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
from jdcsuite.callbacks import _average
from jdcsuite.data.images import embedded
from jdcsuite.data.noise import to_tensor
from jdcsuite.metrics import timed
from jdcsuite.models.codec import Codec
from jdcsuite.task import Task
from jdcsuite.types import Pair


@dataclass(frozen=True)
class Overhead:
    """``ratios``: Lightning's time over the bare loop's, one a block of ``steps``. ``averages``: the averaged
    parameters that each loop ends with, Lightning's first."""

    ratios: list[float]
    steps: int
    averages: tuple[list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Coding:
    """One picture, a figure a repeat: wall time in ms, and the share of it in which no network runs."""

    compress_ms: list[float]
    compress_outside: list[float]
    decompress_ms: list[float]
    decompress_outside: list[float]


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
        self.parameters = [p.detach() for p in task.parameters()]
        self.average = [p.clone() for p in self.parameters]

    def __call__(self, pair: Pair) -> None:
        task = self.task
        torch.manual_seed(hash((task.seed, self.taken, 0)) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pair = task.criterion.prepare(pair)
            parts = task.criterion(task.predict(pair), pair)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(task.trainable(), task.max_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.scheduler.step()
        if self.taken:
            _average(self.average, self.parameters, self.taken)
        else:
            torch._foreach_copy_(self.average, self.parameters)
        self.taken += 1


class Turns:
    """Batches for Lightning's loop. After each block of ``steps`` of its own, the bare loop takes as many, on the
    same clock; one more step, untimed, ends both."""

    def __init__(
        self, batches: list[Pair], *, bare: Callable[[Pair], None], steps: int, blocks: int, clock: Callable[[], float]
    ) -> None:
        self.batches, self.bare, self.steps, self.blocks, self.clock = batches, bare, steps, blocks, clock
        self.seconds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.blocks * self.steps + 1

    def __iter__(self) -> Iterator[Pair]:
        block = [self.batches[i % len(self.batches)] for i in range(self.steps)]
        for _ in range(self.blocks):
            start = self.clock()
            yield from block
            middle = self.clock()
            for pair in block:
                self.bare(pair)
            self.seconds.append((middle - start, self.clock() - middle))
        self.bare(block[0])
        yield block[0]


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
    return Overhead([lightning / plain for lightning, plain in turns.seconds[1:]], steps, averages)


def _batch(config: dict) -> Pair:
    """A training batch of the configuration's size, of uniform noise."""
    count, side, sigma = config["data"]["batch"], config["data"]["crop"], float(config["sigma"])
    clean = torch.rand(count, 3, side, side)
    noisy = (clean + sigma / 255 * torch.randn_like(clean)).clamp(0, 1)
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((count,), sigma))


def codec_speed(
    codec: str | Path | Codec, *, size: tuple[int, int] = (512, 768), repeats: int = 5, device: str = "cpu"
) -> Coding:
    """Codes a photograph of ``size`` (height, width), noise as it is, files in memory. ``codec``: a run, its
    weights or a model that is ready to code. Networks are its parts that are called as modules; outside them are
    entropy coding, tables, container and the hash of the weights."""
    model = (codec if isinstance(codec, Codec) else weights.load(codec)).to(device)
    grown = np.pad(embedded("test")[0][1], [(0, max(size)), (0, max(size)), (0, 0)], mode="symmetric")
    x = to_tensor(grown[: size[0], : size[1]])[None].to(device)
    data = model.compress(x, sigma=10.0)
    model.decompress(data)
    encoded = [_split(model, lambda: model.compress(x, sigma=10.0), like=x) for _ in range(repeats)]
    decoded = [_split(model, lambda: model.decompress(data), like=x) for _ in range(repeats)]
    (compress, compress_outside), (decompress, decompress_outside) = (
        zip(*encoded, strict=True),
        zip(*decoded, strict=True),
    )
    return Coding(list(compress), list(compress_outside), list(decompress), list(decompress_outside))


def _split(model: nn.Module, work: Callable[[], object], *, like: Tensor) -> tuple[float, float]:
    """Wall time of ``work`` in ms, and the share of it spent outside the calls of the model's parts."""
    inside = 0.0

    def clocked(forward: Callable) -> Callable:
        def call(*given: object, **named: object) -> object:
            nonlocal inside
            result, ms = timed(lambda: forward(*given, **named), like)
            inside += ms
            return result

        return call

    parts = list(model.children())
    try:
        for part in parts:
            part.forward = clocked(part.forward)
        _, total = timed(work, like)
    finally:
        for part in parts:
            del part.forward
    return total, 1 - inside / total


def bench(console: Console, *, size: tuple[int, int] = (512, 768), steps: int = 10, blocks: int = 11) -> None:
    """Prints the figures of this machine for FLLIC at the demo budget, its weights as they start."""
    loop = loop_overhead(steps=steps, blocks=blocks)
    model = training.build(configuration(), {})[1].model.eval()
    model.update()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    coding = codec_speed(model, size=size, device=device)
    table = Table("what", "median", "quartiles", title=f"FLLIC, budget demo, on {runs.hardware()}")
    table.add_row(f"training step, Lightning / bare loop ({blocks - 1} x {steps} steps)", *_told(loop.ratios, "{:.3f}"))
    for verb in ("compress", "decompress"):
        table.add_row(f"{verb} {size[1]}x{size[0]}, ms", *_told(getattr(coding, f"{verb}_ms"), "{:.0f}"))
        table.add_row("  share outside the networks", *_told(getattr(coding, f"{verb}_outside"), "{:.0%}"))
    console.print(table)


def _told(values: list[float], form: str) -> tuple[str, str]:
    low, middle, high = (form.format(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"
