"""Trainer events -> averaged weights, checkpoints and a progress bar."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from torch import Tensor


def _average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
    t = int(updates)
    torch._foreach_lerp_(averaged, current, 1 - min(0.999, (1 + t) / (10 + t)))


class EMA(WeightAveraging):
    """Exponential moving average of the parameters, decay min(.999, (1 + t) / (10 + t)) after t steps; validation,
    the test and the exported weights use it. Parameters only: tables change their shape."""

    def __init__(self) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=_average)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A run that died after its last step has none left to do, and then Lightning never reaches on_train_end.
        self._copy_average_to_current(pl_module)


def checkpoints(*, folder: Path, every: int) -> list[ModelCheckpoint]:
    """`best.ckpt` by the validation loss, and `last.ckpt` every ``every`` steps, from which a run resumes."""
    best = ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    return [best, last]


class Progress(RichProgressBar):
    """Lightning's bar (done, rate, time left), left on the screen when a run ends."""

    def __init__(self) -> None:
        super().__init__(leave=False, refresh_rate=10)
