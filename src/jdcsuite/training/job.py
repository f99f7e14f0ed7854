"""Run folder with config.yaml -> trained weights and test results in that folder."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.artifacts import weights
from jdcsuite.data import provenance
from jdcsuite.data.datamodule import DataModule
from jdcsuite.data.provenance import Teacher
from jdcsuite.data.sources import Source, as_list
from jdcsuite.device import layout, training_arithmetic
from jdcsuite.training import loggers, outputs, tracker
from jdcsuite.training.callbacks import EMA, AtomicCheckpoints, Compiled, Progress, StopOnSignal, checkpoint, resumable
from jdcsuite.training.task import Task
from jdcsuite.types import UserError


def run(folder: Path) -> None:
    """Train the job that ``folder`` holds, or resume it from its last checkpoint, then test it. Every rank of a process
    group calls this. UserError for a configuration, data or weights that cannot be used."""
    config, start = run_folder.read_config(folder), time.monotonic()
    needs = run_folder.needed(folder, config)
    quieten()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, task = build(config, needs)
    data.prepare()
    learned = _learned_scenes(config, needs)
    provenance.refuse_start(learned, data.test_scenes)
    _record_teachers(config, needs, data)
    run_loggers = _loggers(config, folder)
    failed = True
    try:
        trainer = make_trainer(config, folder, run_loggers)
        fit(trainer, task, data, resume=resumable(folder))
        task.check_finite(trainer.global_step)
        if trainer.is_global_zero:
            outputs.export(config, task.model, data, folder, learned, steps=trainer.global_step)
        trainer.strategy.barrier()
        trainer.test(task, data, verbose=False)
        outputs.write_results(config, task, data, trainer, folder)
        failed = False
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning ends the process at Ctrl-C
            raise KeyboardInterrupt from None
        raise
    finally:
        loggers.finish(run_loggers, failed=failed)
        if rank_zero_only.rank == 0:
            with suppress(UserError):  # on a full disk, which the first error is about
                run_folder.add_time(folder, time.monotonic() - start)


def quieten() -> None:
    """Suppress Lightning's reports of devices and its advice, such as that a loader is not resumable: ours is, because
    samples are numbered."""
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    for message in (".*not resumable", "Checkpoint directory .* exists and is not empty"):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build(config: Mapping, needs: Mapping[str, Path] | None = None) -> tuple[DataModule, Task]:
    """The datamodule and the task of a configuration, started from the weights of init_from and of ``needs`` (role ->
    run). The whole model is loaded before parts that have a run of their own. Samples that these weights have seen are
    not drawn again."""
    data: DataModule = construct(config["data"])
    model, criterion = construct(config["model"]), construct(config["criterion"])
    task: Task = construct(config["task"], model=model, criterion=criterion)
    parts = {config["needs"][role]["into"]: run for role, run in (needs or {}).items()}
    starts = [("model", config["init_from"])] if config["init_from"] else []
    starts += sorted(parts.items(), key=lambda part: part[0].count("."))
    for place, run in starts:
        module = task.get_submodule(place)
        own = [name.removeprefix(f"{place}.") for name in parts if name.startswith(f"{place}.")]
        weights.load_into(module, run, without=own)
        if any(parameter.requires_grad for parameter in module.parameters()):
            about = weights.read_about(weights.path_of(run))
            data.begin_behind(int(about.get("samples") or 0))  # absent from older weights
    # no bound method: a copy of the task, as the average of its weights, would be one of all images and the trainer too
    task.first_of = lambda step: data.first_of(step)
    return data, task


def construct(config: Mapping, **parts: nn.Module) -> Any:
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


def fit(trainer: L.Trainer, task: Task, data: object, *, resume: Path | None = None) -> None:
    """`trainer.fit` on a datamodule or loader, with the memory layout and arithmetic that are fast on its device;
    ``resume``: a checkpoint. The weights end contiguous, so that coding runs alike on every device."""
    device = trainer.strategy.root_device
    task.to(memory_format=layout(device))
    with training_arithmetic(device):
        trainer.fit(task, data, ckpt_path=resume and str(resume), weights_only=True)
    task.to(memory_format=torch.contiguous_format)


def make_trainer(config: Mapping, folder: Path, run_loggers: list) -> L.Trainer:
    """Lightning's Trainer for a run folder."""
    options, nodes = config["trainer"], config["launcher"].get("nodes", 1)
    cluster = [SLURMEnvironment(auto_requeue=False)] if config["launcher"]["kind"] == "slurm" else []
    return L.Trainer(
        default_root_dir=folder,
        accelerator=options["accelerator"],
        devices=options["devices"],
        num_nodes=nodes,
        strategy="ddp" if options["devices"] * nodes > 1 else "auto",
        precision=precision(options["precision"]),
        max_steps=options["max_steps"],
        max_epochs=-1,
        val_check_interval=min(options["val_every"], options["max_steps"]),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=options["log_every"],
        use_distributed_sampler=False,
        logger=run_loggers,
        plugins=[AtomicCheckpoints(), *cluster],
        callbacks=[
            EMA(),
            StopOnSignal(),
            checkpoint(folder=(folder / run_folder.LAST).parent, every=options["checkpoint_every"]),
        ]
        + ([Compiled()] if options["compile"] else [])
        + ([Progress()] if options["progress"] else []),
        enable_progress_bar=options["progress"],
        enable_model_summary=False,
    )


def precision(option: str) -> str:
    """``auto``: bf16 where the GPU has it, else float32."""
    if option != "auto":
        return option
    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def check_device(trainer: Mapping) -> None:
    """UserError where the requested device cannot be used: a visible but unusable GPU is no reason for a slow run on
    the CPU."""
    accelerator = trainer["accelerator"]
    on_gpus = torch.cuda.is_available() and accelerator != "cpu"
    there, unit = (torch.cuda.device_count(), "GPUs") if on_gpus else (os.cpu_count() or 1, "CPU cores")
    if trainer["devices"] > there:
        raise UserError(f"trainer.devices={trainer['devices']}, but this machine has {there} {unit}: give fewer")
    if torch.cuda.is_available() or accelerator == "cpu":
        return
    driver_file = Path("/proc/driver/nvidia/version")
    if driver_file.exists():
        driver = driver_file.read_text().splitlines()[0]
        raise UserError(
            f"a GPU is visible but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it ({driver}): "
            "install a torch built for this driver, or give trainer.accelerator=cpu"
        )
    if accelerator in ("gpu", "cuda"):
        raise UserError("trainer.accelerator=gpu was requested, but no GPU is visible: give trainer.accelerator=cpu")


def predenoised_teachers(data: Mapping) -> dict[str, Teacher]:
    """Training folders of a data configuration that `jdc predenoise` made -> the denoiser that made them."""
    folders = [Source.parse(one).folder for one in as_list("data.train", data["train"])]
    records = {name: provenance.read(Path(data["root"]).expanduser() / name) for name in folders if data["root"]}
    return {name: record.teacher for name, record in records.items() if record}


def _record_teachers(config: Mapping, needs: Mapping[str, Path], data: DataModule) -> None:
    """Put the denoisers that make the targets into the columns of the rows: those of predenoised folders, and the need
    that is called teacher. UserError where one learned from a test scene."""
    teachers = list(predenoised_teachers(config["data"]).values())
    if "teacher" in needs:
        run = needs["teacher"]
        about = weights.read_about(weights.path_of(run))
        teachers.append(Teacher.of_weights(about, id=str(weights.content_hash(run)), name=run.name))
    for teacher in teachers:
        provenance.refuse_learned_scenes(teacher, config["method"], data.test_scenes)
    if config["min_ms_ssim"] != config["data"].get("min_ms_ssim"):
        data.facts["crops_kept"] = None  # the criterion selects crops batch by batch
    saw = provenance.saw(teachers, data.train_scenes)
    data.facts |= {"teacher": "+".join(teacher.label for teacher in teachers), "teacher_saw": saw}


def _learned_scenes(config: Mapping, needs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Weights that the model starts from, whole or in part -> the scenes that they learned from, where recorded."""
    parts = [run for role, run in needs.items() if config["needs"][role]["into"].partition(".")[0] == "model"]
    starts = [weights.path_of(run) for run in (*parts, config["init_from"]) if run]
    return {str(path): weights.read_about(path).get("train_scenes") or [] for path in starts}


def _loggers(config: Mapping, folder: Path) -> list:
    noise = "real noise" if config["sigma"] is None else f"sigma {config['sigma']:g}"
    state = run_folder.read_state(folder) or {}
    wandb = tracker.tracker(
        folder=folder, project=config["logger"]["project"], group=config["name"], job_type=config["method"],
        name=folder.name, id=f"{folder.name}-{state.get('id', 'unrecorded')}", mode=config["logger"]["mode"],
        tags=[config["method"], noise, config["budget"]], config=dict(config),
    )  # fmt: skip
    return loggers.create(folder=folder, tracker=wandb)
