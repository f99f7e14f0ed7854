"""The benchmarks, not timed: the two loops do the same work, the clocks add up, the table prints."""

from __future__ import annotations

from io import StringIO

import lightning as L
import pytest
import torch
from rich.console import Console

from jdcsuite.bench import code, coding, loops, priors
from jdcsuite.bench.common import configuration
from jdcsuite.entropy.competition import Competition
from jdcsuite.training import job as training

TINY = ("width=0.04", "data.crop=64", "data.batch=2", "trainer.accelerator=cpu", "trainer.log_every=2")


def model() -> coding.Codec:
    made = training.build(configuration(*TINY), {})[1].model.eval()
    made.update()
    return made


def test_both_loops_end_with_the_same_weights() -> None:
    found = loops.loop_overhead(overrides=TINY, steps=2, blocks=3)
    lightning, bare = found.averages
    assert all(torch.equal(a, b) for a, b in zip(lightning, bare, strict=True))
    config = configuration(*TINY)
    L.seed_everything(config["seed"], verbose=False)
    start = training.build(config, {})[1].parameters()
    assert not all(torch.equal(a, b) for a, b in zip(bare, start, strict=True))
    assert len(found.ratios) == 2  # the first block is the warm-up
    assert all(ratio > 0 for ratio in found.ratios)


def test_the_loops_take_turns() -> None:
    said: list[str] = []
    batch = loops._batch(configuration(*TINY))
    ticks = iter(range(100))
    turns = loops.Turns(
        [batch], bare=lambda pair: said.append("bare"), steps=2, blocks=2, clock=lambda: float(next(ticks))
    )
    for _ in turns:
        said.append("lightning")
    assert said == ["lightning"] * 2 + ["bare"] * 2 + ["lightning"] * 2 + ["bare"] * 3 + ["lightning"]
    assert len(turns) == said.count("lightning") == said.count("bare")
    assert len(turns.seconds) == 2


def test_coding_is_split_between_networks_and_the_rest() -> None:
    codec = model()
    found = coding.codec_speed(codec, size=(65, 130), repeats=2)
    assert set(found) == {"compress", "decompress"}
    for repeats in found.values():
        assert len(repeats) == 2
        assert all(ms > 0 and 0 < outside < 1 for ms, outside in repeats)
    assert not any("forward" in vars(part) for part in codec.children())


def test_a_failure_leaves_the_codec_as_it_was() -> None:
    codec = model()
    with pytest.raises(ZeroDivisionError):
        coding._split(codec, lambda: 1 // 0, like=torch.zeros(1))
    assert not any("forward" in vars(part) for part in codec.children())


def test_the_table_names_the_hardware() -> None:
    console = Console(file=StringIO(), width=200)
    code.report(console, overrides=TINY, steps=1, blocks=2, repeats=1, size=(64, 128), width=0.04, rival_width=0.04,
                crop=32)  # fmt: skip
    text = console.file.getvalue()
    assert "Lightning / bare loop" in text and "decompress 128x64" in text and "CPU threads" in text
    assert "naive / searched priors" in text


def test_both_forms_of_the_competition_take_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    naive = priors.naive.likelihoods
    monkeypatch.setattr(priors.naive, "likelihoods", lambda prior, y: taken.append(y.shape) or naive(prior, y))
    searched: list[int] = []
    search = Competition.search
    monkeypatch.setattr(Competition, "search", lambda self, rows: searched.append(1) or search(self, rows))
    forms = priors.competition(width=0.04, batch=2, crop=32, repeats=2)
    assert all(len(form.times) == 2 for form in forms.values()) and len(taken) == 3
    assert len(searched) == 3 + 1, "every step, and once where it is free"
    assert forms["searched"].loss == pytest.approx(forms["naive"].loss, rel=1e-5)
    assert 0 < forms["searched"].kept < forms["naive"].kept
    monkeypatch.setattr(priors.naive, "likelihoods", lambda prior, y: {**naive(prior, y), "index": y.new_ones(1, 1)})
    with pytest.raises(RuntimeError, match="different losses"):
        priors.competition(width=0.04, batch=1, crop=32, repeats=1)
