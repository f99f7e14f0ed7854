"""One job's configuration and folder -> trained weights and tested rows in that folder: build, fit, test."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console
from torch import nn

from jdcsuite.artifacts import runs, weights
from jdcsuite.coding.container import PLAIN, VERSION
from jdcsuite.data.datamodule import Photographs
from jdcsuite.data.provenance import Teacher, refuse_learned_scenes, refuse_start, saw
from jdcsuite.device import layout, training_arithmetic
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.judging import results
from jdcsuite.training import loggers, tracker
from jdcsuite.training.callbacks import EMA, Compiled, Progress, checkpoint
from jdcsuite.training.task import Task
from jdcsuite.types import Row, UserError


def run(config: dict, folder: Path, *, needs: dict[str, Path], curve: str, console: Console) -> None:
    """Trains (or resumes) and tests. ``needs``: role -> finished run whose weights start the part of that name."""
    quieten()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, task = build(config, needs)
    data.prepare()
    learned = _learned(config, needs)
    refuse_start(learned, data.test_scenes)
    teachers = _teachers(config, needs)
    for teacher in teachers:
        refuse_learned_scenes(teacher, config["method"], data.test_scenes)
    if config["min_ms_ssim"] != config["data"].get("min_ms_ssim"):
        data.facts["crops_kept"] = None  # the criterion chooses, batch by batch
    data.facts |= {"teacher": "+".join(t.label for t in teachers), "teacher_saw": saw(teachers, data.train_scenes)}
    run_loggers = _loggers(config, folder)
    failed = True
    try:
        trainer = _trainer(config, folder, run_loggers)
        last = folder / "checkpoints" / "last.ckpt"
        fit(trainer, task, data, resume=last if last.is_file() else None)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if trainer.is_global_zero:
            _export(config, task.model, data, folder, curve, learned, steps=trainer.global_step)
        trainer.strategy.barrier()
        trainer.test(task, data, verbose=False)
        _write_results(config, task, data, trainer, folder, curve)
        failed = False
    finally:
        loggers.finish(run_loggers, failed=failed)


def quieten() -> None:
    """Devices found, tips and the like are not said."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def fit(trainer: L.Trainer, task: Task, data: object, *, resume: Path | None = None) -> None:
    """`trainer.fit` on a datamodule or loader, with weights and arithmetic as its device is fast at; ``resume``: a
    checkpoint. The weights end contiguous: coding is laid out alike on every device."""
    device = trainer.strategy.root_device
    task.to(memory_format=layout(device))
    with training_arithmetic(device):
        trainer.fit(task, data, ckpt_path=resume and str(resume), weights_only=True)
    task.to(memory_format=torch.contiguous_format)


def build(config: dict, needs: dict[str, Path]) -> tuple[Photographs, Task]:
    """The datamodule and the task of a configuration, parts started from the weights of ``needs`` and init_from; what
    these have learned from comes in no sample again, where they go on learning."""
    data: Photographs = construct(config["data"])
    model, criterion = construct(config["model"]), construct(config["criterion"])
    task: Task = construct(config["task"], model=model, criterion=criterion)
    task.first_of = data.first_of
    starts = [(config["needs"][role]["into"], run) for role, run in runs.whole_first(needs, config["needs"])]
    for place, run in starts + ([("model", config["init_from"])] if config["init_from"] else []):
        part = task.get_submodule(place)
        weights.load_into(part, run)
        if any(parameter.requires_grad for parameter in part.parameters()):
            about = weights.read(weights.path_of(run))[1]
            data.begin_behind(int(about.get("samples") or 0))  # files of before 2026-12 do not say
    return data, task


def _learned(config: dict, needs: dict[str, Path]) -> dict[str, list[str]]:
    """Weights that the model starts from, whole or in part -> the scenes that they learned from, where they say so."""
    parts = [run for role, run in needs.items() if config["needs"][role]["into"].partition(".")[0] == "model"]
    starts = [weights.path_of(run) for run in (*parts, config["init_from"]) if run]
    return {str(path): weights.read(path)[1].get("train_scenes") or [] for path in starts}


def _teachers(config: dict, needs: dict[str, Path]) -> list[Teacher]:
    """Who made the targets: of predenoised folders, and the need that is called teacher."""
    found = list(runs.teachers(config["data"]).values())
    if "teacher" in needs:
        run = needs["teacher"]
        about = weights.read(weights.path_of(run))[1]
        found.append(Teacher.of_weights(about, id=str(runs.weights_hash(run)), name=run.name))
    return found


def construct(config: dict, **parts: nn.Module) -> Any:
    """Hydra's instantiate; what a constructor refuses is a UserError in its own words."""
    try:
        return instantiate(config, **parts, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        raise UserError(" ".join(str(error).split())) from error


def check_device(trainer: dict) -> None:
    """A GPU that is visible but unusable is an error, not a slow run on the CPU."""
    wanted = trainer["accelerator"]
    if "mixed" in trainer["precision"] and not torch.cuda.is_available():
        raise UserError(f"trainer.precision={trainer['precision']} crashes on CPUs: leave it at auto, or take a GPU")
    if torch.cuda.is_available() or (wanted == "cpu"):
        return
    visible = Path("/proc/driver/nvidia/version")
    if visible.exists():
        driver = visible.read_text().splitlines()[0]
        raise UserError(
            f"a GPU is visible but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it ({driver}): "
            "install a torch built for this driver, or say trainer.accelerator=cpu"
        )
    if wanted in ("gpu", "cuda"):
        raise UserError("trainer.accelerator=gpu was asked for, but no GPU is visible: say trainer.accelerator=cpu")


def precision(asked: str) -> str:
    """``auto``: bf16 where the GPU has it, else float32."""
    if asked != "auto":
        return asked
    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def _trainer(config: dict, folder: Path, loggers: list) -> L.Trainer:
    said = config["trainer"]
    return L.Trainer(
        default_root_dir=folder,
        accelerator=said["accelerator"],
        devices=said["devices"],
        strategy="ddp" if said["devices"] > 1 else "auto",
        precision=precision(said["precision"]),
        max_steps=said["max_steps"],
        max_epochs=-1,
        val_check_interval=min(said["val_every"], said["max_steps"]),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=said["log_every"],
        use_distributed_sampler=False,
        logger=loggers,
        callbacks=[EMA(), checkpoint(folder=folder / "checkpoints", every=said["checkpoint_every"])]
        + ([Compiled()] if said["compile"] else [])
        + ([Progress()] if said["progress"] else []),
        enable_progress_bar=said["progress"],
        enable_model_summary=False,
    )


def _loggers(config: dict, folder: Path) -> list:
    said = config["logger"]
    noise = "real noise" if config["sigma"] is None else f"sigma {config['sigma']:g}"
    wandb = tracker.tracker(
        folder=folder, project=said["project"], group=config["name"], job_type=config["method"], name=folder.name,
        id=folder.name, tags=[config["method"], noise, config["budget"]], mode=said["mode"],
        config=config,
    )  # fmt: skip
    return loggers.create(folder=folder, tracker=wandb)


def _export(
    config: dict,
    model: nn.Module,
    data: Photographs,
    folder: Path,
    curve: str,
    learned: dict[str, list[str]],
    *,
    steps: int,
) -> None:
    model.eval()
    if hasattr(model, "update"):
        model.update()
    about = {name: config[name] for name in ("method", "lmbda", "budget", "seed")} | {
        "sigma": config["sigma"] if data.training_noise is None else None,  # a law of noises has no one level
        "run": folder.name,
        "curve": curve,
        "train_set": data.train_set,
        # in all, those of the weights that training started from included: their numbers are not used again
        "samples": data.first_of(steps),
        # what this model starts or teaches must not be tested on them
        "train_scenes": _union(data.train_scenes, learned),
        # of rows that `jdc evaluate` makes
        "min_ms_ssim": config["min_ms_ssim"],
        **{name: data.facts[name] for name in ("teacher", "teacher_saw") if data.facts.get(name)},
    }
    weights.save(model, config["model"], folder / "weights.safetensors", about=about)


def _union(seen: list[str] | None, learned: dict[str, list[str]]) -> list[str] | None:
    """Scenes that training has seen, with those that its start had; None where the data name none."""
    return None if seen is None else sorted({*seen, *(scene for scenes in learned.values() for scene in scenes)})


def _write_results(config: dict, task: Task, data: Photographs, trainer: L.Trainer, folder: Path, curve: str) -> None:
    """Every rank's rows -> results.csv, and one picture a test set -> pictures/, by rank 0."""
    ranks = [task.rows]
    if trainer.world_size > 1:
        ranks = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(ranks, task.rows)
    about = Row(
        run=folder.name,
        curve=curve,
        method=config["method"],
        lmbda=config["lmbda"],
        sigma_train=config["sigma"] if data.training_noise is None else None,
        min_ms_ssim=config["min_ms_ssim"],
        target=config["target"] if "guide" in config["needs"] else None,
        rate_scale=config["rate_scale"] if config["method"] == "fllic_w" else None,
        seed=config["seed"],
        budget=config["budget"],
        train_set=data.train_set,
        noise_protocol=data.noise.protocol,
        noise_seed=data.noise_seed,
        entropy_coder=f"rANS, file version {VERSION if getattr(task.model, 'any_rate', False) else PLAIN}",
        lossless_coder=data.lossless.version if data.lossless else None,
        code_version=runs.code_version(),
        **data.facts,
    )
    if trainer.is_global_zero:
        results.write([row.fill(about) for row in joined(ranks)], folder / "results.csv")
    for (dataset, image), kinds in task.pictures.items():
        (folder / "pictures").mkdir(exist_ok=True)
        for kind, picture in kinds.items():
            Image.fromarray(to_bytes(picture[0])).save(folder / "pictures" / f"{dataset}_{Path(image).stem}_{kind}.png")
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        summary = {
            "skipped_batches": int(task.skipped),
            "parameters": sum(p.numel() for p in task.model.parameters()),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        runs.finish(folder)


def joined(ranks: list[list[Row]]) -> list[Row]:
    """The rows of all ranks by dataset and image; images that two ranks tested count once."""
    distinct = {(row.dataset, row.image, row.quality): row for rows in ranks for row in rows}
    return sorted(distinct.values(), key=lambda row: (row.dataset, row.image))
