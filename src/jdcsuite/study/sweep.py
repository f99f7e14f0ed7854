"""Overrides of one or several jobs -> finished runs and the report of their study."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jdcsuite.artifacts.folder import is_finished
from jdcsuite.judging import results
from jdcsuite.study import rate_search, reporting, trial
from jdcsuite.study.launch import Failure, slurm
from jdcsuite.study.launch.execute import execute, time_left
from jdcsuite.study.plan import Job, Parts, draft, identify, in_order, write
from jdcsuite.types import UserError


def run(jobs_overrides: Sequence[list[str]], *, config_name: str = "config") -> list[Failure]:
    """Plan all jobs, try them out, run them and what they need, and write the report; the failures. A job with
    ``target_bpp`` brings about others (`rate_search`). UserError before anything is trained, for what is wrong with
    any of them."""
    console, parts = Console(), Parts()
    drafts = [draft(overrides, config_name=config_name) for overrides in jobs_overrides]
    searches = rate_search.searches(drafts)
    waiting = [job for job in drafts if job.config["target_bpp"] is None]
    _announce(drafts[0], console, count=len(waiting) + len(searches))
    kind = drafts[0].config["launcher"]["kind"]
    planned: list[Job] = []
    failures: list[Failure] = []
    _end_at_signals()
    while True:
        turns = [(search, search.draft(config_name)) for search in searches if search.next is not None]
        jobs = [*waiting, *(job for _, job in turns)]
        if not jobs:
            break
        _check(jobs, parts)
        if kind == "plan":
            _show(in_order(jobs), console)
            for search in searches:
                console.print(f"{search.target:g} bpp: at most {search.most} jobs, of which this shows the first")
            return []
        write(jobs)
        folders = [job.folder for job in in_order(jobs)]
        if extra := len(folders) - len({job.folder for job in jobs}):
            console.print(f"{extra} more job{'s' if extra > 1 else ''}, which they need", highlight=False)
        planned, waiting = [*planned, *jobs], []
        if kind != "slurm":
            failures += execute(folders, console)
        elif not turns or any(job.config["rerun"] or not is_finished(job.folder, job.key) for job in jobs):
            break
        for search, job in turns:
            search.note(job, parts.data(job).test_sets[0], failures)
            console.print(str(search), highlight=False, soft_wrap=True)
    if kind == "slurm":
        slurm.submit([job.folder for job in in_order(planned)], _folders(planned), console)
        for search in searches:
            if search.next is not None:
                console.print(
                    f"{search}: give the same command again when the jobs have ended", highlight=False, soft_wrap=True
                )
        return []
    failures += [Failure(drafts[0].study, reason) for search in searches if (reason := search.shortfall)]
    _report(planned, failures, console)
    return failures


def _check(jobs: Sequence[Job], parts: Parts) -> None:
    """Try out jobs and give them their folders."""
    trial.construct(jobs, parts)
    identify(jobs, parts)  # reads all pictures, which takes longest
    trial.check_data(jobs, parts)


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
    """The jobs of a sweep in the order in which they would run; nothing is written."""
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
