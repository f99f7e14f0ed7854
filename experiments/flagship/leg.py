"""Trains the flagship for some more minutes: the weights kept here in, better weights and a row of legs.csv out.

    python experiments/flagship/leg.py MINUTES --data DATA [--final] [--set lr=3e-4 ...]

DATA holds `photos_train` (or --train NAME) to learn from and kodak24, mcmaster18 and cc15 (--test) to judge by; see the
README of this folder. Every leg sees samples and noise that no leg before it has seen. The learning rate is constant
after a short warm-up; that of a leg with --final falls to 0 over its last quarter, which ends a series of legs. The
averaged weights are written, in bfloat16, every minute and at the end, so a leg that is cut off loses a minute.
`--frozen denoiser embed` keeps a denoiser that `part.py` trained, which saves the time of its backward pass. With
`--set trainer.devices=2` the batch is split over so many GPUs or, with one thread each, CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jdcsuite
from jdcsuite.artifacts import environment, weights
from jdcsuite.artifacts.rows import write_rows
from jdcsuite.data.datamodule import DataModule
from jdcsuite.study import resolvers
from jdcsuite.study.composition import resolved
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.training.callbacks import EMA, StopOnSignal
from jdcsuite.training.task import Task
from jdcsuite.types import UserError

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Checkpoint

sys.path.extend(map(str, Path(__file__).parents[:2]))
import script
from grid import QUALITIES, SIGMAS, at_rate, grid

HERE = Path(__file__).parent
KEPT = HERE / "weights" / "flagship.safetensors"
TESTS = ["kodak24", "mcmaster18", "cc15"]
LEGS, RESULTS = HERE / "legs.csv", HERE / "results.csv"
WARM_UP = 100  # steps: Adam's moments are not kept between legs
NEVER = 10**9  # steps: time ends a leg
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# What a device is given where nothing else is said. The gradient of eight small crops is noisy: from the weights of leg
# 8, 13 minutes at 5e-4 lost .1 dB, at 1e-4 nothing.
USUAL = {
    "cuda": ["data.batch=32", "data.crop=256", "data.workers=12", "lr=4e-4"],
    "cpu": ["data.batch=8", "data.crop=128", "data.workers=1", "lr=1e-4"],
}
TERMS = {  # of the weights, by what they learned from
    "data": "photos_train: photographs from wallpapers of Linux distributions, without a licence file",
    "licence": "research, non-commercial",
}


class Clock(L.Callback):
    """Ends training ``seconds`` after its first step. As a schedule, the learning-rate factor of a step by this clock:
    1 after a warm-up, and with ``final`` falling to 0 over the last quarter. Several processes read the clock of the
    first, every ``trainer.log_every`` steps, because they must take the same steps and rates."""

    def __init__(self, seconds: float, *, final: bool) -> None:
        self.seconds, self.final = seconds, final
        self.start: float | None = None
        self.elapsed = 0.0

    def __call__(self, step: int) -> float:
        gone = self.elapsed / self.seconds
        fall = min(1.0, max(0.0, 4 * (1 - gone))) if self.final else 1.0
        return min(1.0, (step + 1) / WARM_UP) * fall

    def on_train_batch_end(self, trainer: L.Trainer, task: Task, outputs: object, batch: object, index: int) -> None:
        if self.start is None:
            self.start = time.monotonic()
        if trainer.world_size == 1 or trainer.global_step % trainer.log_every_n_steps == 0:
            self.elapsed = trainer.strategy.broadcast(time.monotonic() - self.start)
            trainer.should_stop = trainer.should_stop or self.elapsed >= self.seconds


class Keeper(StopOnSignal):
    """Writes the averaged weights every ``seconds``, and where a signal ends the leg."""

    def __init__(self, keep: Keep, *, seconds: float) -> None:
        super().__init__()
        self.keep, self.seconds, self.last = keep, seconds, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, task: Task, outputs: object, batch: object, index: int) -> None:
        if time.monotonic() - self.last > self.seconds:
            self.save(trainer)
            self.last = time.monotonic()
        super().on_train_batch_end(trainer, task, outputs, batch, index)

    def save(self, trainer: L.Trainer) -> str:
        if trainer.is_global_zero:
            (average,) = (c for c in trainer.callbacks if isinstance(c, EMA))
            self.keep(average._average_model.module.model, trainer.global_step)
        return f"{self.keep.path} holds its weights, and the next leg goes on from them"


class Keep:
    """A model and its number of steps -> the weights file, whole or not at all."""

    def __init__(self, path: Path, config: dict, about: dict, first_of: Callable[[int], int]) -> None:
        self.path, self.config, self.about, self.first_of = path, config, about, first_of

    def __call__(self, model: torch.nn.Module, steps: int) -> None:
        kept = copy.deepcopy(model).cpu().float().eval()
        weights.round_to_bf16(kept)
        kept.update()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = self.about | {"samples": self.first_of(steps)}
        weights.save(kept, self.config["model"], self.path, about=about, dtype=torch.bfloat16)


def configured(given: argparse.Namespace, *, start: Path | None = None) -> dict:
    """The experiment's configuration with the words of the command line, of two that say the same the last; ``start``:
    weights to start from."""
    resolvers.register()
    tests = [f"{name}/clean" if _is_pairs(given.data / name) else name for name in given.test]
    words = [
        "+experiment=flagship", "budget=lab", "width=1.0", *USUAL[DEVICE], "logger=none", "name=legs",
        "trainer.progress=false", f"trainer.max_steps={NEVER}", f"trainer.val_every={NEVER}", f"data.root={given.data}",
        f"data.train={given.train}", f"data.test=[{','.join(tests)}]", *given.words,
    ]  # fmt: skip
    if start is not None:
        words.append(f"init_from={start}")
    with initialize_config_dir(str((Path(jdcsuite.__file__).parent / "conf").resolve()), version_base="1.3"):
        return resolved(compose("config", words))


def described(config: dict, data: DataModule, before: dict) -> dict:
    """What the new weights say of themselves, with what those before them said."""
    scenes = None if data.train_scenes is None else sorted({*(before.get("train_scenes") or ()), *data.train_scenes})
    sets = [before.get("train_set"), data.train_set]
    return {
        "method": config["method"], "sigma": None, "lmbda": None, "budget": "legs", "seed": config["seed"],
        "run": "flagship", "curve": "flagship", "train_set": "+".join(dict.fromkeys(filter(None, sets))),
        "train_scenes": scenes,
        "legs": int(before.get("legs") or 0) + 1, "noise": data.facts["training_noise"],
        **{name: before.get(name) or terms for name, terms in TERMS.items()},
    }  # fmt: skip


def parser_of(file: str, description: str | None) -> argparse.ArgumentParser:
    """With the arguments of every script that trains the flagship."""
    parser = script.parser_of(file, description)
    parser.add_argument("--set", nargs="*", default=[], dest="words", help="words of the configuration")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--train", default="photos_train")
    return parser


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__file__, __doc__)
    parser.add_argument("minutes", type=float, help="of training, without start-up and judging")
    parser.add_argument("--test", nargs="*", default=TESTS)
    parser.add_argument("--final", action="store_true", help="the learning rate falls to 0 over the last quarter")
    parser.add_argument("--frozen", nargs="*", default=[], metavar="PART", help="of the network, not trained further")
    parser.add_argument("--weights", type=Path, default=KEPT, help="to go on from; none: start anew")
    parser.add_argument("--out", type=script.file_to_write, default=KEPT)
    parser.add_argument("--legs", type=script.file_to_write, default=LEGS)
    parser.add_argument("--results", type=script.file_to_write, default=RESULTS, help="the grid of this leg")
    parser.add_argument("--sigma", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--pictures", type=int, help="judge by the first so many of each folder")
    parser.add_argument("--judge-minutes", type=float, default=2.0, help="after which judging ends")
    script.run(leg, parser, words)


def leg(given: argparse.Namespace) -> None:
    if not given.minutes > 0:
        raise UserError(f"{given.minutes} minutes are no leg: give a number above 0")
    missing = [name for name in (given.train, *given.test) if not (given.data / name).is_dir()]
    if missing:
        raise UserError(f"{given.data} holds no folder {missing[0]}: give --train and --test what is there")
    start = None if given.weights == Path("none") else given.weights
    if start is not None and not start.is_file():
        raise UserError(f"there are no weights {start}: give those to go on from, or --weights none to start anew")
    config = configured(given, start=start)
    L.seed_everything(config["seed"], verbose=False)
    data, task = training.build(config, {})
    data.prepare()
    before = {} if start is None else weights.read(start)[1]
    for part in parts_of(task.model, given.frozen):
        part.requires_grad_(False)
    task.schedule = clock = Clock(60 * given.minutes, final=given.final)
    about = described(config, data, before)
    keep = Keep(given.out, config, about, data.first_of)
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.make_trainer(config, Path(folder), loggers.create(folder=Path(folder)))
        own = [clock, Keeper(keep, seconds=60)]
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, (Checkpoint, StopOnSignal))] + own
        threads = torch.get_num_threads()
        training.fit(trainer, task, data)
        torch.set_num_threads(threads)  # Lightning gives each of several processes on a CPU its share
        if not trainer.is_global_zero:
            return
        losses = [float(row["train/loss"]) for row in _read(Path(folder) / "metrics.csv") if row.get("train/loss")]
    keep(task.model, trainer.global_step)
    minutes = clock.elapsed / 60
    print(f"{trainer.global_step} steps in {minutes:.2f} minutes: {given.out}", flush=True)
    folders = [given.data / name for name in given.test]
    judged = grid(
        weights.load(given.out, device=DEVICE), folders, sigmas=given.sigma, limit=given.pictures,
        seconds=60 * given.judge_minutes,
    )  # fmt: skip
    cells = sum(1 if _is_pairs(path) else len(given.sigma) for path in folders)
    if len(judged) < cells * len(QUALITIES):
        print(
            f"{cells - len(judged) // len(QUALITIES)} of {cells} sets and noise levels were not judged within "
            f"{given.judge_minutes:g} minutes: grid.py judges them, or give --judge-minutes more or --pictures fewer"
        )
    processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    row = {
        "leg": about["legs"], "date": datetime.date.today().isoformat(), "code": environment.code_version(),
        "hardware": environment.hardware() + processes, "minutes": round(minutes, 2),
        "final": given.final, "steps": trainer.global_step,
        "skipped": int(task.skipped), "batch": data.batch, "crop": data.crop, "lr": config["lr"],
        "samples": data.first_of(trainer.global_step), "loss": round(statistics.fmean(losses[-50:] or [math.nan]), 4),
        "pictures": given.pictures or "all", **(at_rate(judged) if len(judged) else {}),
    }  # fmt: skip
    if len(judged):
        judged.to_csv(given.results, index=False, float_format="%.5f")
        print(judged.round(3).to_string(index=False))
    write_rows([*_read(given.legs), row], given.legs)
    print(", ".join(f"{name}: {value}" for name, value in row.items()))


def parts_of(model: torch.nn.Module, names: Sequence[str]) -> list[torch.nn.Module]:
    """The parts of these names; UserError for one that the network has not."""
    known = {name: part for name, part in model.named_children() if any(True for _ in part.parameters())}
    for name in names:
        if name not in known:
            raise UserError(f"this network has no part {name!r}: choose from {', '.join(sorted(known))}")
    return [known[name] for name in names]


def _is_pairs(folder: Path) -> bool:
    return (folder / "noisy").is_dir()


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
