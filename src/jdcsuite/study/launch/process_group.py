"""A command that starts the ranks of a job -> its exit status; the ranks end with this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.study.launch.lifetime import end_with

WORKER, GROUP = "jdcsuite.study.launch.worker", "jdcsuite.study.launch.group"
_running: set[subprocess.Popen] = set()
QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning"}  # of imports, before any code can


def torchrun(devices: int, *arguments: Path, module: str = WORKER) -> list[str]:
    """The command that runs a job, the folder in ``arguments``, on several devices of this machine. Lightning's own
    subprocesses cannot do it: they replay this command with Hydra's overrides appended, and fail. Ranks meet at
    localhost: the name of the machine may have no address, as in a container."""
    ranks = ["--standalone", "--local-addr=localhost", f"--nproc-per-node={devices}"]
    return [sys.executable, "-m", GROUP, *ranks, "-m", module, *map(str, arguments)]


def status_of(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
    """Run ``command``, which is ended where this process is, however that happens. ``environment``: in addition to that
    of this process."""
    # Ctrl-C reaches this process alone
    options = {"preexec_fn": partial(end_with, os.getpid()), "start_new_session": True}
    with subprocess.Popen(command, env={**os.environ, **QUIET, **(environment or {})}, **options) as process:
        _running.add(process)
        try:
            return process.wait()
        except BaseException:  # Ctrl-C, SIGTERM
            process.terminate()
            process.wait()
            raise
        finally:
            _running.discard(process)


def terminate_all() -> None:
    """Ask the commands that other threads of this process run to end, each once."""
    while _running:
        _running.pop().terminate()


def reason(folder: Path, status: int) -> str:
    """Why the processes of a job ended with ``status``, in one sentence; "" for 0."""
    if status == 0:
        return ""
    log = folder / run_folder.ERROR
    return log.read_text().partition("\n")[0] if log.is_file() else f"its processes ended with status {status}"
