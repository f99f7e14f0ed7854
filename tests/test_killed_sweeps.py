"""Sweeps that are killed at random moments: the repeated command ends with the results of an undisturbed one."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from safetensors.torch import load_file
from test_study import TINY, data
from test_study import pictures as pictures  # the fixture

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.artifacts import weights
from jdcsuite.study import state
from jdcsuite.study.launch.lifetime import end_with

pytestmark = pytest.mark.slow
KILLS = 5
SHORT = ("trainer.max_steps=6", "trainer.val_every=3", "trainer.checkpoint_every=1", "trainer.log_every=1",
         "trainer.accelerator=cpu", "-m")  # fmt: skip
TWENTY = ("+experiment=fllic,fllic_w", "+sweep=ladder", "sigma=5,10", "lmbda=512,1024,2048,4096,8192")  # need ten more
FOUR = ("+experiment=fllic,fllic_w", "+sweep=ladder", "sigma=10", "lmbda=512,2048")  # need two more


class Sweep:
    """A training command in a process group of its own, whose output goes to a file beside its runs."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.runs, self.log = folder / "runs" / "t", folder / "log"
        folder.mkdir()
        self._command = [sys.executable, "-m", "jdcsuite", *words, f"runs={folder / 'runs'}", "name=t"]

    def begin(self) -> subprocess.Popen:
        with self.log.open("w") as log:
            end = partial(end_with, os.getpid())  # where the test is killed, nothing is left
            return subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True, preexec_fn=end)

    def begun(self) -> list[str]:
        """What it said of the jobs that it has begun."""
        return re.findall(r"^\[\d+/\d+\] \S+/([^\s,]+)", self.log.read_text(), re.MULTILINE)

    def wait_for(self, process: subprocess.Popen, *, jobs: int) -> None:
        while len(self.begun()) < jobs:
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def processes(self) -> list[int]:
        """Those that run its jobs or itself."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                dead = " Z " in (process / "stat").read_text()
            except OSError:
                continue
            if str(self.runs.parent).encode() in words and not dead:
                found.append(int(process.name))
        return found


def rows(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / run_folder.ROWS)
    return table.drop(columns=[name for name in table if name.endswith("_ms")])


@pytest.mark.parametrize(
    ("jobs", "words", "kill"),
    [
        (TWENTY, (), os.killpg),
        (FOUR, ("trainer.devices=2",), os.kill),
        (FOUR, ("launcher.parallel=2",), os.kill),
    ],
    ids=["one process", "two ranks, only their parent is killed", "two jobs at a time, only their parent is killed"],
)
def test_a_killed_sweep_ends_like_an_undisturbed_one(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, jobs: tuple[str, ...], words: tuple[str, ...], kill
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = (*jobs, *words, *SHORT, *TINY, *data(pictures))
    whole, killed = Sweep(tmp_path / "whole", *words), Sweep(tmp_path / "killed", *words)

    start, process = time.monotonic(), whole.begin()
    whole.wait_for(process, jobs=1)
    planning = time.monotonic() - start
    assert process.wait() == 0, whole.log.read_text()
    count = len(whole.begun())
    a_job = (time.monotonic() - start - planning) / count

    seed = int(os.environ.get("KILLS_SEED") or secrets.randbits(32))
    moments = random.Random(seed)
    print(f"KILLS_SEED={seed}: {planning:.0f} s of planning, {a_job:.1f} s a job of {count}")
    for i in range(1, KILLS + 1):
        # in a job of the sweep's next fifth or before, 0 being the planning, and none when nothing is left to do
        number, part = moments.randrange(int(0.9 * count * i / KILLS)), moments.random()
        process = killed.begin()
        killed.wait_for(process, jobs=number)
        time.sleep(part * (a_job if number else planning))
        assert process.poll() is None, f"the sweep ended before kill {i}: {killed.log.read_text()}"
        kill(process.pid, signal.SIGKILL)
        process.wait()
        died = time.monotonic()
        while left := killed.processes():
            assert time.monotonic() < died + 5, f"processes {left} survive"
        folders = [path.parent for path in killed.runs.glob("*/config.yaml")]
        words_of = [state.state_of(folder).word for folder in folders]
        counts = ", ".join(f"{words_of.count(word)} {word}" for word in sorted(set(words_of))) or "no run yet"
        print(f"kill {i} in {(killed.begun() or ['the planning'])[-1]}: {counts}")
        assert state.RUNNING not in words_of and state.FAILED not in words_of
    process = killed.begin()
    assert process.wait() == 0, killed.log.read_text()

    names = {folder.parent.name for folder in whole.runs.glob("*/config.yaml")}
    assert names == {folder.parent.name for folder in killed.runs.glob("*/config.yaml")} == set(killed.begun())
    for name in names:
        ours, theirs = (sweep.runs / name for sweep in (killed, whole))
        assert state.state_of(ours).done
        assert {path.relative_to(ours) for path in ours.rglob("*")} == {
            p.relative_to(theirs) for p in theirs.rglob("*")
        }
        pd.testing.assert_frame_equal(rows(ours), rows(theirs))
        metrics = [pd.read_csv(each / "metrics.csv") for each in (ours, theirs)]
        pd.testing.assert_frame_equal(*metrics)
        mine, other = (load_file(each / weights.NAME) for each in (ours, theirs))
        assert mine.keys() == other.keys() and all(mine[tensor].equal(other[tensor]) for tensor in other)
    assert not list(killed.runs.rglob("*.part"))
    for lock in (killed.runs / ".locks").iterdir():
        FileLock(lock).acquire(timeout=0).lock.release()
    assert {path.name for path in killed.runs.rglob("report/*")} == {path.name for path in whole.runs.rglob("report/*")}
