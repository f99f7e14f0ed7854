"""`jdc run`, `status`, `doctor`, `dashboard`, `export` and `bench`: training, and what surrounds it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jdcsuite.cli.options import Force
from jdcsuite.types import UserError

PAUSE = 5.0  # seconds between looks of `jdc status --wait`


def run(context: typer.Context) -> None:
    """Train: passes all words that follow to `python -m jdcsuite`."""
    sys.stdout.flush()
    # This process becomes the training, so that signals reach it.
    os.execv(sys.executable, [sys.executable, "-m", "jdcsuite", *context.args])


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OVERRIDE...", help="of a job, as for python -m jdcsuite")
    ] = None,
) -> None:
    """Check this machine and, with overrides, a job, before days are spent; exit status 1 where it could not run."""
    from jdcsuite.study import doctor as checkup

    if checkup.report(overrides or [], Console()):
        raise typer.Exit(1)


def dashboard(
    project: Annotated[str, typer.Argument(metavar="[ENTITY/]PROJECT", help="a project in W&B")],
) -> None:
    """Build the workspace and the report of a W&B project, or build them anew."""
    from jdcsuite.training import dashboard as dashboards

    for address in dashboards.save(project):
        Console().print(address, soft_wrap=True, highlight=False, markup=False)


def status(
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="STUDY...", help="study or run folders; default: all in runs/")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="return when no job is running or waiting for a cluster")
    ] = False,
) -> None:
    """Show which jobs of a study are done, running, waiting, stopped or failed. Exit status 1 if any failed."""
    from jdcsuite.study import state

    paths = studies or [Path("runs")]
    while wait and any(known.busy for _, folders in state.studies(paths) for known in map(state.state_of, folders)):
        time.sleep(PAUSE)
    console, failed = Console(), False
    for study, folders in state.studies(paths):
        known = {folder: state.state_of(folder) for folder in folders}
        failed |= any(each.word == state.FAILED for each in known.values())
        console.print(state.table(study, known))
    raise typer.Exit(int(failed))


def export(
    weights: Annotated[str, typer.Argument(metavar="RUN_OR_FILE", help="a finished run or a weights file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the new weights file, .safetensors")],
    licence: Annotated[str | None, typer.Option(help="terms of use; shown by jdc info")] = None,
    data: Annotated[str | None, typer.Option(help="what they were trained on, in words; shown by jdc info")] = None,
    force: Force = False,
) -> None:
    """Write weights in bfloat16, half the size. They are other weights: .jdc files of either need the same ones."""
    from jdcsuite.artifacts import weights as artifacts

    if out.suffix != ".safetensors":
        raise UserError(f"{out} is not a name for weights: give one that ends in .safetensors")
    if out.exists() and not force:
        raise UserError(f"{out} exists: give another name, or --force to replace it")
    artifacts.export(weights, out, licence=licence, data=data)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def bench(
    what: Annotated[str, typer.Argument(metavar="code|train|ddp", help="what to measure")] = "code",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OVERRIDE...", help="train, ddp: overrides of a run, as +experiment=flagship data.batch=32"
        ),
    ] = None,
    width: Annotated[float, typer.Option(help="code: width of the FLLIC codec; 1 is the paper's large one")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="code: timed repeats after a warm-up")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=1, help="train, ddp: steps of a block; default: 50 on a GPU, else 5 and 10")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="train, ddp: timed blocks after a warm-up; default: 5 and 3")
    ] = None,
) -> None:
    """Measure the speed of this machine (medians after a warm-up).

    code: coding and the entropy coder, relative to CompressAI's. train: a training step, relative to a bare loop of
    the same network and to a matrix product. ddp: training on trainer.devices, relative to one device.
    """
    console = Console()
    if what == "train":
        from jdcsuite.bench import train

        train.report(console, tuple(overrides or ()), steps=steps, blocks=blocks or 5)
        return
    if what == "ddp":
        from jdcsuite.bench import ddp

        ddp.report(console, tuple(overrides or ()), steps=steps, blocks=blocks or 3)
        return
    if what != "code":
        raise UserError(f"{what} is not a benchmark: choose code, train or ddp")
    if overrides:
        raise UserError(f"jdc bench code takes no overrides ({' '.join(overrides)}): give them to jdc bench train")
    from jdcsuite.bench import code

    code.report(console, width=width, repeats=repeats)
