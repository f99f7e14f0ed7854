"""A configuration -> what training, coding and entropy coding cost, as ratios against named alternatives.

Medians after a warm-up. The two training loops take turns in one process, a block of steps each, so that whatever
else slows the machine down slows both.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lightning as L
import numpy as np
import torch
from compressai import ans
from compressai.models import MeanScaleHyperprior
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite import resolvers, runs, tracker, training
from jdcsuite.data.draw import Draw
from jdcsuite.data.images import embedded
from jdcsuite.data.noise import GaussianNoise, to_tensor
from jdcsuite.entropy import naive
from jdcsuite.entropy.coder import Decoder, Encoder, Tables
from jdcsuite.metrics import timed
from jdcsuite.models.codec import Codec
from jdcsuite.task import Task
from jdcsuite.types import Pair

T = TypeVar("T")
SIZE = (512, 512)
RIVAL_WIDTH = 0.6  # of FLLIC, where its kMAC/px are those of mbt2018-mean


@dataclass(frozen=True)
class Overhead:
    """``ratios``: Lightning's time over the bare loop's, one a block of steps. ``averages``: the averaged parameters
    that each loop ends with, Lightning's first."""

    ratios: list[float]
    averages: tuple[list[Tensor], list[Tensor]]


def configuration(*overrides: str, experiment: str = "fllic") -> dict:
    """An experiment's configuration as the launcher composes it, without progress bar and W&B."""
    resolvers.register()
    said = [f"+experiment={experiment}", "logger=none", "trainer.progress=false", *overrides]
    with initialize_config_dir(str(Path(__file__).resolve().parent / "conf"), version_base="1.3"):
        return runs.plain(compose("config", said))


class BareLoop:
    """A task's training step in plain PyTorch: same noise, criterion, clipping, optimiser, schedule and average."""

    def __init__(self, task: Task, *, device: torch.device, precision: str) -> None:
        self.task, self.device, self.bf16, self.taken = task.to(device).train(), device, precision == "bf16-mixed", 0
        made = task.configure_optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.parameters = [p.detach() for p in task.parameters()]
        self.average = [p.clone() for p in self.parameters]

    def __call__(self, pair: Pair) -> None:
        task, t = self.task, self.taken
        torch.manual_seed(hash((task.seed, task.first_of(t), 0)) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pair = task.criterion.prepare(pair)
            parts = task.criterion(task.predict(pair), pair)
        self.optimizer.zero_grad()
        parts["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.learning, task.max_norm or math.inf)
        self.optimizer.found_inf = (~torch.isfinite(norm)).float()
        self.optimizer.step()
        self.scheduler.step()
        decay = min(0.999, (1 + t) / (10 + t)) if t else 0.0
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        self.taken += 1


class Turns:
    """Batches for Lightning's loop. After each block of ``steps`` of its own, the bare loop takes as many, on the
    same clock; one more step of each, untimed, ends the fit."""

    def __init__(
        self, batches: list[Pair], *, bare: Callable[[Pair], None], steps: int, blocks: int, clock: Callable[[], float]
    ) -> None:
        self.block = [batches[i % len(batches)] for i in range(steps)]
        self.bare, self.blocks, self.clock = bare, blocks, clock
        self.seconds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.blocks * len(self.block) + 1

    def __iter__(self) -> Iterator[Pair]:
        for _ in range(self.blocks):
            start = self.clock()
            yield from self.block
            middle = self.clock()
            for pair in self.block:
                self.bare(pair)
            self.seconds.append((middle - start, self.clock() - middle))
        self.bare(self.block[0])
        yield self.block[0]


def loop_overhead(*, overrides: tuple[str, ...] = (), steps: int = 10, blocks: int = 11) -> Overhead:
    """The training step of a budget's FLLIC under Lightning's Trainer, as `training` makes it (average, clipping,
    metrics.csv), against `BareLoop`. Batches lie in memory; nothing is validated or saved. The first block of
    each loop is its warm-up. ``overrides``: of the configuration, whose budget is demo."""
    config = configuration(f"trainer.max_steps={blocks * steps + 1}", *overrides)
    tasks = []
    for _ in range(2):
        L.seed_everything(config["seed"], verbose=False)
        tasks.append(training.build(config, {})[1])
    with tempfile.TemporaryDirectory() as folder:
        trainer = training._trainer(config, Path(folder), tracker.loggers(folder=Path(folder), tracker=None))
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]
        device = trainer.strategy.root_device

        def clock() -> float:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter()

        bare = BareLoop(tasks[1], device=device, precision=str(trainer.precision))
        batches = [_batch(config).to(device) for _ in range(4)]
        turns = Turns(batches, bare=bare, steps=steps, blocks=blocks, clock=clock)
        trainer.fit(tasks[0], turns)
    # a fit ends with the average in the task
    averages = ([p.detach().to(device) for p in tasks[0].parameters()], bare.average)
    return Overhead([lightning / plain for lightning, plain in turns.seconds[1:]], averages)


def _batch(config: dict) -> Pair:
    """A training batch of the configuration's size, of uniform noise."""
    count, side, sigma = config["data"]["batch"], config["data"]["crop"], float(config["sigma"])
    clean = torch.rand(count, 3, side, side)
    noisy = (clean + sigma / 255 * torch.randn_like(clean)).clamp(0, 1)
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((count,), sigma))


@dataclass(frozen=True)
class Steps:
    """``times``: wall times in ms. ``kernel``: share of their CPU time that the operating system took, as it does to
    hand out memory. ``loss``: of the first step. ``kept``: bytes that its forward pass left for the backward pass,
    weights included."""

    times: list[float]
    kernel: float
    loss: float
    kept: int


def competition(
    *, width: float, batch: int = 4, crop: int = 128, repeats: int = 5, device: str = "cpu"
) -> dict[str, Steps]:
    """Training steps of JDC's codec with its own search ("searched"), in the naive form (`entropy/naive`; "naive") and
    with the first step's choice of priors kept, which no search can undercut ("free"); in turns on the same crops and
    noise. RuntimeError where the first losses are not one number."""
    config = configuration(f"width={width}", experiment="jdc_cn")
    clean = torch.cat(photograph((crop, batch * crop)).to(device).split(crop, 3))
    pair = Pair(noisy=clean, clean=clean, sigma=torch.full((batch,), math.nan, device=device))
    criterion = training.construct(config["criterion"])
    forms = ("searched", "naive", "free")
    models = []
    for _ in forms:
        L.seed_everything(config["seed"], verbose=False)
        model = training.construct(config["model"]).to(device).train()
        models.append((model, torch.optim.Adam(model.parameters(), lr=config["lr"])))
    slow, free = (model.prior_y for model, _ in models[1:])
    slow.forward = lambda y: naive.likelihoods(slow, y)
    free.search = once(free.search)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = criterion(model(pair.noisy), pair)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    times: list[list[float]] = [[] for _ in forms]
    cpu = [np.zeros(2) for _ in forms]  # seconds of CPU time: of the program itself, and of the system for it
    first: list[tuple[float, int]] = []
    for turn in range(repeats + 1):
        for spent, used, parts in zip(times, cpu, models, strict=True):
            torch.manual_seed(turn)  # the same noise in the place of rounding
            if turn:
                before = os.times()
                spent.append(timed(lambda parts=parts: step(*parts), clean)[1])
                used += np.subtract(os.times()[:2], before[:2])
            else:  # the warm-up
                first.append(_kept(lambda parts=parts: step(*parts)))
    made = {
        form: Steps(spent, float(used[1] / max(used.sum(), 1e-9)), *said)
        for form, spent, used, said in zip(forms, times, cpu, first, strict=True)
    }
    losses = [made[form].loss for form in forms]
    if not all(math.isclose(losses[0], loss, rel_tol=1e-4) for loss in losses):
        raise RuntimeError(f"the forms of the competition have different losses: {losses}")
    return made


def once(work: Callable[[Tensor], T]) -> Callable[[Tensor], T]:
    """``work``, done at the first call only; later ones get the same result."""
    done: list[T] = []

    def kept(x: Tensor) -> T:
        if not done:
            done.append(work(x))
        return done[0]

    return kept


def _kept(work: Callable[[], float]) -> tuple[float, int]:
    """What ``work`` returns, and the bytes of all that autograd kept on its way."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    return result, sum(storages.values())


Speed = dict[str, list[tuple[float, float]]]


def codec_speed(codec: Codec, *, size: tuple[int, int] = SIZE, repeats: int = 5, device: str = "cpu") -> Speed:
    """``compress`` and ``decompress``: for each repeat, wall time in ms and the share of it outside the networks.

    Codes a photograph of ``size`` (height, width); files stay in memory. ``codec``: ready to code. Its networks are
    the parts that are called as modules; outside them are entropy coding, container and the symbols' checksum."""
    model = codec.to(device)
    x = photograph(size).to(device)
    data = model.compress(x, sigma=10.0)
    model.decompress(data)
    work = {"compress": lambda: model.compress(x, sigma=10.0), "decompress": lambda: model.decompress(data)}
    return {verb: [_split(model, do, like=x) for _ in range(repeats)] for verb, do in work.items()}


def rivals(*, width: float, size: tuple[int, int], repeats: int, device: str) -> dict[str, dict[str, list[float]]]:
    """Wall times in ms of our FLLIC of this ``width`` and of CompressAI's own mbt2018-mean, in turns on a picture."""
    ours = training.build(configuration(f"width={width}"), {})[1].model.eval().to(device)
    ours.update()
    theirs = MeanScaleHyperprior(192, 320).eval().to(device)
    theirs.update(force=True, update_quantiles=True)
    x = photograph(size).to(device)
    names = {f"FLLIC, {kmac(ours):.0f} kMAC/px": ours, f"CompressAI mbt2018-mean, {kmac(theirs):.0f} kMAC/px": theirs}
    times: dict[str, dict[str, list[float]]] = {name: {"compress": [], "decompress": []} for name in names}
    with torch.no_grad():
        for turn in range(repeats + 1):
            for name, model in names.items():
                coded, there = timed(lambda model=model: model.compress(x), x)
                given = (coded["strings"], coded["shape"]) if isinstance(coded, dict) else (coded,)
                _, back = timed(lambda model=model, given=given: model.decompress(*given), x)
                if turn:  # the first is the warm-up
                    times[name]["compress"].append(there)
                    times[name]["decompress"].append(back)
    return times


def coders(codec: Codec, *, size: tuple[int, int], repeats: int) -> tuple[int, dict[str, dict[str, list[float]]]]:
    """Number of the latents' symbols of a photograph, and the wall times in ms of our coder and of CompressAI's."""
    put: list[tuple[Tensor, Tensor, Tables]] = []

    def spy(self: Encoder, symbols: Tensor, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> None:
        put.append((symbols, indexes, tables))
        plain(self, symbols, indexes, tables, shifts=shifts)

    plain = Encoder.put
    Encoder.put = spy
    try:
        codec.compress(photograph(size).to(next(codec.parameters()).device), sigma=10.0)
    finally:
        Encoder.put = plain
    tables = max(put, key=lambda one: len(one[0]))[2]
    symbols, indexes = (torch.cat([one[i] for one in put if one[2] is tables]) for i in (0, 1))
    lists = ([r[:n].tolist() for r, n in zip(tables.cdf, tables.length.tolist(), strict=True)],
             tables.length.tolist(), tables.offset.tolist())  # fmt: skip

    def ours() -> bytes:
        encoder = Encoder()
        encoder.put(symbols, indexes, tables)
        return encoder.segment()

    def theirs() -> bytes:
        return ans.RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *lists)

    def their_decoder(data: bytes) -> Tensor:
        return torch.tensor(ans.RansDecoder().decode_with_indexes(data, indexes.tolist(), *lists))

    kinds = {
        "our rANS": (ours, lambda data: Decoder(data).get(indexes, tables)),
        "CompressAI's rANS": (theirs, their_decoder),
    }
    times: dict[str, dict[str, list[float]]] = {name: {"compress": [], "decompress": []} for name in kinds}
    for turn in range(repeats + 1):
        for name, (encode, decode) in kinds.items():
            data, there = timed(encode, symbols)
            decoded, back = timed(lambda decode=decode, data=data: decode(data), symbols)
            if not torch.equal(decoded.long(), symbols.long()):
                raise RuntimeError(f"{name} did not return what it was given")
            if turn:
                times[name]["compress"].append(there)
                times[name]["decompress"].append(back)
    return len(symbols), times


def photograph(size: tuple[int, int]) -> Tensor:
    """A photograph with noise of 10 grey levels, mirrored up to ``size``: float (1, 3, h, w)."""
    grown = np.pad(embedded("test")[0][1], [(0, max(size)), (0, max(size)), (0, 0)], mode="symmetric")
    return GaussianNoise(sigma=10.0)(to_tensor(grown[: size[0], : size[1]])[None], Draw.whole(1, seed=0))


def kmac(model: nn.Module) -> float:
    """Thousands of multiply-accumulates a pixel, encoder and decoder together."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 128, 128, device=next(model.parameters()).device))
    return counter.get_total_flops() / 2 / 128**2 / 1000


def _split(model: nn.Module, work: Callable[[], object], *, like: Tensor) -> tuple[float, float]:
    """Wall time of ``work`` in ms, and the share of it spent outside the calls of the model's parts."""
    inside: list[float] = []

    def clocked(forward: Callable) -> Callable:
        def call(*given: object) -> object:
            result, ms = timed(lambda: forward(*given), like)
            inside.append(ms)
            return result

        return call

    parts = list(model.children())
    for part in parts:
        part.forward = clocked(part.forward)
    try:
        _, total = timed(work, like)
    finally:
        for part in parts:
            del part.forward
    return total, 1 - sum(inside) / total


def bench(
    console: Console,
    *,
    overrides: tuple[str, ...] = (),
    steps: int = 10,
    blocks: int = 11,
    repeats: int = 5,
    size: tuple[int, int] = SIZE,
    width: float = 1.0,
    rival_width: float = RIVAL_WIDTH,
    crop: int = 128,
) -> None:
    """Prints this machine's figures: the training loop at the demo budget unless ``overrides`` say otherwise, a step of
    JDC's codec of ``width`` on crops of ``crop`` pixels, and coding at the FLLIC of ``width``, its weights as they
    start."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = Table("what", "median", "quartiles", title=f"FLLIC on {runs.hardware()}")
    if blocks:
        ratios = loop_overhead(overrides=overrides, steps=steps, blocks=blocks).ratios
        table.add_row(f"training step, Lightning / bare loop ({blocks - 1} x {steps} steps)", *_told(ratios, ".3f"))
    forms = competition(width=width, crop=crop, repeats=repeats, device=device)
    ours, slow = forms["searched"], forms["naive"]
    for form, said in (("searched", "searched priors"), ("free", "no search at all")):
        ratios = [a / b for a, b in zip(slow.times, forms[form].times, strict=True)]
        table.add_row(f"training step of JDC's codec, 4 crops of {crop}: naive / {said}", *_told(ratios, ".2f"))
    table.add_row("  searched, ms", *_told(ours.times, ".1f"))
    table.add_row("  kept for the backward pass: naive / searched", f"{slow.kept / ours.kept:.2f}", "")
    table.add_row("  loss of the first step, searched and naive", f"{ours.loss:.5f}", f"{slow.loss:.5f}")
    model = training.build(configuration(f"width={width}"), {})[1].model.eval().to(device)
    model.update()
    picture = f"{size[1]}x{size[0]} pixels"
    for verb, measured in codec_speed(model, size=size, repeats=repeats, device=device).items():
        ms, outside = zip(*measured, strict=True)
        table.add_row(f"{verb} {picture}, {kmac(model):.0f} kMAC/px, ms", *_told(ms, ".1f"))
        table.add_row("  share outside the networks", *_told(outside, ".1%"))
    count, coding = coders(model, size=size, repeats=repeats)
    for subject, times in ((picture, rivals(width=rival_width, size=size, repeats=repeats, device=device)),
                           (f"{count} symbols", coding)):  # fmt: skip
        (first, ours), (second, theirs) = times.items()
        for verb in ours:
            ratios = [a / b for a, b in zip(ours[verb], theirs[verb], strict=True)]
            table.add_row(f"{verb} {subject}: {first} / {second}", *_told(ratios, ".2f"))
            table.add_row("  the former, ms", *_told(ours[verb], ".1f"))
    console.print(table)


def _told(values: list[float] | tuple[float, ...], form: str) -> tuple[str, str]:
    low, middle, high = (format(float(q), form) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"
