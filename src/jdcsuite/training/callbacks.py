"""Events of the Trainer -> averaged weights, compiled training steps, checkpoints, also at a signal, and a progress
bar."""

from __future__ import annotations

import signal
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from jdcsuite.artifacts.folder import LAST, PREVIOUS
from jdcsuite.imaging import atomic


class EMA(WeightAveraging):
    """Exponential moving average of the parameters, decay min(.999, (1 + t) / (10 + t)) after t steps. Validation, the
    test and the exported weights use it. Buffers are copied, not averaged: tables change their shape.

    Lightning's update visits all modules and synchronises with the device three times per step; this one prepares lists
    of tensors once and counts steps on the CPU.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False)
        self._lists: tuple[list[Tensor], list[Tensor]] | None = None
        self._updates = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Callbacks are set up before the module is moved: without this, the average of a GPU run stays on the CPU.
        self._device, self._lists = trainer.strategy.root_device, None
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step <= self._latest_update_step:
            return
        average = self._average_model
        if self._lists is None:  # here the module is on its device and a checkpoint is restored
            self._lists = tuple([p.detach() for p in module.parameters()] for module in (average.module, pl_module))
            self._buffers = tuple(list(module.buffers()) for module in (average.module, pl_module))
            self._updates = int(average.n_averaged)
        t = self._updates
        torch._foreach_lerp_(*self._lists, 1 - min(0.999, (1 + t) / (10 + t)) if t else 1.0)
        torch._foreach_copy_(*self._buffers)
        average.n_averaged += 1
        self._updates += 1
        self._latest_update_step = trainer.global_step

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A run that is resumed after its last step has no step left, and Lightning then skips on_train_end.
        self._copy_average_to_current(pl_module)


class Compiled(L.Callback):
    """Runs the model's training steps through `torch.compile`, but not validation, test and coding, where images have
    any size. Checkpoints keep their names, and the same seed gives the same random numbers. torch caches compiled code
    in TORCHINDUCTOR_CACHE_DIR."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("default")
        pl_module.model.compile(dynamic=False, options={"fallback_random": True})

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("default")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.model._compiled_call_impl = None  # set by `Module.compile`, which has no inverse


def checkpoint(*, folder: Path, every: int) -> ModelCheckpoint:
    """Writes the checkpoint after every ``every`` steps; a run resumes from it.

    differs from the papers: no checkpoint is selected by its validation loss, because the result is the averaged
    weights at the end of the learning-rate schedule, and the loss of FLLIC-w changes its weight of the MSE at every
    step.
    """
    return ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it; the one before is kept as `previous.ckpt`. Lightning writes
    to the folder of temporary files and copies from there, so a crash can leave half of the only checkpoint."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        path, content = Path(path), BytesIO()
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as part:
            part.write_bytes(content.getbuffer())
            if path.is_file():
                path.replace(path.with_name(Path(PREVIOUS).name))


STOPPED = 128 + signal.SIGUSR2  # exit status of a process that SIGUSR2 has stopped


class StopOnSignal(L.Callback):
    """SIGUSR2 (a cluster, before the job's time is up) and SIGTERM: training writes its last checkpoint (`save`) after
    the step it is in and ends the process with status 128 + signal. Ranks agree on the step every ``trainer.log_every``
    steps.

    Lightning's own handlers are replaced: its handler of SIGTERM communicates between ranks from inside the handler,
    which deadlocks ranks that are in other calls, and writes no checkpoint.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self._received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def _receive(self, number: int, frame: object) -> None:
        self._received = number

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        received = self._received
        if trainer.world_size > 1:
            if trainer.global_step % trainer.log_every_n_steps:
                return
            numbers = torch.tensor(float(received), device=trainer.strategy.root_device)
            received = int(trainer.strategy.reduce(numbers, reduce_op="max"))
        if received and trainer.global_step < trainer.max_steps:
            kept = self.save(trainer)
            if trainer.is_global_zero:
                name, step = signal.Signals(received).name, trainer.global_step
                print(f"  stopped by {name} after step {step}; {kept}", file=sys.stderr, flush=True)
            raise SystemExit(128 + received)

    def save(self, trainer: L.Trainer) -> str:
        """Writes what a stopped run leaves, on every rank; returns what the user is told of it."""
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST)
        return "the same command goes on"

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def resumable(folder: Path) -> Path | None:
    """The newest checkpoint of a run that can be read, or None; damaged ones are reported and passed over."""
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_file():
            try:
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                return path
            except Exception as error:  # torch raises many kinds for a damaged file
                if rank_zero_only.rank == 0:
                    reason = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
                    print(f"  {path} is damaged and passed over ({reason})", file=sys.stderr)
    return None


class Progress(RichProgressBar):
    """Lightning's progress bar, which stays on the screen when a run ends and counts no epochs: there is only one."""

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=10)
        self._shown: dict[str, int | str | float | dict[str, float]] = {}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        # Lightning calls this at every step; reading values would synchronise, and they change at log steps only.
        if not trainer.training or trainer.global_step % trainer.log_every_n_steps == 0:
            values = {name: float(value) for name, value in pl_module.shown.items()}
            self._shown = {**values, **super().get_metrics(trainer, pl_module)}
        return self._shown
