"""`jdc bench train`, not timed: the loops take turns, the arithmetic is counted right, the table prints."""

from __future__ import annotations

from io import StringIO
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import profile
from typer.testing import CliRunner

from jdcsuite.bench import train
from jdcsuite.bench.coding import kmac
from jdcsuite.bench.common import configuration
from jdcsuite.cli.app import app
from jdcsuite.training import job as training
from jdcsuite.types import UserError

TINY = (
    "width=0.04",
    "data.crop=64",
    "data.batch=2",
    "data.workers=0",
    "trainer.accelerator=cpu",
    "trainer.log_every=2",
)


def test_the_loops_take_turns_and_the_arithmetic_is_that_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    ours, bare = training.Task.training_step, train.BareLoop.__call__
    monkeypatch.setattr(training.Task, "training_step", lambda *a: said.append("ours") or ours(*a))
    monkeypatch.setattr(train.BareLoop, "__call__", lambda *a: said.append("bare") or bare(*a))
    found = train.measure(TINY, steps=2, blocks=2)
    turns = (["ours"] * 2 + ["bare"] * 2) * 3
    assert said == turns + ["ours"] * train.TRACED
    assert len(found.seconds) == 2 and all(a > 0 and b > 0 for a, b in found.seconds)
    assert found.samples(0) == [4 / block[0] for block in found.seconds]
    model = training.build(configuration(*TINY), {})[1].model
    forward = 2 * 1000 * kmac(model) * 2 * 64 * 64  # two crops of 64 pixels
    assert found.flops == pytest.approx(3 * forward)
    assert found.shares(1)[0] == pytest.approx(found.flops * 2 / found.seconds[0][1] / found.rate)
    assert found.rate > 1e9 and min(found.peaks) > 2**20
    shares = [share for _, share, _ in found.costliest]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert any("convolution" in name for name, _, _ in found.costliest)
    assert all(calls == int(calls) for _, _, calls in found.costliest), "as many in every step"


def test_kernels_of_a_gpu_are_told_from_the_calls_that_launch_them() -> None:
    def event(key: str, device: DeviceType, time: float, *, span: bool = False) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=device, self_device_time_total=time, self_cpu_time_total=time,
                               count=6, is_user_annotation=span)  # fmt: skip

    cuda, cpu = DeviceType.CUDA, DeviceType.CPU
    events = [event("a kernel", cuda, 30.0), event("another", cuda, 10.0), event("aten::conv2d", cpu, 99.0),
              event("Optimizer.step#Adam.step", cuda, 50.0, span=True)]  # fmt: skip
    trace = Mock(spec=profile, key_averages=lambda: events)
    assert train.costliest(trace, torch.device("cuda")) == [("a kernel", 0.75, 2.0), ("another", 0.25, 2.0)]


def test_the_table_is_printed() -> None:
    console = Console(file=StringIO(), width=200)
    train.report(console, ("+experiment=jdc_cn", *TINY), steps=1, blocks=1)
    text = console.file.getvalue()
    rows = ("samples a second", "ours / bare loop", "share of the matrix rate", "peak memory", "convolution_backward")
    for said in ("+experiment=jdc_cn", "CPU threads", *rows):
        assert said in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["code", "data.batch=2"], "jdc bench code takes no overrides"),
        (["loop"], "loop is nothing that jdc bench measures: say code or train"),
        (["train", "nonsense=1"], "Could not override 'nonsense'"),
        (["train", "+experiment=fllic_w", "target=codec"], "fllic_w needs a run of clean_entropy first"),
        (["train", "trainer.devices=2"], "leave it at 1"),
    ],
)
def test_what_cannot_be_measured_is_told(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        raise CliRunner().invoke(app, ["bench", *words]).exception


def test_bench_alone_measures_coding_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from jdcsuite.bench import code

    asked: list[dict] = []
    monkeypatch.setattr(code, "report", lambda console, **said: asked.append(said))
    for words in (["bench"], ["bench", "code", "--width", "0.5"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert asked == [{"width": 1.0, "repeats": 5}, {"width": 0.5, "repeats": 5}]
