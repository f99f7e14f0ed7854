"""Trainer events -> averaged weights, checkpoints and a progress bar."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Exponential moving average of the parameters, decay min(.999, (1 + t) / (10 + t)) after t steps; validation,
    the test and the exported weights use it. Parameters only: tables change their shape.

    Lightning's update walks all modules and waits for the device three times a step; here the lists are made once
    and the steps are counted on the CPU.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False)
        self._lists: tuple[list[Tensor], list[Tensor]] | None = None
        self._updates = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Callbacks are set up before the module is moved: without this, a GPU run's average stays on the CPU.
        self._device, self._lists = trainer.strategy.root_device, None
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step <= self._latest_update_step:
            return
        average = self._average_model
        if self._lists is None:  # by now the module is on its device and a checkpoint is restored
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
        # A run that died after its last step has none left to do, and then Lightning never reaches on_train_end.
        self._copy_average_to_current(pl_module)


class Compiled(L.Callback):
    """The model's training steps run through `torch.compile`; validation, the test and coding stay as they are, for
    their pictures have any size. Nothing is renamed in checkpoints, and random numbers are drawn as without it, so a
    seed means the same noise. torch keeps what it compiled in TORCHINDUCTOR_CACHE_DIR."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("default")
        pl_module.model.compile(dynamic=False, options={"fallback_random": True})

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.compiler.set_stance("default")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.model._compiled_call_impl = None  # what `Module.compile` sets; there is no call that takes it back


def checkpoint(*, folder: Path, every: int) -> ModelCheckpoint:
    """`last.ckpt` every ``every`` steps, from which a run resumes.

    differs from the papers: none is chosen by its validation loss, because the average at the end of a decayed rate
    is what a run is for, and FLLIC-w's loss weighs the MSE anew at every step. Validation is watched, not used.
    """
    return ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)


class Progress(RichProgressBar):
    """Lightning's bar (done, rate, time left), left on the screen when a run ends."""

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=10)
        self._shown: dict[str, int | str | float | dict[str, float]] = {}

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        # Lightning asks at every step, and would wait for the device; new figures come at log steps only.
        if not trainer.training or trainer.global_step % trainer.log_every_n_steps == 0:
            figures = {name: float(value) for name, value in pl_module.shown.items()}
            self._shown = {**figures, **super().get_metrics(trainer, pl_module)}
        return self._shown
