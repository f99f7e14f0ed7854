"""A process and its parent -> the process is killed when its parent dies; imports nothing that takes time."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "JDCSUITE_PARENT"  # environment variable: the process that starts the ranks of a job, for each of them


def end_with(parent: int) -> None:
    """Linux: this process, a child of ``parent``, gets SIGKILL when that dies, however it happens. No weaker signal
    would do: the lock of a run is free as soon as whoever held it is dead, and nobody may write to the run after."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)


def end_with_group() -> None:
    """`end_with` for a rank of a job that ``launch.group`` started; nothing in a process that was started by hand."""
    if parent := os.environ.get(PARENT):
        end_with(int(parent))
