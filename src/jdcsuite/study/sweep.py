"""Overrides of one or several jobs -> finished runs and the report of their study."""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.data.datamodule import DataModule
from jdcsuite.judging import equal_bytes, report, results
from jdcsuite.judging.references import reference_rows
from jdcsuite.study import trial
from jdcsuite.study.launch import Failure
from jdcsuite.study.launch.execute import execute
from jdcsuite.study.plan import Job, Parts, draft, identify, in_order, write
from jdcsuite.training import tracker
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
    write(drafts)
    folders = [job.folder for job in in_order(drafts)]
    if extra := len(folders) - len({job.folder for job in drafts}):
        console.print(f"{extra} more job{'s' if extra > 1 else ''}, which they need", highlight=False)
    # A worker that is stopped by the same signal would look like a failed job, and the next one would start.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failures = execute(folders, console)
    failed = {failure.folder for failure in failures}
    try:
        _report([job for job in drafts if job.folder not in failed], console)
    except UserError as error:
        failures.append(Failure(drafts[0].study / "report", str(error)))
    errors = Console(stderr=True)
    for failure in failures:
        line = f"failed: {failure.folder}: {failure.reason}"
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return failures


def _announce(jobs: Sequence[Job], console: Console) -> None:
    config = jobs[0].config
    if config["budget"] == "demo":
        console.print(results.DEMO, style="yellow")
    if config["data"]["root"] is None:
        console.print("Pictures: the photographs inside scikit-image (data.root=FOLDER takes yours).")
    console.print(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''} in {jobs[0].study}", soft_wrap=True)


def _report(jobs: Sequence[Job], console: Console) -> None:
    """Results, figures and pictures of finished jobs, beside the reference codecs on the same noisy pictures."""
    if not jobs:
        return
    config, study = jobs[0].config, jobs[0].study
    out = study / "report"
    sources = [job.folder for job in jobs]
    distinct = {Parts.name(job, "data"): job for job in jobs}.values()
    beside = dict.fromkeys(path for job in distinct for path in reference_rows(job.config, console))
    files = report.make([*sources, *beside], out, console)
    if "flagship" in (config["report"]["beside"] or []):
        files |= _at_equal_bytes(config, out, console)
    if command := tracker.sync_command(study):
        shown = command if len(command) < 200 else f"{command[:200]} ..."
        console.print(f"W&B is offline; upload with: {shown}", soft_wrap=True)
    run = tracker.tracker(
        folder=out, project=config["logger"]["project"], group=config["name"], job_type="report",
        name=f"{config['name']} report", id=_report_id(jobs),
        tags=["report"], mode=config["logger"]["mode"], config={"jobs": [str(job.folder) for job in jobs]},
    )  # fmt: skip
    pictures = {name: path for name, path in files.items() if path.suffix == ".png"}
    tracker.report_run(tracker=run, curves=results.curves(results.read([files["results"]])), pictures=pictures)


def _report_id(jobs: Sequence[Job]) -> str:
    """Of the report's W&B run: the same when the same runs are reported again."""
    ids = sorted(str((run_folder.read_state(job.folder) or {}).get("id")) for job in jobs)
    return f"report-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}"


def _at_equal_bytes(config: dict, out: Path, console: Console) -> dict[str, Path]:
    """The first test picture by the shipped network and by AVIF, in as many bytes."""
    data: DataModule = instantiate(config["data"], _convert_="all")
    data.prepare()
    path = out / "equal_bytes.png"
    try:
        equal_bytes.draw(data.pictures(data.test_sets[0])[0][1], path)
    except UserError as error:
        console.print(f"no pictures at equal bytes: {error}", highlight=False, markup=False)
        return {}
    console.print(f"at equal bytes: {path}", soft_wrap=True, highlight=False, markup=False)
    return {"equal_bytes": path}
