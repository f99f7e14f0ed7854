"""`jdc doctor`: findings about a machine and a job, in plain sentences."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from jdcsuite.cli.app import app
from jdcsuite.study import doctor

TINY = ["+experiment=fllic", "lmbda=512", "width=0.04", "data.crop=64", "data.val_crop=64"]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No W&B, a cache of its own, and no configuration of an earlier test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("JDCSUITE_CACHE", str(tmp_path / "cache"))
    GlobalHydra.instance().clear()


def findings(*overrides: str) -> tuple[str, list[str]]:
    """All sentences of a job, and those of problems."""
    every = list(doctor.job(overrides))
    assert all("\n" not in finding.text for finding in every)
    return "\n".join(finding.text for finding in every), [f.text for f in every if f.is_problem]


def test_a_sweep_that_can_run_has_no_problem() -> None:
    text, problems = findings(*TINY, "sigma=5,10", "-m", "data.crop=100", f"runs={Path.cwd()}")
    assert not problems
    assert "2 jobs, 2 with dependencies." in text
    assert "Every model and criterion takes a step" in text
    assert "1 device in one process, 32-true, 80 steps." in text
    assert text.count("data.crop=100 of fllic is no multiple of its stride, 64") == 1
    assert "Images of fllic: 4 training, 1 validation, 2 test (embedded)." in text
    assert "CompressAI's 0.007874, times 255^2 = 65025" in text
    assert "Checkpoints and weights take about" in text


def test_what_a_sweep_adds_by_itself_is_checked() -> None:
    """The methods of +sweep=ablation, and the rungs of a ladder; it said that no experiment was named."""
    small = ("budget=demo", "width=0.04", "data.crop=64", "logger=none")
    text, problems = findings("+sweep=ablation", "sigma=5", "rungs=2", *small, "-m")
    assert not problems and "8 jobs, " in text and "lmbda=4096" in text and "lmbda=1024" in text
    text, problems = findings("+experiment=fllic", "rungs=2", *small, "-m")
    assert not problems and "2 jobs, 2 with dependencies." in text
    assert "1 job, 1 with" in findings("+experiment=fllic", *small)[0]


def test_lmbda_is_explained_where_it_weights_the_mse() -> None:
    text, _ = findings("+experiment=jdc_cn8_ms_ssim", "lmbda=32", "budget=demo", "width=0.1", "logger=none")
    assert "CompressAI's" not in text


def test_a_dependency_is_checked_too() -> None:
    text, problems = findings("+experiment=clean_entropy", *TINY[1:])
    assert not problems and "1 job, 2 with dependencies." in text


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["+experiment=fllic", "sigmaa=3"], "there is no key 'sigmaa'"),
        (["sigma=3"], "no experiment was named"),
        ([*TINY, "sigma=-1"], "sigma=-1 is not a noise level"),
        ([*TINY, "launcher.kind=slurms"], "launcher=slurms is unknown"),
        ([*TINY, "trainer.accelerator=cpu", "trainer.devices=4096"], "CPU cores"),
        ([*TINY, "data.root=/nowhere"], "/nowhere does not exist"),
        (["+experiment=codec", "lmbda=512", "width=0.04", "criterion.distance=ms_ssim", "data.crop=64"], "176 pixels"),
        (["+experiment=fllic", "lmbda=0.013", "width=0.04"], "give 255^2 = 65025 times as much, lmbda=845"),
    ],
)
def test_what_would_fail_is_a_problem(overrides: list[str], problem: str) -> None:
    _, problems = findings(*overrides)
    assert len(problems) == 1 and problem in problems[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is visible")
def test_a_missing_gpu_is_a_problem() -> None:
    _, problems = findings(*TINY, "trainer.accelerator=gpu")
    assert any("no GPU is visible" in problem for problem in problems)


def test_too_small_a_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    (finding,) = [f for f in doctor.job(TINY) if f.text.startswith("Checkpoints")]
    assert finding.is_problem and "of 1.0 kB free" in finding.text


def test_small_validation_images_are_a_problem(tmp_path: Path) -> None:
    for i in range(3):
        folder = tmp_path / "root" / ("train" if i else "test")
        folder.mkdir(parents=True, exist_ok=True)
        for j in range(3):
            Image.new("RGB", (50, 50), (i, j, 9)).save(folder / f"{i}{j}.png")
    _, problems = findings(*TINY, f"data.root={tmp_path / 'root'}", "data.train=train", "data.test=[test]")
    assert len(problems) == 1 and "give a smaller data.crop, or leave these images out" in problems[0]


def test_the_machine_alone_and_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0 and "No problems found." in result.output
    assert f"torch {torch.__version__}" in result.output and "W&B is disabled" in result.output
    result = runner.invoke(app, ["doctor", "+experiment=nope", "-m"])
    assert result.exit_code == 1 and "problem: there is no experiment 'nope'" in result.output


def test_a_server_that_never_answers_takes_the_probe_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(doctor.tracker, "PROBE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        start = time.monotonic()
        assert doctor.report([], Console(quiet=True)) == 0, "offline is no problem"
        assert time.monotonic() - start < 30
        texts = [finding.text for finding in doctor.machine()]
    doctor.tracker._reset()
    assert any("does not answer" in text and "kept offline" in text for text in texts)
