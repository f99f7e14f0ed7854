"""Trained model and tested rows -> weights, results.csv and pictures of a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import lightning as L
import torch
from PIL import Image
from torch import nn

from jdcsuite.artifacts import environment, weights
from jdcsuite.artifacts import folder as run_folder
from jdcsuite.coding.container import PLAIN, VERSION
from jdcsuite.data.datamodule import DataModule
from jdcsuite.imaging import atomic
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.judging import candidates, results
from jdcsuite.training import tracker
from jdcsuite.training.task import Task
from jdcsuite.types import Row


def export(
    config: Mapping, model: nn.Module, data: DataModule, folder: Path, learned: Mapping[str, Sequence[str]], *,
    steps: int,
) -> None:  # fmt: skip
    """Write the weights with their metadata."""
    model.eval()
    if hasattr(model, "update"):
        model.update()
    scenes = data.train_scenes
    about = {name: config[name] for name in ("method", "lmbda", "budget", "seed", "curve", "min_ms_ssim")} | {
        "sigma": config["sigma"] if data.has_one_level else None,
        "run": folder.name,
        "train_set": data.train_set,
        # in all, with those of the weights at the start: their numbers are not drawn again
        "samples": data.first_of(steps),
        # models that start from this one or are taught by it must not be tested on them; with those of its own start
        "train_scenes": None if scenes is None else sorted({*scenes, *(s for some in learned.values() for s in some)}),
        **{name: data.facts[name] for name in ("teacher", "teacher_saw") if data.facts.get(name)},
    }
    weights.save(model, config["model"], folder / weights.NAME, about=about)


def write_results(config: Mapping, task: Task, data: DataModule, trainer: L.Trainer, folder: Path) -> None:
    """Gather every rank's rows into results.csv, and save one image of each test set to pictures/."""
    ranks = [task.rows]
    if trainer.world_size > 1:
        ranks = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(ranks, task.rows)
    about = Row(
        run=folder.name,
        curve=config["curve"],
        method=config["method"],
        lmbda=config["lmbda"],
        sigma_train=config["sigma"] if data.has_one_level else None,
        min_ms_ssim=config["min_ms_ssim"],
        target=config["criterion"].get("target"),
        rate_scale=config["criterion"].get("rate_scale"),
        seed=config["seed"],
        budget=config["budget"],
        train_set=data.train_set,
        noise_protocol=data.noise.protocol,
        noise_seed=data.noise_seed,
        entropy_coder=f"rANS, file version {VERSION if getattr(task.model, 'any_rate', False) else PLAIN}",
        lossless_coder=data.lossless.version if data.lossless else None,
        code_version=environment.code_version(),
        weights_id=candidates.weights_id(task.model),
        **data.facts,
    )
    if trainer.is_global_zero:
        rows = joined(ranks)
        results.write([row.fill(about) for row in rows], folder / run_folder.ROWS)
        for logger in trainer.loggers:
            logger.log_metrics(test_metrics(rows), trainer.global_step)
    for (dataset, image), kinds in task.pictures.items():
        (folder / "pictures").mkdir(exist_ok=True)
        stem = run_folder.picture_stem(dataset, image)
        pixels = {kind: to_bytes(picture[0]) for kind, picture in kinds.items()}
        for kind, array in pixels.items():
            Image.fromarray(array).save(folder / "pictures" / f"{stem}_{kind}.png")
        for logger in trainer.loggers:
            if isinstance(logger, tracker.Tracker):
                logger.log_image(f"test/{stem}", list(pixels.values()), caption=list(pixels))
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        parameters = sum(parameter.numel() for parameter in task.model.parameters())
        summary = {"skipped_batches": int(task.skipped), "parameters": parameters}
        atomic.write(folder / "summary.json", f"{json.dumps(summary, indent=2)}\n".encode())
        run_folder.finish(folder)


def test_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the images of each test set, and of each quality of a codec of any rate: test/DATASET/METRIC. Infinite
    values, of exact images, are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        dataset = row.dataset if row.quality is None else f"{row.dataset}-q{row.quality:g}"
        for metric in ("bpp", "psnr", "ms_ssim"):
            value = getattr(row, metric)
            if value is not None and math.isfinite(value):
                values.setdefault(f"test/{dataset}/{metric}", []).append(value)
    return {name: mean(each) for name, each in values.items()}


def joined(ranks: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of all ranks by dataset and image; images that two ranks tested count once."""
    distinct = {(row.dataset, row.image, row.quality): row for rows in ranks for row in rows}
    return sorted(distinct.values(), key=lambda row: (row.dataset, row.image))
