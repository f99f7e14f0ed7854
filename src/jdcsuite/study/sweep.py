"""Overrides of one or several jobs -> finished runs and the report of their study."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from jdcsuite.artifacts.folder import is_finished
from jdcsuite.judging import results
from jdcsuite.study import reporting, trial
from jdcsuite.study.launch import Failure, slurm
from jdcsuite.study.launch.execute import execute, time_left
from jdcsuite.study.plan import Job, Parts, draft, identify, in_order, write
from jdcsuite.types import UserError


def run(jobs_overrides: Sequence[list[str]], *, config_name: str = "config") -> list[Failure]:
    """Plan all jobs, try them out, run them and what they need, and write the report; the failures. UserError before
    anything is trained, for what is wrong with any of them."""
    console = Console()
    drafts = [draft(overrides, config_name=config_name) for overrides in jobs_overrides]
    _announce(drafts, console)
    parts = Parts()
    trial.construct(drafts, parts)
    identify(drafts, parts)  # reads all pictures, which takes longest
    trial.check_data(drafts, parts)
    if drafts[0].config["launcher"]["kind"] == "plan":
        _show(in_order(drafts), console)
        return []
    write(drafts)
    folders = [job.folder for job in in_order(drafts)]
    if extra := len(folders) - len({job.folder for job in drafts}):
        console.print(f"{extra} more job{'s' if extra > 1 else ''}, which they need", highlight=False)
    if drafts[0].config["launcher"]["kind"] == "slurm":
        slurm.submit(folders, list(dict.fromkeys(job.folder for job in drafts)), console)
        return []
    # A worker that is stopped by the same signal would look like a failed job, and the next one would start.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failures = execute(folders, console)
    failed = {failure.folder for failure in failures}
    try:
        if finished := [job.folder for job in drafts if job.folder not in failed]:
            reporting.make(finished, console, sweep=list(dict.fromkeys(job.folder for job in drafts)))
    except UserError as error:
        failures.append(Failure(drafts[0].study / "report", str(error)))
    errors = Console(stderr=True)
    for failure in failures:
        line = f"failed: {failure.folder}: {failure.reason}"
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return failures


def _show(jobs: Sequence[Job], console: Console) -> None:
    """The jobs of a sweep in the order in which they would run; nothing is written."""
    folders, finished = [job.folder for job in jobs], 0
    for job in jobs:
        done = is_finished(job.folder, job.key) and not job.config["rerun"]
        finished += done
        needs = f", after {', '.join(need.folder.name for need in job.needs.values())}" if job.needs else ""
        steps = "finished" if done else f"{job.config['trainer']['max_steps']} steps"
        console.print(f"{job.folder}: {steps}{needs}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(jobs) - finished} to run, {finished} finished{time_left(folders, folders)}", highlight=False)


def _announce(jobs: Sequence[Job], console: Console) -> None:
    config = jobs[0].config
    if config["budget"] == "demo":
        console.print(results.DEMO, style="yellow")
    if config["data"]["root"] is None:
        console.print("Pictures: the photographs inside scikit-image (data.root=FOLDER takes yours).")
    console.print(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {jobs[0].study}", soft_wrap=True)
