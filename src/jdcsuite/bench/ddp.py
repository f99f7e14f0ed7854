"""`jdc bench ddp`: the training step of a configuration on one device and on several -> samples per second, and their
ratio.

Each measurement is a complete run under torchrun, as the suite starts one, at the same total batch. On a CPU every
process has one thread. Runs on one and on several devices alternate, so that other load on the machine slows both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.table import Table

from jdcsuite.artifacts import environment
from jdcsuite.bench.common import now, quartiles, trainable
from jdcsuite.study.launch import process_group
from jdcsuite.study.launch.lifetime import end_with_group
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.types import UserError

WARM_UP = 3  # steps before those that are timed


class Timed(L.Callback):
    """``seconds``: of the steps behind the warm-up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        done, device = trainer.global_step, module.device
        if done == WARM_UP:
            self.seconds = -now(device)
        elif done == trainer.max_steps:
            self.seconds += now(device)


def measure(overrides: tuple[str, ...] = (), *, steps: int | None = None, blocks: int = 3) -> list[tuple[float, float]]:
    """Samples per second on one device and on `trainer.devices`, of each block. ``steps``: timed ones of a run; None:
    50 on a GPU, else 10. UserError: the configuration is invalid, names one device, or cannot be measured alone."""
    steps = (50 if torch.cuda.is_available() else 10) if steps is None else steps
    config = trainable(*overrides, f"trainer.max_steps={steps + WARM_UP}")
    devices = config["trainer"]["devices"]
    if devices == 1:
        raise UserError("one device is compared with several: give trainer.devices=2, or more")
    rates: list[tuple[float, float]] = []
    for _ in range(blocks):
        seconds = (_seconds(config, number) for number in (1, devices))
        one, several = (steps * config["data"]["batch"] / each for each in seconds)
        rates.append((one, several))
    return rates


def _seconds(config: dict, devices: int) -> float:
    """The time that the timed steps of a run take on so many devices."""
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder, "job.json"), Path(folder, "seconds.json")
        job.write_text(json.dumps({**config, "trainer": {**config["trainer"], "devices": devices}}))
        command = process_group.torchrun(devices, job, result, module="jdcsuite.bench.ddp")
        status = process_group.status_of(command, environment={"OMP_NUM_THREADS": "1"})
        if status or not result.is_file():
            raise UserError(
                f"a run on {devices} device{'s' if devices > 1 else ''} ended with status {status}: see above"
            )
        return json.loads(result.read_text())


def run(job: Path, result: Path) -> None:
    """What each rank runs: the steps of a job, and on the first rank the file with their time."""
    config = json.loads(job.read_text())
    torch.set_num_threads(1)
    training.quieten()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, task = training.build(config, {})
    data.prepare()
    trainer = training.make_trainer(config, job.parent, loggers.create(folder=job.parent))
    trainer.limit_val_batches = 0
    timed = Timed()
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)] + [timed]
    training.fit(trainer, task, data)
    if trainer.is_global_zero:
        result.write_text(json.dumps(timed.seconds))


def report(console: Console, overrides: tuple[str, ...] = (), *, steps: int | None = None, blocks: int = 3) -> None:
    """Prints the result of `measure` as a table."""
    rates = measure(overrides, steps=steps, blocks=blocks)
    words = " ".join(overrides)
    table = Table("what", "median", "quartiles", title=f"{words} on {environment.hardware()}")
    table.add_row("samples a second, one device", *quartiles([one for one, _ in rates], ".2f"))
    table.add_row("samples a second, all devices", *quartiles([several for _, several in rates], ".2f"))
    table.add_row("ratio", *quartiles([several / one for one, several in rates], ".2f"))
    console.print(table)


if __name__ == "__main__":
    end_with_group()
    run(Path(sys.argv[1]), Path(sys.argv[2]))
