"""Overrides of one or several jobs -> finished runs and the report of their study."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jdcsuite.artifacts.folder import is_finished
from jdcsuite.judging import results
from jdcsuite.study import reporting
from jdcsuite.study.launch import Failure, slurm
from jdcsuite.study.launch.execute import execute, time_left
from jdcsuite.study.plan import Job, in_order, write
from jdcsuite.study.rounds import Rounds
from jdcsuite.types import UserError


def run(jobs_overrides: Sequence[list[str]], *, config_name: str = "config") -> list[Failure]:
    """Plan all jobs, try them out, run them and what they need, and write the report; the failures. A job with
    ``target_bpp`` brings about others (`rate_search`). UserError before anything is trained, for what is wrong with
    any of them."""
    console = Console()
    rounds = Rounds(jobs_overrides, config_name=config_name)
    _announce(rounds.first, console, count=rounds.count)
    _end_at_signals()
    launch = {"plan": _plan, "slurm": _submit}.get(rounds.first.config["launcher"]["kind"], _run)
    return launch(rounds, console)


def _run(rounds: Rounds, console: Console) -> list[Failure]:
    failures: list[Failure] = []
    while jobs := rounds.next():
        failures += execute(_written(jobs, console), console)
        for search in rounds.note(failures):
            console.print(str(search), highlight=False, soft_wrap=True)
    failures += [Failure(rounds.first.study, search.shortfall) for search in rounds.searches if search.shortfall]
    _report(rounds.jobs, failures, console)
    return failures


def _submit(rounds: Rounds, console: Console) -> list[Failure]:
    """Give all jobs of finished rounds, and of the first that is not, to SLURM."""
    while jobs := rounds.next():
        _written(jobs, console)
        if any(job.config["rerun"] or not is_finished(job.folder, job.key) for job in jobs):
            break
        for search in rounds.note([]):
            console.print(str(search), highlight=False, soft_wrap=True)
    slurm.submit([job.folder for job in in_order(rounds.jobs)], _folders(rounds.jobs), console)
    for search in rounds.open:
        line = f"{search}: give the same command again when the jobs have ended"
        console.print(line, highlight=False, soft_wrap=True)
    return []


def _plan(rounds: Rounds, console: Console) -> list[Failure]:
    """Show the first round; nothing is written."""
    _show(in_order(rounds.next()), console)
    for search in rounds.searches:
        console.print(f"{search.target:g} bpp: at most {search.most} jobs, of which this shows the first")
    return []


def _written(jobs: Sequence[Job], console: Console) -> list[Path]:
    """Write the folders of jobs and of those that they need; all of them, in the order in which they can run."""
    write(jobs)
    folders = [job.folder for job in in_order(jobs)]
    if extra := len(folders) - len({job.folder for job in jobs}):
        console.print(f"{extra} more job{'s' if extra > 1 else ''}, which they need", highlight=False)
    return folders


def _report(jobs: Sequence[Job], failures: list[Failure], console: Console) -> None:
    """Report the jobs that ended well, and the failures, to which that of the report is added."""
    failed = {failure.folder for failure in failures}
    try:
        if finished := [job.folder for job in jobs if job.folder not in failed]:
            reporting.make(finished, console, sweep=_folders(jobs))
    except UserError as error:
        failures.append(Failure(jobs[0].study / "report", str(error)))
    errors = Console(stderr=True)
    for failure in failures:
        line = f"failed: {failure.folder}: {failure.reason}"
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _folders(jobs: Sequence[Job]) -> list[Path]:
    return list(dict.fromkeys(job.folder for job in jobs))


def _end_at_signals() -> None:
    """A worker that is stopped by the same signal would look like a failed job, and the next one would start. A closed
    terminal reaches this process alone, which has to tell the ranks of its job to write a checkpoint."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def _show(jobs: Sequence[Job], console: Console) -> None:
    """Print jobs in the order in which they would run."""
    folders, finished = [job.folder for job in jobs], 0
    for job in jobs:
        done = is_finished(job.folder, job.key) and not job.config["rerun"]
        finished += done
        needs = f", after {', '.join(need.folder.name for need in job.needs.values())}" if job.needs else ""
        steps = "finished" if done else f"{job.config['trainer']['max_steps']} steps"
        console.print(f"{job.folder}: {steps}{needs}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(jobs) - finished} to run, {finished} finished{time_left(folders, folders)}", highlight=False)


def _announce(job: Job, console: Console, *, count: int) -> None:
    if job.config["budget"] == "demo":
        console.print(results.DEMO, style="yellow")
    if job.config["data"]["root"] is None:
        console.print("Pictures: the photographs inside scikit-image (data.root=FOLDER takes yours).")
    console.print(f"{count} job{'s' if count > 1 else ''} in {job.study}", soft_wrap=True)
