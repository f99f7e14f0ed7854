"""Run folders in order -> jobs of SLURM, each after those that it needs, and one that reports them all.

`python -m jdcsuite.study.launch.slurm run FOLDER` is what such a job runs on its first node: it starts the ranks,
`... rank FOLDER`, by `srun`. Before a job's time is up SLURM sends SIGUSR2 to the ranks, which write a checkpoint and
stop (`training.callbacks.StopOnSignal`) with status 0, since srun would end the other ranks before they are done for
any other; a job whose ranks end well and leave it unfinished is queued again. Neither accounting nor submitit is
needed: submitit pickles functions, and does not queue a job again that ran out of time.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # before imports, which take seconds; a rank has done nothing yet that could be lost
    signal.signal(signal.SIGUSR2, (lambda *_: os._exit(0)) if sys.argv[1] == "rank" else signal.SIG_IGN)

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.imaging import atomic
from jdcsuite.study.launch import process_group
from jdcsuite.study.launch.execute import run
from jdcsuite.types import UserError

SUBMITTED, LOG = "slurm.json", "slurm.log"  # in a run folder
MODULE = "jdcsuite.study.launch.slurm"
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT"}  # fmt: skip
REQUEUE_WAIT = 60  # seconds until a job that queued itself again is ended


def check() -> None:
    """UserError where jobs cannot be submitted from here."""
    for program in ("sbatch", "scontrol"):
        if not shutil.which(program):
            raise UserError(f"launcher=slurm needs SLURM's {program}, which is not on the PATH: run it on a machine of "
                            "the cluster, or leave launcher= out")  # fmt: skip


def submit(folders: Sequence[Path], reported: Sequence[Path], console: Console) -> None:
    """Submit every job of ``folders`` that is neither finished nor in the queue, and a last one that reports the runs
    ``reported``. UserError where SLURM refuses one; those submitted before it stay in the queue."""
    jobs: dict[Path, str] = {}
    for folder in folders:
        config = run_folder.read_config(folder)
        if run_folder.is_finished(folder, config["key"]) and not config["rerun"]:
            console.print(f"{folder}: finished before", highlight=False, markup=False, soft_wrap=True)
            continue
        if job := queued(folder):
            console.print(f"{folder}: in the queue as job {job}", highlight=False, markup=False, soft_wrap=True)
        else:
            needs = [
                jobs[need.resolve()] for need in run_folder.needed(folder, config).values() if need.resolve() in jobs
            ]
            job = _sbatch(folder, config, "run", [folder], after=f"afterok:{':'.join(needs)}" if needs else None)
            atomic.write(folder / SUBMITTED, f"{json.dumps({'job': job})}\n".encode())
            console.print(f"{folder}: job {job}", highlight=False, markup=False, soft_wrap=True)
        jobs[folder.resolve()] = job
    study, config = folders[-1].parent, run_folder.read_config(folders[-1])
    alone = {**config, "trainer": {**config["trainer"], "devices": 1}, "launcher": {**config["launcher"], "nodes": 1}}
    after = f"afterany:{':'.join(jobs.values())}" if jobs else None
    job = _sbatch(study, alone, "report", reported, after=after)
    console.print(
        f"report: job {job}; jdc status {study} shows all of them", highlight=False, markup=False, soft_wrap=True
    )


def queued(folder: Path) -> str | None:
    """The number of the job that will run or runs the job of ``folder``, or None."""
    job = _submitted(folder)
    return job if job and state(job) not in OVER | {None} else None


def ended(folder: Path) -> str | None:
    """SLURM's word for how the last job of ``folder`` ended, or None where it did not, or is not known any more."""
    job = _submitted(folder)
    word = state(job) if job else None
    return word if word in OVER else None


def state(job: str) -> str | None:
    """SLURM's word for the state of a job, as PENDING; None where it knows no such job (any more)."""
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, check=False)
    words = dict(word.partition("=")[::2] for word in shown.stdout.split())
    return words.get("JobState") if shown.returncode == 0 else None


def _submitted(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / SUBMITTED).read_bytes())["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sbatch(log: Path, config: Mapping, verb: str, folders: Sequence[Path], *, after: str | None) -> str:
    """Submit `MODULE verb folders...` with the resources of ``config`` -> the job's number."""
    launcher, devices = config["launcher"], config["trainer"]["devices"]
    options = [
        *("sbatch", "--parsable", "--requeue", "--open-mode=append", f"--chdir={Path.cwd()}"),
        *(f"--output={(log / LOG).absolute()}", f"--job-name={log.name}" if verb == "run" else "--job-name=report"),
        *(f"--nodes={launcher['nodes']}", f"--ntasks-per-node={devices}", f"--cpus-per-task={launcher['cpus']}"),
        *(f"--time={launcher['minutes']}", f"--signal=USR2@{launcher['grace']}"),
        *([] if verb == "report" or config["trainer"]["accelerator"] == "cpu" else [f"--gpus-per-node={devices}"]),
        *([f"--dependency={after}", "--kill-on-invalid-dep=yes"] if after else []),
        *map(str, launcher["options"]),
    ]
    command = shlex.join([sys.executable, "-m", MODULE, verb, *map(str, folders)])
    script = "\n".join(["#!/bin/bash", *map(str, launcher["setup"]), f"exec {command}", ""])
    done = subprocess.run(options, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"SLURM refuses {log.name}: {' '.join(done.stderr.split()) or 'sbatch failed'}")
    return done.stdout.strip().partition(";")[0]


def _start(folder: Path, config: Mapping) -> str:
    """Run the ranks; queue the job again where they were asked to stop."""
    step = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={config['launcher']['cpus']}"]
    status = process_group.status_of([*step, sys.executable, "-m", MODULE, "rank", str(folder)])
    if status or run_folder.is_finished(folder, config["key"]):
        return process_group.reason(folder, status)
    again = subprocess.run(
        ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True, check=False
    )
    if again.returncode == 0:
        time.sleep(REQUEUE_WAIT)  # SLURM ends this process
    return f"its time was up and it could not be queued again: {' '.join(again.stderr.split())}"


def _rank(folder: Path) -> int:
    from jdcsuite.study.launch import worker
    from jdcsuite.training.callbacks import STOPPED

    try:
        return 1 if worker.attempt(folder) else 0
    except SystemExit as end:
        return 0 if end.code == STOPPED else int(end.code or 0)


def _run(folder: Path, console: Console) -> int:
    """The whole of a job on its first node; its exit status."""
    resumed = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    try:
        reason = run(folder, _start, console, resumed=resumed)
    except UserError as error:
        reason = str(error)
    if not reason:
        return 0
    print(f"failed: {reason}", flush=True)
    if not (folder / run_folder.ERROR).exists():
        atomic.write(folder / run_folder.ERROR, f"{reason}\n".encode())
    return 1


def _report(folders: Sequence[Path], console: Console) -> int:
    from jdcsuite.study import reporting
    from jdcsuite.study.state import state_of

    states = {folder: state_of(folder) for folder in folders}
    finished = [folder for folder, known in states.items() if known.done]
    for folder, known in states.items():
        if not known.done:
            print(f"failed: {folder}: {known.note}", flush=True)
    if finished:
        reporting.make(finished, console, sweep=folders)
    return int(len(finished) < len(folders))


def main(arguments: Sequence[str]) -> int:
    verb, folders = arguments[0], [Path(argument) for argument in arguments[1:]]
    match verb:
        case "run":
            return _run(folders[0], Console())
        case "rank":
            return _rank(folders[0])
        case "report":
            return _report(folders, Console())
    raise AssertionError(verb)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
