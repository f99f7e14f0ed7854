"""Process groups and signals, the time that a sweep has left, and help, without training."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jdcsuite import __main__ as entry
from jdcsuite import cli
from jdcsuite.artifacts import folder as run_folder
from jdcsuite.study import reporting
from jdcsuite.study.launch import process_group
from jdcsuite.study.launch.execute import time_left
from jdcsuite.training.outputs import test_metrics as means
from jdcsuite.types import Row


def group(tmp_path: Path, body: str) -> subprocess.Popen:
    """A group of one rank, which runs ``body``."""
    (tmp_path / "rank.py").write_text(body)
    words = ["--standalone", "--nproc-per-node=1", str(tmp_path / "rank.py")]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "jdcsuite.study.launch.group", *words], stderr=subprocess.PIPE, text=True
    )


def test_a_terminated_group_ends_without_a_traceback(tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = group(tmp_path, f"import time, pathlib\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n")
    while not started.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")


def test_a_group_whose_rank_fails_adds_no_traceback_of_its_own(tmp_path: Path) -> None:
    process = group(tmp_path, "import sys\nsys.exit(3)\n")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err


def test_a_group_runs_on_a_machine_whose_name_has_no_address(tmp_path: Path) -> None:
    """As in a container: ranks used to look for it for five minutes, and the job failed."""
    (tmp_path / "sitecustomize.py").write_text("import socket\nsocket.getfqdn = lambda *_: 'nowhere.invalid'\n")
    (tmp_path / "rank.py").touch()
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(cli.__file__).parents[2]}"}
    subprocess.run(process_group.torchrun(1, module="rank"), env=env, timeout=120, check=True)


UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], check=False).returncode != 0,
    reason="this machine lets nobody be the first process of a namespace",
)
def test_the_first_process_of_a_container_starts_groups() -> None:
    """What it started took it for init, which adopts the children of the dead, and ended."""
    script = "from jdcsuite.study.launch import process_group\nexit(process_group.status_of(['true']))"
    subprocess.run([*UNSHARE, sys.executable, "-c", script], check=True)


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_rank_is_killed_with_its_group(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / run_folder.CONFIG)  # whoever reads it waits for ever
    words = ["--standalone", "--nproc-per-node=1", "-m", process_group.WORKER, str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", process_group.GROUP, *words])
    while not (ranks := children(process.pid)) and process.poll() is None:
        time.sleep(0.05)
    rank = Path("/proc", str(ranks[0]))
    process.kill()
    process.wait()
    until = time.monotonic() + 10
    while rank.exists() and (rank / "stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until, f"{rank} survives"
        time.sleep(0.05)


def test_jdc_run_becomes_the_training(tmp_path: Path) -> None:
    """Signals to `jdc run` used to leave the training running."""
    (tmp_path / "hydra.py").write_text("import os, sys\nprint(os.getpid(), sys.argv[1:])\nsys.exit(7)\n")
    path = f"{tmp_path}:{Path(cli.__file__).parents[2]}"
    words = ["run", "+experiment=fllic", "-m", "--cfg", "job", "-h"]
    with subprocess.Popen(
        [sys.executable, "-m", "jdcsuite.cli", *words], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (7, f"{process.pid} {words[1:]}\n")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_training_shows_examples_and_experiments(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jdcsuite", flag])
    entry.main()
    shown = capsys.readouterr().out
    assert "python -m jdcsuite +experiment=fllic_w sigma=10 -m" in shown and "jdc_cn8_ms_ssim" in shown


def test_both_programs_show_their_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["jdcsuite", "--version"])
    entry.main()
    monkeypatch.setattr(sys, "argv", ["jdc", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert not end.value.code and len(lines) == 2 and lines[0] == lines[1] and lines[0].startswith("jdcsuite 0.")


@pytest.mark.parametrize("verb", ["compress", "decompress", "info", "noise", "predenoise", "fetch", "cache", "doctor",
                                  "evaluate", "report", "dashboard", "export", "bench"])  # fmt: skip
def test_every_verb_has_examples(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jdc", verb, "-h"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr().out
    assert not end.value.code and "Examples:" in shown and f"jdc {verb}" in shown.partition("Examples:")[2]


def test_the_time_left_follows_the_finished_jobs_of_a_method(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("fllic-1", "fllic-2", "unet-3", "fllic-4", "unet-5")]

    def finish(folder: Path, seconds: float) -> None:
        folder.mkdir()
        run_folder.write_state(folder, {"key": "x", "needs": {}, "finished": True})
        run_folder.add_time(folder, seconds / 2)
        run_folder.add_time(folder, seconds / 2)

    assert time_left(folders, folders) == ""
    finish(folders[0], 600)
    assert time_left(folders[1:], folders) == ", about 40 min left"
    finish(folders[1], 1200)
    finish(folders[2], 7200)
    assert time_left(folders[3:], folders) == ", about 2 h 15 min left"
    assert time_left(folders[2:3], folders) == ", less than a minute left", "a finished job takes no time"


def test_the_report_of_a_sweep_keeps_its_id(tmp_path: Path) -> None:
    sweep = [tmp_path / "study" / name for name in ("fllic-s10-l512-aaaaaaaa", "fllic-s10-l2048-bbbbbbbb")]
    identity = reporting._report_id(sweep)
    assert identity == reporting._report_id(sweep[::-1]), "in any order"
    assert identity != reporting._report_id(sweep[:1])
    assert identity != reporting._report_id([tmp_path / "other" / folder.name for folder in sweep])


def test_metrics_of_a_test_are_means_of_finite_values() -> None:
    rows = [
        Row(dataset="a", image="1", bpp=1.0, psnr=30.0, ms_ssim=0.5),
        Row(dataset="a", image="2", bpp=2.0, psnr=float("inf")),
        Row(dataset="b", image="1", quality=40.0, bpp=3.0, psnr=20.0),
    ]
    assert means(rows) == {
        "test/a/bpp": 1.5, "test/a/psnr": 30.0, "test/a/ms_ssim": 0.5, "test/b-q40/bpp": 3.0, "test/b-q40/psnr": 20.0,
    }  # fmt: skip
