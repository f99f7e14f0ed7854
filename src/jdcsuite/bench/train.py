"""`jdc bench train`: the training step of a configuration -> samples per second, and its fraction of the FLOP/s of a
matrix product on this device.

The run is a complete one: Trainer, datamodule, loader, weight averaging and log. `BareLoop` trains the same network in
plain PyTorch on batches that are already on the device. They alternate in blocks of steps, so that other load on the
machine slows both.
"""

from __future__ import annotations

import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite.artifacts import environment
from jdcsuite.bench.common import now, quartiles, trainable
from jdcsuite.device import layout
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.training.gradients import scale_gradients
from jdcsuite.training.task import Task
from jdcsuite.types import Pair, UserError

TRACED = 3  # steps under the profiler
KEPT = 2  # batches of the run that the bare loop uses alternately


@dataclass(frozen=True)
class Measured:
    """``batch``: crops per step, of ``crop`` x ``crop`` pixels. ``seconds``: of each timed block of ``steps``, of the
    run and of the bare loop. ``flops``: of a step (`count_flops`). ``rate``: of a matrix product, FLOP/s. ``peaks``:
    memory in bytes, of the run and of the bare loop. ``costliest``: kernel (on a CPU: operator), fraction of the time
    that the run spends in kernels, calls per step."""

    device: torch.device
    batch: int
    crop: int
    steps: int
    seconds: list[tuple[float, float]]
    flops: int
    rate: float
    peaks: tuple[int, int]
    costliest: list[tuple[str, float, float]]

    def samples(self, loop: int) -> list[float]:
        """Samples per second of each block; ``loop`` 0 is the run, 1 the bare loop."""
        return [self.batch * self.steps / block[loop] for block in self.seconds]

    def shares(self, loop: int) -> list[float]:
        """Fraction of the matrix rate in each block."""
        return [self.flops * self.steps / block[loop] / self.rate for block in self.seconds]


class BareLoop:
    """The training step of a task in plain PyTorch: same random numbers, criterion, clipping, optimiser, schedule and
    weight averaging."""

    def __init__(self, task: Task, *, device: torch.device, precision: str) -> None:
        self.task = task.to(device).to(memory_format=layout(device)).train()
        self.device, self.bf16, self.taken = device, precision == "bf16-mixed", 0
        optimizers = task.configure_optimizers()
        self.optimizer, self.scheduler = optimizers["optimizer"], optimizers["lr_scheduler"]["scheduler"]
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
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
        norm = scale_gradients(self.trained, max_norm=task.max_norm, normalize=task.normalize)
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()
        self.optimizer.step()
        self.scheduler.step()
        decay = min(0.999, (1 + t) / (10 + t)) if t else 0.0
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.taken += 1


class Blocks(L.Callback):
    """Times blocks of ``steps`` of a fit, the first of which is a warm-up, and as many steps of the bare loop after
    each; then traces `TRACED` more steps of the fit."""

    def __init__(self, bare: BareLoop, *, steps: int, blocks: int, device: torch.device) -> None:
        self.bare, self.steps, self.blocks, self.device = bare, steps, blocks, device
        self.seconds: list[tuple[float, float]] = []
        self.peaks: list[tuple[int, int]] = []
        self.flops = 0
        self._batches: list[Pair] = []
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        self.trace = profile(activities=activities)

    @property
    def total(self) -> int:
        return self.steps * (self.blocks + 1) + TRACED

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Pair, batch_idx: int
    ) -> None:
        self._batches = [*self._batches, batch][:KEPT]
        done = batch_idx + 1
        if done == self.total:
            now(self.device)
            self.trace.stop()
        elif done % self.steps == 0 and len(self.seconds) <= self.blocks:
            self._turn()
            if len(self.seconds) > self.blocks:
                self.trace.start()

    def _begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._since = now(self.device)

    def _turn(self) -> None:
        run, run_peak = now(self.device) - self._since, self._peak()
        if not self.flops:
            self.flops = count_flops(self.bare.task, self._batches[0])
        self._begin()
        for i in range(self.steps):
            self.bare(self._batches[i % len(self._batches)])
        self.seconds.append((run, now(self.device) - self._since))
        self.peaks.append((run_peak, self._peak()))
        self._begin()  # waiting for the first batch of the next block counts for the run

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(overrides: tuple[str, ...] = (), *, steps: int | None = None, blocks: int = 5) -> Measured:
    """``overrides``: as for training. ``steps``: in a block; None: 50 on a GPU, more than the loader prefetches, else
    5. UserError: the configuration is invalid, or cannot be measured alone in one process."""
    steps = (50 if torch.cuda.is_available() else 5) if steps is None else steps
    config = trainable(*overrides, f"trainer.max_steps={steps * (blocks + 1) + TRACED}")
    if config["trainer"]["devices"] != 1:
        raise UserError(f"trainer.devices={config['trainer']['devices']} is not measured: leave it at 1")
    training.quieten()
    tasks = []
    for _ in range(2):
        L.seed_everything(config["seed"], workers=True, verbose=False)
        data, task = training.build(config, {})
        tasks.append(task)
    data.prepare()
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(config, Path(folder), loggers.create(folder=Path(folder)))
        trainer.limit_val_batches = 0
        device = trainer.strategy.root_device
        rate = matrix_rate(device)
        bare = BareLoop(tasks[1], device=device, precision=str(trainer.precision))
        turns = Blocks(bare, steps=steps, blocks=blocks, device=device)
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)] + [turns]
        training.fit(trainer, tasks[0], data)
    return Measured(
        device=device, batch=config["data"]["batch"], crop=config["data"]["crop"], steps=steps,
        seconds=turns.seconds[1:], flops=turns.flops, rate=rate,
        peaks=(max(run for run, _ in turns.peaks), max(bare for _, bare in turns.peaks)),
        costliest=costliest(turns.trace, device),
    )  # fmt: skip


@torch.no_grad()
def count_flops(task: Task, pair: Pair) -> int:
    """FLOP of a training step, two per multiply-accumulate: supervision once, model three times. The backward pass is
    not counted directly, because PyTorch counts the weight gradients of depthwise convolutions as those of full
    ones."""
    with FlopCounterMode(display=False) as target:
        pair = task.criterion.prepare(pair)
    with FlopCounterMode(display=False) as model:
        task.predict(pair)
    return target.get_total_flops() + 3 * model.get_total_flops()


def matrix_rate(device: torch.device, *, side: int | None = None, repeats: int = 5) -> float:
    """FLOP/s of a product of square matrices, the fastest of ``repeats`` after a warm-up. Default: bf16 and 8192 rows
    on a GPU, float32 and 1024 on a CPU."""
    gpu = device.type == "cuda"
    side = side or (8192 if gpu else 1024)
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if gpu else torch.float32)
    seconds = []
    for _ in range(repeats + 1):
        start = now(device)
        for _ in range(10):
            a @ b
        seconds.append(now(device) - start)
    return 10 * 2 * side**3 / min(seconds[1:])


def costliest(trace: profile, device: torch.device, *, count: int = 5) -> list[tuple[str, float, float]]:
    """The kernels (on a CPU: operators) that take most of a traced step: name, fraction of the time, calls per
    step."""
    cuda = device.type == "cuda"
    times = [
        (e.key, e.self_device_time_total if cuda else e.self_cpu_time_total, e.count)
        for e in trace.key_averages()
        # without ranges that contain kernels, such as the whole step of an optimiser
        if (e.device_type == DeviceType.CUDA) == cuda and not e.is_user_annotation and "#" not in e.key
    ]
    total = sum(time for _, time, _ in times)
    times.sort(key=lambda row: -row[1])
    return [(name, time / total, calls / TRACED) for name, time, calls in times[:count]]


def report(console: Console, overrides: tuple[str, ...] = (), *, steps: int | None = None, blocks: int = 5) -> None:
    """Prints the result of `measure` as a table."""
    result = measure(overrides, steps=steps, blocks=blocks)
    gpu = result.device.type == "cuda"
    words = " ".join(overrides) or "+experiment=fllic"
    title = f"{words}: steps of {result.batch} crops of {result.crop} pixels on {environment.hardware()}"
    table = Table("what", "median", "quartiles", title=title)
    table.add_row(f"samples a second ({blocks} x {result.steps} steps)", *quartiles(result.samples(0), ".1f"))
    table.add_row("  of the bare loop", *quartiles(result.samples(1), ".1f"))
    ratios = [bare / run for run, bare in result.seconds]
    table.add_row("  run / bare loop", *quartiles(ratios, ".3f"))
    kind = "bf16, 8192 x 8192" if gpu else "float32, 1024 x 1024"
    table.add_row(f"matrix product ({kind}), TFLOP/s", f"{result.rate / 1e12:.3g}", "")
    table.add_row("arithmetic of a step, GFLOP", f"{result.flops / 1e9:.4g}", "")
    table.add_row("  share of the matrix rate", *quartiles(result.shares(0), ".1%"))
    table.add_row("  of the bare loop", *quartiles(result.shares(1), ".1%"))
    run, bare = (f"{peak / 2**30:.2f}" for peak in result.peaks)
    if gpu:
        table.add_row("peak memory, GiB (with both networks)", run, "")
        table.add_row("  of the bare loop", bare, "")
    else:
        table.add_row("peak memory of the process, GiB", bare, "")
    for name, share, calls in result.costliest:
        short = name if len(name) <= 60 else name[:57] + "..."
        table.add_row(f"{short}, {calls:g} a step", f"{share:.1%}", "")
    console.print(table)
    console.print(f"The last rows: the costliest {'kernels' if gpu else 'operators'}, and their share of a step.")
