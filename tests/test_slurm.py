"""launcher=slurm on a real cluster (`make test-slurm`): jobs that are stopped, requeued and killed end as others do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.artifacts import weights
from jdcsuite.study import state

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("apt-get"), reason="needs root and Debian's packages"),
]
STEPS = 120  # so many that a signal finds a job in training, of a model so small that they take seconds
SWEEP = (
    *("+experiment=fllic", "sigma=5,10", "lmbda=512,2048", "trainer.devices=2", "trainer.accelerator=cpu", "-m"),
    *("model.widths=[8,8,16]", "model.num_latents=32"),
    *("data.crop=64", "data.val_crop=64", "data.batch=2", "data.workers=0", "data.limit=1"),
    *(f"trainer.max_steps={STEPS}", f"trainer.val_every={STEPS}", "trainer.checkpoint_every=20", "trainer.log_every=1"),
    *("trainer.progress=false", "logger=none", "report.standards=null", "report.beside=[]"),
)
NO_CLUSTER = 3  # exit status of cluster.sh
CLUSTER = ("launcher=slurm", "launcher.cpus=1", "launcher.minutes=30", "launcher.grace=60")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a cluster of two nodes on this machine."""
    folder, script = tmp_path_factory.mktemp("slurm"), Path(__file__).parent / "slurm" / "cluster.sh"
    cluster = folder / "cluster"
    started = subprocess.run([script, "start", cluster], check=False, stdout=subprocess.DEVNULL)
    if started.returncode == NO_CLUSTER:
        pytest.skip("no SLURM cluster can be made here")
    assert started.returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
        patch.setenv("MASTER_ADDR", "localhost")  # the nodes' names cannot be resolved
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        yield folder
    subprocess.run([script, "stop", cluster], check=True)


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jdcsuite", *words], capture_output=True, text=True, check=False)


def status(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import jdcsuite.cli; jdcsuite.cli.main()", "status", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def slurm(*words: str) -> None:
    subprocess.run(words, check=True)


def jobs(output: str) -> dict[Path, str]:
    """Run folder -> number of its job, of what a submission prints."""
    lines = re.findall(r"^(runs/\S+): job (\d+)$", output, re.MULTILINE)
    return {Path(folder): job for folder, job in lines}


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.2)


def training(folder: Path) -> Callable[[], bool]:
    return lambda: 25 <= state.state_of(folder).step < STEPS


def ranks(folder: Path) -> list[int]:
    """Processes that train a job."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "rank" in words and str(folder) in words and "srun" not in words[0]:
            found.append(int(process.name))
    return found


def results(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / run_folder.ROWS)
    return rows.drop(columns=[name for name in rows if name.endswith("_ms") or name in ("run", "weights_id")])


def test_a_sweep_survives_signals_requeues_and_kills(place: Path) -> None:
    plain = launch(*SWEEP, "name=plain")
    assert plain.returncode == 0, plain.stderr
    submitted = launch(*SWEEP, *CLUSTER, "name=cluster")
    assert submitted.returncode == 0, submitted.stderr
    folders = jobs(submitted.stdout)
    assert len(folders) == 4 and "report: job" in submitted.stdout
    stopped, requeued, killed, _ = folders

    until(training(stopped))
    slurm("scancel", "--signal=USR2", folders[stopped])
    until(training(requeued))
    slurm("scontrol", "requeue", folders[requeued])
    until(training(killed))
    for process in ranks(killed):
        os.kill(process, signal.SIGKILL)

    ended = status("runs/cluster", "--wait")
    assert ended.returncode == 1
    states = {folder: state.state_of(folder).word for folder in folders}
    assert states == {folder: state.FAILED if folder == killed else state.DONE for folder in folders}, ended.stdout
    assert "stopped by SIGUSR2" in (stopped / "slurm.log").read_text()
    until(lambda: (place / "runs/cluster/report/results.csv").is_file())
    until(lambda: f"failed: {killed}" in Path("runs/cluster/slurm.log").read_text())

    again = launch(*SWEEP, *CLUSTER, "name=cluster")
    assert again.returncode == 0 and again.stdout.count("finished before") == 3, again.stdout + again.stderr
    assert list(jobs(again.stdout)) == [killed]
    assert status("runs/cluster", "--wait").returncode == 0

    for folder in folders:  # each as if nothing had happened, and as without a cluster
        other = Path("runs/plain", folder.name)
        pd.testing.assert_frame_equal(results(folder), results(other))
        ours, theirs = (load_file(each / weights.NAME) for each in (folder, other))
        assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_job_waits_for_the_one_it_needs_and_fails_with_it(place: Path) -> None:
    chain = ("+start=chain", "sigma=10", "lmbda=8192", "trainer.devices=1", "name=chain")
    above, below = folders = jobs(launch(*SWEEP, *CLUSTER, *chain).stdout)
    until(training(above))
    assert state.state_of(below) == state.State(state.WAITING, f"job {folders[below]} is pending", 0, STEPS)
    for process in ranks(above):
        os.kill(process, signal.SIGKILL)
    assert status("runs/chain", "--wait").returncode == 1
    assert state.state_of(above).word == state.state_of(below).word == state.FAILED
    assert state.state_of(below).note == f"it needs {above.name}, which failed"
    until(lambda: f"failed: {below}" in Path("runs/chain/slurm.log").read_text())

    again = jobs(launch(*SWEEP, *CLUSTER, *chain).stdout)
    assert list(again) == [above, below]
    until(training(above))
    slurm("scancel", "--signal=USR2", again[above])  # it is queued again, and the other one still waits for it
    assert status("runs/chain", "--wait").returncode == 0
    until(lambda: (place / "runs/chain/report/results.csv").is_file())
    assert all(state.state_of(folder).done for folder in folders), "with the weights that the one above has now"


def test_ranks_on_several_nodes_train_one_job(place: Path) -> None:
    one = ("sigma=10", "lmbda=512", "trainer.devices=1", "trainer.max_steps=10", "trainer.val_every=10")
    submitted = launch(*SWEEP, *CLUSTER, *one, "launcher.nodes=2", "name=nodes")
    (folder,) = jobs(submitted.stdout)
    until(lambda: len(ranks(folder)) == 2)
    assert status("runs/nodes", "--wait").returncode == 0
    assert Path(folder, run_folder.ROWS).is_file()


def test_a_job_that_slurm_refuses_is_one_sentence(place: Path) -> None:
    refused = launch(*SWEEP, *CLUSTER, 'launcher.options=["--partition=none"]', "name=refused")
    assert refused.returncode == 2 and "SLURM refuses" in refused.stderr and "Traceback" not in refused.stderr
