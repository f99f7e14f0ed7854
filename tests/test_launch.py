"""Launchers and `jdc status`: order, devices, what is submitted to a cluster, and what a run folder tells."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from jdcsuite.artifacts import environment, weights
from jdcsuite.artifacts import folder as run_folder
from jdcsuite.cli.app import app
from jdcsuite.study import reporting, state, sweep
from jdcsuite.study.launch import execute, process_group, slurm
from jdcsuite.training.callbacks import STOPPED, AtomicCheckpoints, StopOnSignal, resumable
from jdcsuite.types import UserError

CLUSTER = {"kind": "slurm", "nodes": 2, "cpus": 4, "minutes": 60, "grace": 30, "options": ["--partition=x"],
           "setup": ["module load x"]}  # fmt: skip


def job(folder: Path, *needs: Path, launcher: dict | None = None, **more: object) -> Path:
    """A run folder that holds a job, as planning writes it."""
    folder.mkdir(parents=True)
    config = {
        "key": folder.name,
        "rerun": False,
        "debug": False,
        "trainer": {"devices": 2, "accelerator": "auto", "max_steps": 100},
        "launcher": launcher or {"kind": "local", "parallel": 2},
        "needs": {str(i): {"run": need.name, "key": need.name, "into": "model"} for i, need in enumerate(needs)},
        **more,
    }
    (folder / run_folder.CONFIG).write_text(yaml.safe_dump(config))
    return folder


def finish(folder: Path) -> None:
    (folder / weights.NAME).touch()
    (folder / run_folder.ROWS).touch()
    run_folder.write_state(folder, {"key": folder.name, "needs": {}, "finished": True})


# -- this machine ----------------------------------------------------------------------------------------------


def worker(tmp_path: Path, body: str) -> list[str]:
    script = tmp_path / "worker.py"
    script.write_text(f"import os, sys, time\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n{body}\n")
    return [sys.executable, str(script)]


def test_jobs_run_side_by_side_each_after_those_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "study"
    first, second = job(study / "first"), job(study / "second")
    third, fourth = job(study / "third", first), job(study / "fourth", second)
    body = (
        "log = folder.parent / 'log'\n"
        "def write(word):\n    with log.open('a') as file: file.write(f'{word} {folder.name}\\n')\n"
        "write('begin'); time.sleep(.4); write('end'); sys.exit(folder.name == 'second')"
    )
    command = worker(tmp_path, body)
    monkeypatch.setattr(process_group, "torchrun", lambda devices, folder: [*command, str(folder)])
    failures = execute.execute([first, second, third, fourth], Console(quiet=True))
    log = (study / "log").read_text().splitlines()
    assert set(log[:2]) == {"begin first", "begin second"}
    assert log.index("end first") < log.index("begin third") and "begin fourth" not in log
    assert [failure.folder for failure in failures] == [second, fourth]
    assert [failure.reason for failure in failures] == [
        "its processes ended with status 1",
        "it needs second, which failed",
    ]


def test_an_interrupted_sweep_of_jobs_side_by_side_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    folders = [job(study / str(i)) for i in range(5)]
    begun = study / "begun"
    command = worker(tmp_path, "(folder.parent / 'begun').open('a').write(folder.name); time.sleep(60)")
    monkeypatch.setattr(process_group, "torchrun", lambda devices, folder: [*command, str(folder)])
    states: set[str] = set()

    def interrupt() -> None:
        while not begun.exists() or len(begun.read_text()) < 2:
            time.sleep(0.05)
        states.update(f"{folder.name} {state.state_of(folder).word}" for folder in folders)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(3))
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(SystemExit) as end:
            execute.execute(folders, Console(quiet=True))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert end.value.code == 3 and len(begun.read_text()) == 2
    assert sum(word.endswith(state.RUNNING) for word in states) == 2, "the others wait for a device, and hold no lock"


def test_jobs_have_devices_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(environment, "hardware", lambda: "five GPUs")
    folders = [job(tmp_path / name, launcher={"kind": "local", "parallel": None}) for name in ("a", "b", "c")]
    body = (
        "mine = folder.parent / os.environ['CUDA_VISIBLE_DEVICES']; mine.mkdir()  # fails where another job has them\n"
        "(folder / 'seen').write_text(mine.name); time.sleep(.3); mine.rmdir()"
    )
    command = worker(tmp_path, body)
    monkeypatch.setattr(process_group, "torchrun", lambda devices, folder: [*command, str(folder)])
    assert not execute.execute(folders, Console(quiet=True))
    seen = [(folder / "seen").read_text() for folder in folders]
    assert set(seen) == {"0,1", "2,3"}
    many = job(tmp_path / "many", launcher={"kind": "local", "parallel": 3})
    with pytest.raises(UserError, match="need more than the 5 GPUs here"):
        execute.execute([many], Console(quiet=True))


# -- a cluster -------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for sbatch and scontrol: what sbatch is given goes to files NUMBER.job; states are read from NUMBER."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f"""n=$(ls {folder} | grep -c job || true); n=$((n + 1))
            {{ echo "$@"; cat; }} > {folder}/$n.job; echo PENDING > {folder}/$n
            case "$*" in *refuse*) echo 'invalid partition' >&2; exit 1;; esac; echo $n""",
        "scontrol": f"""[ -e {folder}/$5 ] || exit 1; echo "JobId=$5 JobState=$(cat {folder}/$5) Reason=None" """,
    }
    programs["scontrol"] = programs["scontrol"].replace("$5", "$4")
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_sweep_becomes_jobs_that_depend_on_each_other_and_a_report(tmp_path: Path, fake: Path) -> None:
    study = tmp_path / "study"
    first = job(study / "first", launcher=CLUSTER)
    second = job(study / "second", first, launcher=CLUSTER)
    done = job(study / "done", launcher=CLUSTER)
    finish(done)
    slurm.submit([first, done, second], [second, done], Console(quiet=True))
    one, two, report = ((fake / f"{i}.job").read_text() for i in (1, 2, 3))
    for words in ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=4", "--time=60", "--signal=USR2@30", "--requeue",
                  "--gpus-per-node=2", "--partition=x"):  # fmt: skip
        assert words in one and words in two
    assert "--dependency" not in one and "--dependency=afterok:1" in two and "--dependency=afterany:1:2" in report
    assert "--nodes=1" in report and "--ntasks-per-node=1" in report and "--gpus" not in report
    assert "module load x\n" in one and f"slurm run {first}" in one and f"slurm report {second} {done}" in report

    (fake / "1").write_text("RUNNING\n")
    (fake / "2").write_text("FAILED\n")
    slurm.submit([first, done, second], [second, done], Console(quiet=True))
    again = (fake / "4.job").read_text()  # the first is in the queue: only the second is submitted again
    assert f"slurm run {second}" in again and "--dependency=afterok:1" in again
    assert "slurm report" in (fake / "5.job").read_text()


def test_what_slurm_refuses_and_a_machine_without_it_are_one_sentence(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = job(tmp_path / "study" / "a", launcher={**CLUSTER, "options": ["--partition=refuse"]})
    with pytest.raises(UserError, match="SLURM refuses a: invalid partition"):
        slurm.submit([refused], [refused], Console(quiet=True))
    assert slurm.queued(refused) is None
    slurm.check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs SLURM's sbatch"):
        slurm.check()


@pytest.mark.parametrize("restarts, begins_again", [("0", True), ("1", False)])
def test_a_requeued_job_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, begins_again: bool
) -> None:
    folder = job(tmp_path / "study" / "a", launcher=CLUSTER, rerun=True)
    (folder / "metrics.csv").write_text("step\n1\n")
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\nexit 3\n")
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert slurm.main(["run", str(folder)]) == 1
    assert (folder / "metrics.csv").exists() != begins_again
    assert (folder / run_folder.ERROR).read_text() == "its processes ended with status 3\n"


@pytest.mark.parametrize(
    "stopped, status, error",
    [
        (lambda folder: 3, 1, "its processes ended with status 3"),
        (finish, 0, None),
        (lambda folder: 0, 1, "its time was up and it could not be queued again: no such job"),
    ],
)
def test_ranks_that_leave_a_job_unfinished_without_error_queue_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped, status: int, error: str | None
) -> None:
    folder = job(tmp_path / "study" / "a", launcher=CLUSTER)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(process_group, "status_of", lambda command: stopped(folder) or 0)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked; echo no such job >&2; exit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert slurm.main(["run", str(folder)]) == status
    log = folder / run_folder.ERROR
    assert (log.read_text().strip() if log.exists() else None) == error
    assert (tmp_path / "asked").exists() == (error is not None and "queued" in error)


@pytest.mark.parametrize("code, status", [(STOPPED, 0), (143, 143), (None, 0)])
def test_a_rank_that_is_stopped_ends_well(monkeypatch: pytest.MonkeyPatch, code: int | None, status: int) -> None:
    def stop(folder: Path) -> str:
        if code is None:
            return ""
        raise SystemExit(code)

    monkeypatch.setattr("jdcsuite.study.launch.worker.attempt", stop)
    assert slurm.main(["rank", "folder"]) == status


def test_a_job_on_its_first_node_and_jdc_status_do_not_load_lightning() -> None:
    """Which took two thirds of the processor time that `jdc status` needs."""
    code = "import jdcsuite.study.state, jdcsuite.study.launch.slurm, sys; sys.exit('lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- signals ---------------------------------------------------------------------------------------------------


class Slow(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if index == 3 and not self.trainer.default_root_dir.endswith("quiet"):
            os.kill(os.getpid(), signal.SIGUSR2)
        self.seen.append(index)
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.ones(10, 1), batch_size=1)


def trainer(folder: Path) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, max_steps=10, logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", plugins=[AtomicCheckpoints()], callbacks=[StopOnSignal()], enable_checkpointing=False,
    )  # fmt: skip


def test_a_signal_ends_training_after_its_step_with_a_checkpoint(tmp_path: Path, capfd) -> None:
    before = [signal.getsignal(number) for number in StopOnSignal.SIGNALS]
    module = Slow()
    with pytest.raises(SystemExit) as end:
        trainer(tmp_path).fit(module)
    assert end.value.code == STOPPED and module.seen == [0, 1, 2, 3]
    assert "stopped by SIGUSR2 after step 4" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in StopOnSignal.SIGNALS] == before
    checkpoint = resumable(tmp_path)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4


# -- status ----------------------------------------------------------------------------------------------------


def test_status_of_run_folders(tmp_path: Path, fake: Path) -> None:
    study = tmp_path / "study"
    names = ("done", "planned", "running", "stopped", "failed", "queued", "lost")
    folders = {name: job(study / name) for name in names}
    folders["next"] = job(study / "next", folders["failed"])
    folders["last"] = job(study / "last", folders["done"], folders["next"])
    finish(folders["done"])
    for name in ("running", "stopped", "failed"):
        run_folder.write_state(folders[name], {"key": name, "needs": {}, "finished": False})
        (folders[name] / "metrics.csv").write_text("step,loss\n9,1\n19,.5\n2")
    (folders["failed"] / run_folder.ERROR).write_text("no space left\ntraceback\n")
    for name, number in {"queued": "7", "lost": "8"}.items():
        (folders[name] / slurm.SUBMITTED).write_text(json.dumps({"job": number}))
    (fake / "7").write_text("PENDING\n")
    (fake / "8").write_text("NODE_FAIL\n")
    (study / ".locks").mkdir()
    with FileLock(study / ".locks" / "running"):
        # of another thread's lock, as of another process's
        known = {name: state.state_of(folder) for name, folder in folders.items()}
        shown = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert {name: each.word for name, each in known.items()} == {
        "done": "done", "planned": "waiting", "running": "running", "stopped": "stopped", "failed": "failed",
        "queued": "waiting", "lost": "failed", "next": "failed", "last": "failed",
    }  # fmt: skip
    assert (known["running"].step, known["running"].steps) == (20, 100)
    assert known["failed"].note == "no space left" and "node_fail" in known["lost"].note
    assert known["last"].note == "it needs next, which failed"
    assert shown.exit_code == 1 and "1 done, 1 running, 2 waiting, 1 stopped, 4 failed" in shown.output


def test_status_of_damaged_run_folders(tmp_path: Path) -> None:
    """One of them used to hide all others, and the last line of a killed job counted as a step."""
    cut, garbage, whole = (job(tmp_path / "study" / name) for name in ("cut", "garbage", "whole"))
    (cut / run_folder.CONFIG).write_text("key: cut\nneeds: {ab")
    for folder, log in {garbage: b"loss,step\n\xff\x00,\xff\n", whole: b"loss,step\n1,9\n1,99"}.items():
        run_folder.write_state(folder, {"key": folder.name, "needs": {}, "finished": False})
        (folder / "metrics.csv").write_bytes(log)
    shown = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert shown.exit_code == 1 and "2 stopped, 1 failed" in " ".join(shown.output.split())
    assert state.state_of(cut).note.startswith(f"{cut / run_folder.CONFIG} holds no job: run the command again")
    assert [state.state_of(folder).step for folder in (cut, garbage, whole)] == [0, 0, 10]


def test_status_waits_until_no_job_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job(tmp_path / "study" / "a")
    finish(folder)
    (folder / run_folder.ROWS).unlink()
    (tmp_path / "study" / ".locks").mkdir()
    lock = FileLock(tmp_path / "study" / ".locks" / "a", thread_local=False)
    lock.acquire()

    def later() -> None:
        time.sleep(0.3)
        finish(folder)
        lock.release()

    monkeypatch.setattr("jdcsuite.cli.study.PAUSE", 0.1)
    threading.Thread(target=later).start()
    shown = CliRunner().invoke(app, ["status", str(tmp_path), "--wait"])
    assert shown.exit_code == 0 and "1 done" in shown.output


def test_status_of_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        list(state.studies([tmp_path]))


def test_ranks_end_with_their_parent(tmp_path: Path) -> None:
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys\nfrom jdcsuite.study.launch import process_group\n"
        f"process_group.status_of([sys.executable, '-c', {child!r}, sys.argv[1]])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")])
    until = time.monotonic() + 300
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    number = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{number}").exists() and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("before, ends", [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_ends_a_sweep_but_not_under_nohup(before: signal.Handlers, ends: bool) -> None:
    """Its ranks used to be told of it by the death of their parent."""
    handlers = {number: signal.signal(number, before) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        sweep._end_at_signals()
        with pytest.raises(SystemExit) if ends else nullcontext() as end:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not ends or end.value.code == 129
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


# -- deaths ----------------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = job(tmp_path / "study" / "a")
    (folder / "checkpoints").mkdir()
    parts = [folder / ".results.csv.0a1b2c3d.part", folder / "checkpoints" / ".last.ckpt.4e5f6a7b.part"]
    for part in parts:
        part.write_bytes(b"half")
    run_folder.begin(folder, run_folder.read_config(folder))
    assert not any(part.exists() for part in parts) and (folder / run_folder.CONFIG).exists()


def test_a_job_that_is_killed_while_it_is_cleared_does_not_go_on_from_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint used to outlive the state that said from which weights it had begun."""
    unlink = Path.unlink
    for survivors in range(1, len(run_folder.RESULTS)):
        need = job(tmp_path / f"{survivors}" / "need")
        folder = job(tmp_path / f"{survivors}" / "a", need)
        run_folder.begin(folder, run_folder.read_config(folder))
        for name in run_folder.RESULTS:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        run_folder.begin(folder, run_folder.read_config(folder))
        (need / weights.NAME).write_bytes(b"others")
        removed: list[Path] = []

        def killed(path: Path, missing_ok: bool = False, removed=removed, survivors=survivors) -> None:
            if len(removed) + survivors == len(run_folder.RESULTS):
                raise KeyboardInterrupt
            removed.append(path)
            unlink(path, missing_ok)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", killed)
            run_folder.clear(folder)
        assert run_folder.needs_changed(folder) or not (folder / run_folder.LAST).exists()


def test_reports_are_made_one_at_a_time_without_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job(tmp_path / "study" / "a", data={}, report={"beside": None})
    part = folder.parent / "report" / "tables" / ".means.csv.0a1b2c3d.part"
    part.parent.mkdir(parents=True)
    part.touch()

    class Made(Exception):
        pass

    def make(*arguments: object) -> None:
        with pytest.raises(Timeout):
            execute.lock_of(folder.parent / "report").acquire(timeout=0)
        assert not part.exists()
        raise Made

    monkeypatch.setattr(reporting, "reference_rows", lambda config, console: [])
    monkeypatch.setattr(reporting.report, "make", make)
    with pytest.raises(Made):
        reporting.make([folder], Console(quiet=True), sweep=[folder])


def test_a_worker_that_is_started_by_hand_needs_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to end with KeyError."""
    monkeypatch.delenv("JDCSUITE_PARENT", raising=False)
    folder = job(tmp_path / "study" / "run")
    command = [sys.executable, "-m", process_group.WORKER, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "KeyError: 'seed'" in (folder / run_folder.ERROR).read_text(), "the job of this test has no seed"
