"""Run folders in order -> which of them failed, and why."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.imaging import atomic
from jdcsuite.study.launch import Failure
from jdcsuite.study.launch.worker import attempt
from jdcsuite.types import UserError


def execute(folders: Sequence[Path], console: Console) -> list[Failure]:
    """Run jobs one after another, each after those that it needs; the failures. A failed job does not stop the others,
    except those that need it."""
    failed: dict[Path, str] = {}
    for number, folder in enumerate(folders, 1):
        console.print(f"[bold][{number}/{len(folders)}][/] {folder}", highlight=False, soft_wrap=True)
        if reason := _run(folder, failed, console):
            failed[folder] = reason
            console.print(f"  failed: {reason}", markup=False, highlight=False, soft_wrap=True)
    return [Failure(folder, reason) for folder, reason in failed.items()]


def _run(folder: Path, failed: dict[Path, str], console: Console) -> str:
    """Why a job failed; "" where it ended well, now or before."""
    try:
        config = run_folder.read_config(folder)
        resolved = {path.resolve() for path in failed}
        for need in run_folder.needed(folder, config).values():
            if need.resolve() in resolved:
                return f"it needs {need.name}, which failed"
        with _locked(folder, console):
            if run_folder.is_finished(folder, config["key"]) and not config["rerun"]:
                console.print("  finished before: not run again (rerun=true does)")
                return ""
            if config["rerun"] or run_folder.needs_changed(folder):
                run_folder.clear(folder)
            run_folder.begin(folder, config)
            devices = config["trainer"]["devices"]
            return attempt(folder) if devices == 1 else _process_group(folder, devices)
    except UserError as error:
        return str(error)


@contextmanager
def _locked(folder: Path, console: Console) -> Iterator[None]:
    """One process or process group a run folder: another launch of the same job waits for it."""
    locks = folder.parent / ".locks"
    lock = FileLock(locks / folder.name)
    with atomic.writing(locks):
        locks.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print("  another process runs this job: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _process_group(folder: Path, devices: int) -> str:
    """Run a job on several devices under torchrun, which dies with this process. Lightning's own subprocesses cannot do
    it: they replay this command with Hydra's overrides appended, and fail."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    log = folder / run_folder.ERROR
    log.unlink(missing_ok=True)
    command = [*torchrun, "-m", "jdcsuite.study.launch.worker", str(folder)]
    quiet = {"PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning"}  # of imports, before any code can
    on_linux = _die_with_parent if sys.platform == "linux" else None
    with subprocess.Popen(command, env={**os.environ, **quiet}, preexec_fn=on_linux) as process:
        try:
            status = process.wait()
        except BaseException:  # Ctrl-C, SIGTERM
            process.terminate()
            process.wait()
            raise
    if status == 0:
        return ""
    return log.read_text().partition("\n")[0] if log.is_file() else f"its process group ended with status {status}"


def _die_with_parent() -> None:
    """Linux: this process gets SIGTERM when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() == 1:  # the parent died before that
        os.kill(os.getpid(), signal.SIGTERM)
