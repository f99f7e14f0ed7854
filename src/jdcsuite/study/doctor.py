"""This machine, and a job -> plain sentences: what it has, and what would go wrong, before days are spent.

A job is checked as before training (`plan`, `trial`), which composes and validates it, reads all images, takes one step
and codes one image on the CPU. Nothing is written but the cache of decoded images.
"""

from __future__ import annotations

import itertools
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from rich.filesize import decimal

from jdcsuite.artifacts import environment
from jdcsuite.data import cache
from jdcsuite.study import composition, mistakes, plan, resolvers, trial, validation
from jdcsuite.training import job as training
from jdcsuite.training import tracker
from jdcsuite.types import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
PEAK = 255**2  # 65025: MSE of 8-bit images against MSE of images in [0, 1]
# float32 values of each parameter in a checkpoint: weights, their average and Adam's two moments; the file before is
# kept too.
VALUES, CHECKPOINTS = 4, 2
SWEEP = ("-m", "--multirun")


@dataclass(frozen=True)
class Finding:
    """``is_problem``: the job would fail, or could not run here."""

    text: str
    is_problem: bool = False


def report(overrides: Sequence[str], console: Console) -> int:
    """Print all findings -> the number of problems."""
    problems = 0
    for finding in itertools.chain(machine(), job(overrides) if overrides else ()):
        problems += finding.is_problem
        mark, style = ("problem: ", "red") if finding.is_problem else ("", None)
        console.print(f"{mark}{finding.text}", style=style, markup=False, highlight=False, soft_wrap=True)
    end = f"{problems} problem{'s' if problems > 1 else ''}." if problems else "No problems found."
    console.print(end, style="red" if problems else "green", highlight=False)
    return problems


def machine() -> Iterator[Finding]:
    """Findings about the machine alone."""
    yield Finding(f"Python {platform.python_version()}, torch {torch.__version__}, {environment.hardware()}.")
    yield from _refusals(lambda: training.check_device({"accelerator": "auto", "precision": "auto", "devices": 1}))
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding(f"GPU {index}: {device.name}, {decimal(device.total_memory)}, CUDA {torch.version.cuda}.")
    precision = training.precision("auto")
    where = "GPU" if torch.cuda.is_available() else "CPU, because there is no GPU; budget=demo suits it"
    yield Finding(f"Training is in {precision} on the {where}.")
    yield _space(cache.folder(), 0, what="Decoded images")
    if os.environ.get("WANDB_MODE") == "disabled":
        yield Finding("W&B is disabled by WANDB_MODE.")
    elif reason := tracker.no_route():  # takes 5 s at most
        yield Finding(f"W&B: {reason}, so runs are kept offline, and uploaded later by `wandb sync`.")
    else:
        yield Finding("W&B answers, so runs are online.")


def job(overrides: Sequence[str]) -> Iterator[Finding]:
    """Findings about the jobs of a command. After a problem that the others follow from, no more are looked for."""
    jobs, parts = [], plan.Parts()
    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            for words in _each_job(overrides):
                jobs.append(plan.draft(words))
        except (UserError, *mistakes.ERRORS) as error:
            yield Finding(mistakes.sentence(error), is_problem=True)
            return
    every = list({str(each.config): each for each in plan.drafts_in_order(jobs)}.values())
    yield Finding(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}, {len(every)} with dependencies.")
    for config in {str(each.config["trainer"]): each.config for each in every}.values():
        yield from _devices(config)
    refusals = list(_refusals(lambda: trial.construct(jobs, parts)))
    yield from refusals
    if refusals:
        return
    yield Finding("Every model and criterion takes a step, and every codec codes an image.")
    yield from dict.fromkeys(finding for each in every for finding in _crops(each, parts))
    for each in {plan.Parts.name(each, "data"): each for each in every}.values():
        refusals = list(_refusals(lambda each=each: parts.data(each)))
        yield from refusals
        if not refusals:
            counts = ", ".join(f"{count} {name}" for name, count in parts.data(each).counts().items())
            yield Finding(f"Images of {each.config['method']}: {counts}.")
            yield from _refusals(lambda each=each: trial.check_data([each], parts))
    weighting_mse = [each.config for each in jobs if each.config["criterion"].get("distance", "mse") == "mse"]
    for lmbda in dict.fromkeys(config["lmbda"] for config in weighting_mse if config["lmbda"]):
        yield _loss_scale(lmbda)
    yield _space(jobs[0].study, sum(_checkpoint_bytes(each, parts) for each in every), what="Checkpoints and weights")


def _each_job(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep. Without -m, what is typed; with it, what the sweep adds by itself too."""
    words = [word for word in overrides if word not in SWEEP]
    typed = {word.partition("=")[0] for word in words}
    if len(words) < len(overrides):
        own = composition.swept(next(_expanded(words)))
        words += [f"{name}={values}" for name, values in own.items() if name not in typed]
    jobs = list(_expanded(words))
    yield from jobs if "lmbda" in typed else composition.with_own_ladders(jobs)


def _expanded(words: Sequence[str]) -> Iterator[list[str]]:
    """Every combination of the values of words such as sigma=5,10."""
    values = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        sweep = override.is_sweep_override()
        name = override.input_line.partition("=")[0]
        values.append([f"{name}={v}" for v in override.sweep_string_iterator()] if sweep else [override.input_line])
    yield from map(list, itertools.product(*values))


def _refusals(check: Callable[[], object]) -> Iterator[Finding]:
    try:
        check()
    except UserError as error:
        yield Finding(str(error), is_problem=True)


def _devices(config: Mapping) -> Iterator[Finding]:
    options = config["trainer"]
    devices, on_cpu = options["devices"], options["accelerator"] == "cpu" or not torch.cuda.is_available()
    if devices > 1 and not torch.distributed.is_available():
        yield Finding(f"trainer.devices={devices} needs torchrun, which this torch lacks.", is_problem=True)
    if config["launcher"]["kind"] not in validation.LAUNCHERS:
        yield Finding(f"launcher={config['launcher']['kind']} is unknown here.", is_problem=True)
    how = "under torchrun" if devices > 1 else "in one process"
    precision = "32-true" if on_cpu and options["precision"] == "auto" else training.precision(options["precision"])
    yield Finding(f"{devices} device{'s' if devices > 1 else ''} {how}, {precision}, {options['max_steps']} steps.")


def _crops(each: plan.Job, parts: plan.Parts) -> Iterator[Finding]:
    stride, smallest = getattr(parts.get(each, "model"), "stride", 1), trial.smallest_crop(each, parts)
    for name in ("crop", "val_crop"):
        side = each.config["data"][name]
        if side % stride:
            yield Finding(
                f"data.{name}={side} of {each.config['method']} is no multiple of its stride, {stride}: every crop is "
                f"padded to {-(-side // stride) * stride} pixels, which costs time and trains on borders."
            )
    if smallest > 1:
        yield Finding(f"{each.config['method']} needs crops of {smallest} pixels for MS-SSIM and has them.")


def _loss_scale(lmbda: float) -> Finding:
    """lmbda weights the MSE of [0, 1], averaged over channels; CompressAI multiplies the same MSE by 255^2."""
    meaning = f"lmbda={lmbda:g} weights the MSE per channel of images in [0, 1]: CompressAI's {lmbda / PEAK:.4g}"
    if lmbda < 1:
        return Finding(f"{meaning}, which hardly counts: give 255^2 = {PEAK} times as much, lmbda={lmbda * PEAK:.0f}.",
                       is_problem=True)  # fmt: skip
    return Finding(f"{meaning}, times 255^2 = {PEAK}.")


def _checkpoint_bytes(each: plan.Job, parts: plan.Parts) -> int:
    values = sum(parameter.numel() for parameter in parts.get(each, "model").parameters())
    return 4 * values * (VALUES * CHECKPOINTS + 1)


def _space(folder: Path, needed: int, *, what: str) -> Finding:
    """Space on the disk of a folder that may not exist yet."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    need = f"take about {decimal(needed)} of" if needed else "have"
    return Finding(f"{what} {need} {decimal(free)} free in {folder}.", is_problem=needed > free)
