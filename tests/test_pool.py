"""Worker processes end with their parent, however it ends, and Ctrl-C is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PARENT = """
import sys
from pathlib import Path
import waiting
from jdcsuite.files import pool
if __name__ == "__main__":
    items = [Path(sys.argv[1]) / str(i) for i in range(20)]
    list(pool.run(items, waiting.work, jobs=2, died=str))
"""


def started(tmp_path: Path, words: list[str]) -> subprocess.Popen[str]:
    """A process in a group of its own, as a shell starts it. Behind one that runs in the background, as of a build
    server, Ctrl-C would be ignored."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    """They used to stay for ever, with a gigabyte each, and go on writing."""
    (tmp_path / "parent.py").write_text(PARENT)
    with started(tmp_path, [sys.executable, "parent.py", str(tmp_path)]) as parent:
        try:
            assert within(120, lambda: len(list(tmp_path.glob("*.pid"))) == 2), "both workers are at work"
            workers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
            (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
            assert within(60, lambda: not any(map(alive, [parent.pid, *workers])))
            assert parent.wait() == -number
            if number == signal.SIGINT:
                assert parent.stderr.read().count("Traceback") == 1, "that of the parent, which catches nothing"
        finally:
            parent.kill()


@pytest.mark.parametrize("when", ["while the verbs are imported", "while a verb runs"])
def test_ctrl_c_is_one_line(tmp_path: Path, when: str) -> None:
    if when == "while a verb runs":
        interrupted = (
            "from jdcsuite.files import paths\npaths.images = lambda words: signal.raise_signal(signal.SIGINT)"
        )
    else:
        (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
        interrupted = "sys.path.insert(0, '')"
    code = f"import signal, sys\n{interrupted}\nsys.argv = ['jdc', 'noise', 'x']\nfrom jdcsuite.cli import main\nmain()"
    with started(tmp_path, [sys.executable, "-c", code]) as process:
        assert process.wait(60) in (130, -signal.SIGINT), "a shell calls both 130"
        assert process.stderr.read() == "jdc: interrupted\n"
