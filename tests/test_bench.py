"""`jdc bench`, without its timings: what is measured, and what the tables show."""

from __future__ import annotations

import copy
import threading
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import experiment_scripts
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from jdcsuite.bench import code, coding, ddp, train
from jdcsuite.bench.common import configuration
from jdcsuite.cli.app import app
from jdcsuite.entropy.competition import Competition
from jdcsuite.training import job as training
from jdcsuite.training import loggers
from jdcsuite.types import Pair, UserError

TINY = ("width=0.04", "data.crop=64", "data.batch=2", "data.workers=0", "trainer.accelerator=cpu",
        "trainer.log_every=2")  # fmt: skip


def cells(console: Console) -> dict[str, list[str]]:
    """The rows of a table of three columns."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 3}


# -- code ------------------------------------------------------------------------------------------------------------


def model() -> coding.Codec:
    codec = training.build(configuration(*TINY), {})[1].model.eval()
    codec.update()
    return codec


def test_coding_is_split_between_networks_and_the_rest() -> None:
    codec = model()
    speed = coding.codec_speed(codec, size=(65, 130), repeats=2)
    assert set(speed) == {"compress", "decompress"}
    for repeats in speed.values():
        assert len(repeats) == 2
        assert all(ms > 0 and 0 < outside < 1 for ms, outside in repeats)
    assert not any("forward" in vars(part) for part in codec.children())


def test_a_failure_leaves_the_codec_unchanged() -> None:
    codec = model()
    with pytest.raises(ZeroDivisionError):
        coding._split(codec, lambda: 1 // 0, like=torch.zeros(1))
    assert not any("forward" in vars(part) for part in codec.children())


def test_the_table_of_coding_names_hardware_and_rivals() -> None:
    console = Console(file=StringIO(), width=200)
    code.report(console, repeats=1, size=(64, 128), width=0.04, rival_width=0.04)
    text = console.file.getvalue()
    rows = (
        "decompress 128x64",
        "CompressAI mbt2018-mean",
        "our rANS / CompressAI's rANS",
        "share outside the networks",
    )
    for row in ("CPU threads", *rows):
        assert row in text


# -- train -----------------------------------------------------------------------------------------------------------


def test_the_bare_loop_trains_the_same_weights_as_a_run(tmp_path: Path) -> None:
    config = configuration(*TINY, "trainer.max_steps=5")
    tasks = []
    for _ in range(2):
        L.seed_everything(config["seed"], verbose=False)
        tasks.append(training.build(config, {})[1])
    start = [p.detach().clone() for p in tasks[1].parameters()]
    clean = torch.rand(5, 2, 3, 64, 64)
    noisy = (clean + 10 / 255 * torch.randn_like(clean)).clamp(0, 1)
    pairs = [Pair(noisy=a, clean=b, sigma=torch.full((2,), 10.0)) for a, b in zip(noisy, clean, strict=True)]
    trainer = training.make_trainer(config, tmp_path, loggers.create(folder=tmp_path))
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]
    training.fit(trainer, tasks[0], DataLoader(pairs, batch_size=None, collate_fn=lambda pair: pair))
    bare = train.BareLoop(tasks[1], device=torch.device("cpu"), precision="32-true")
    for pair in pairs:
        bare(pair)
    average = list(tasks[0].parameters())  # at the end of a fit
    assert all(torch.equal(a, b) for a, b in zip(average, bare.average, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start, bare.average, strict=True))


def test_the_loops_alternate_and_the_flops_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    run, bare = training.Task.training_step, train.BareLoop.__call__
    monkeypatch.setattr(training.Task, "training_step", lambda *a: calls.append("run") or run(*a))
    monkeypatch.setattr(train.BareLoop, "__call__", lambda *a: calls.append("bare") or bare(*a))
    result = train.measure(TINY, steps=2, blocks=2)
    assert calls == (["run"] * 2 + ["bare"] * 2) * 3 + ["run"] * train.TRACED
    assert len(result.seconds) == 2 and all(a > 0 and b > 0 for a, b in result.seconds)
    assert result.samples(0) == [4 / block[0] for block in result.seconds]
    model = training.build(configuration(*TINY), {})[1].model
    forward = 2 * 1000 * coding.kmac(model) * 2 * 64 * 64  # two crops of 64 pixels
    assert result.flops == pytest.approx(3 * forward)
    assert result.shares(1)[0] == pytest.approx(result.flops * 2 / result.seconds[0][1] / result.rate)
    assert result.rate > 1e9 and min(result.peaks) > 2**20
    shares = [share for _, share, _ in result.costliest]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert any("convolution" in name for name, _, _ in result.costliest)
    assert all(calls == int(calls) for _, _, calls in result.costliest), "the same number in every step"


def test_kernels_of_a_gpu_are_counted_without_the_operators_that_launch_them() -> None:
    def event(key: str, device: DeviceType, time: float, *, span: bool = False) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=device, self_device_time_total=time, self_cpu_time_total=time,
                               count=6, is_user_annotation=span)  # fmt: skip

    cuda, cpu = DeviceType.CUDA, DeviceType.CPU
    events = [event("a kernel", cuda, 30.0), event("another", cuda, 10.0), event("aten::conv2d", cpu, 99.0),
              event("Optimizer.step#Adam.step", cuda, 50.0, span=True)]  # fmt: skip
    trace = Mock(spec=profile, key_averages=lambda: events)
    assert train.costliest(trace, torch.device("cuda")) == [("a kernel", 0.75, 2.0), ("another", 0.25, 2.0)]


def test_the_table_of_training_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    result = train.Measured(
        device=torch.device("cpu"), batch=2, crop=64, steps=5, seconds=[(2.0, 1.0), (4.0, 2.0)], flops=10**9, rate=1e10,
        peaks=(2**30, 2**31), costliest=[("aten::convolution_backward", 0.5, 12.0)],
    )  # fmt: skip
    monkeypatch.setattr(train, "measure", lambda *args, **options: result)
    console = Console(file=StringIO(), width=200)
    train.report(console, ("+experiment=jdc_cn", *TINY), steps=5, blocks=2)
    table = cells(console)
    assert table["samples a second (2 x 5 steps)"] == ["3.8", "3.1 .. 4.4"]
    assert table["run / bare loop"] == ["0.500", "0.500 .. 0.500"]
    assert table["matrix product (float32, 1024 x 1024), TFLOP/s"][0] == "0.01"
    assert table["share of the matrix rate"][0] == "18.8%"
    assert table["peak memory of the process, GiB"][0] == "2.00"
    assert table["aten::convolution_backward, 12 a step"][0] == "50.0%"
    assert "+experiment=jdc_cn" in console.file.getvalue() and "CPU threads" in console.file.getvalue()


# -- ddp -------------------------------------------------------------------------------------------------------------


def test_devices_are_compared_at_the_same_total_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {1: iter([4.0, 8.0, 4.0]), 2: iter([2.5, 4.0, 2.0])}
    monkeypatch.setattr(ddp, "_seconds", lambda config, devices: next(seconds[devices]))
    console = Console(file=StringIO(), width=200)
    ddp.report(console, (*TINY, "trainer.devices=2"), steps=10)
    table = cells(console)
    assert table["samples a second, one device"][0] == "5.00"
    assert table["samples a second, all devices"][0] == "8.00"
    assert table["ratio"] == ["2.00", "1.80 .. 2.00"]


@pytest.mark.slow
def test_two_processes_are_timed() -> None:
    ((one, two),) = ddp.measure((*TINY, "trainer.devices=2"), steps=2, blocks=1)
    assert 0.1 < two / one < 4


# -- command line ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["code", "data.batch=2"], "jdc bench code takes no overrides"),
        (["loop"], "loop is not a benchmark: choose code, train or ddp"),
        (["train", "nonsense=1"], "Could not override 'nonsense'"),
        (["train", "+experiment=fllic_w", "target=codec"], "fllic_w needs a run of clean_entropy first"),
        (["train", "trainer.devices=2"], "leave it at 1"),
        (["ddp"], "one device is compared with several: give trainer.devices=2"),
        (["ddp", "+experiment=fllic_w", "target=codec", "trainer.devices=2"], "needs a run of clean_entropy first"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        raise CliRunner().invoke(app, ["bench", *words]).exception


def test_bench_without_arguments_measures_coding(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict] = []
    monkeypatch.setattr(code, "report", lambda console, **given: options.append(given))
    for words in (["bench"], ["bench", "code", "--width", "0.5"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert options == [{"width": 1.0, "repeats": 5}, {"width": 0.5, "repeats": 5}]


# -- experiments/many_priors/step.py ---------------------------------------------------------------------------------


@pytest.fixture
def step() -> ModuleType:
    return experiment_scripts.load("many_priors/step.py")


def test_both_forms_of_the_competition_take_the_same_step(step: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, searched = [], []
    naive, search = step.naive.likelihoods, Competition.search
    monkeypatch.setattr(step.naive, "likelihoods", lambda prior, y: taken.append(y.shape) or naive(prior, y))
    monkeypatch.setattr(Competition, "search", lambda self, rows: searched.append(1) or search(self, rows))
    forms = step.measure(width=0.04, batch=2, crop=32, repeats=2)
    assert all(len(form.times) == 2 for form in forms.values()) and len(taken) == 3
    assert len(searched) == 3 + 1, "in every step, and once where the choice is kept"
    assert forms["searched"].loss == pytest.approx(forms["naive"].loss, rel=1e-5)
    assert 0 < forms["searched"].kept < forms["naive"].kept
    monkeypatch.setattr(step.naive, "likelihoods", lambda prior, y: {**naive(prior, y), "index": y.new_ones(1, 1)})
    with pytest.raises(RuntimeError, match="different losses"):
        step.measure(width=0.04, batch=1, crop=32, repeats=1)


def test_a_copy_of_a_task_holds_no_datamodule() -> None:
    """The average of its weights is one: with a bound method all images and the trainer were copied too, and processes
    that the trainer had started made it fail. Samples that are skipped later are skipped by the task as well."""
    data, task = training.build(configuration(*TINY), {})
    data.trainer = threading.Lock()  # cannot be copied
    copied = copy.deepcopy(task)
    data.begin_behind(data.batch + 1)
    assert task.first_of(0) == copied.first_of(0) == 2 * data.batch
