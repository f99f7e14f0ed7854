"""Each mend of the training against the fault that it mends, at equal steps: rows of results.csv.

A part is a pair of runs that differ in one thing alone; the fault is put back by a few words or lines of this file.
Trained on photos_train with noise of sigma 10, judged without the entropy coder on the middles (256x384) of four Kodak
pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from jdcsuite.bench.common import configuration
from jdcsuite.bench.train import BareLoop
from jdcsuite.data import photographs
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.entropy.competition import Competition
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read
from jdcsuite.judging.metrics import eight_bit
from jdcsuite.models import haar
from jdcsuite.training import job as training
from jdcsuite.training.supervision import CleanInput
from jdcsuite.types import Pair

import lightning as L
import numpy as np
import pandas as pd
import torch
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1]))
import script

KODAK = ("kodim03", "kodim08", "kodim19", "kodim23")
SHRUNK = ("model.widths=[16,16,64]", "model.num_latents=120", "model.prior_width=64")  # what width=0.1 was


@dataclass(frozen=True)
class Run:
    """``words``: of the configuration. ``fault``: what is put back while it trains. ``before``: steps whose weights it
    goes on from; ``fresh``: whether it sees other samples than those."""

    words: tuple[str, ...] = ()
    experiment: str = "fllic"
    fault: Callable[[], object] | None = None
    before: int = 0
    fresh: bool = True


@contextmanager
def half_turns() -> Iterator[None]:
    """Every crop turned by 180 degrees, as kornia 0.9 made of all four flips."""
    with patch.object(photographs, "turned", lambda images, bits: images.rot90(2, (-2, -1))):
        yield


@contextmanager
def old_order() -> Iterator[None]:
    with ExitStack() as stack:
        old = {"CORRELATION": 0.95, "COLOUR_VARIANCES": (1.0, 0.06, 0.02), "BLOCK_VARIANCES": (0.0, 0.0, 0.0)}
        for name, value in old.items():
            stack.enter_context(patch.object(haar, name, value))
        yield


EVC = ("model=fllic_evc",)
# JDC's codec on the same photographs, clean -> clean
MANY = ("data=photographs", "model.num_channels=64", "model.num_latents=128", "lmbda=2048", "sigma=10")


@contextmanager
def alike() -> Iterator[None]:
    """A Haar start whose priors all begin as one."""
    with patch.object(Competition, "spread", lambda self, deviations: None):
        yield


PARTS = {
    "width": {"shrunk": Run(SHRUNK), "kept": Run()},
    "bands": {"old order": Run(EVC, fault=old_order), "fitted order": Run(EVC)},
    "symmetries": {"half turns": Run(fault=half_turns), "all eight": Run()},
    "many priors": {
        "random": Run((*MANY, "model.start=random"), "codec"),
        "haar": Run(MANY, "codec", fault=alike),
        "haar, spread": Run(MANY, "codec"),
    },
    "many priors full width": {"haar, spread": Run(("data=photographs", "width=1", "lmbda=2048", "sigma=10"), "codec")},
    "recorrupted": {f"alpha {a:g}": Run((f"criterion.supervision.alpha={a:g}",), "fllic_r2r") for a in (0.25, 0.5)},
    "samples": {"again": Run(before=100, fresh=False), "new": Run(before=100)},
}


def middles(root: Path) -> list[Pair]:
    pairs, noise = [], GaussianNoise(sigma=10)
    for name in KODAK:
        image = read(root / "kodak24" / f"{name}.png")
        top, left = (image.shape[0] - 256) // 2, (image.shape[1] - 384) // 2
        crop = np.ascontiguousarray(image[top : top + 256, left : left + 384])
        noisy = noise.fixed(crop, seed=0)[None]
        pairs.append(Pair(noisy=noisy, clean=to_tensor(crop)[None], sigma=torch.tensor([10.0])))
    return pairs


@torch.no_grad()
def judged(task: training.Task, pairs: list[Pair]) -> dict[str, float]:
    """The supervised loss, whatever was trained with; a codec of clean pictures gets them."""
    task.eval()
    found = []
    for pair in pairs:
        if isinstance(task.criterion.supervision, CleanInput):
            pair = task.criterion.prepare(pair)
        output = task.predict(pair)
        bpp = float(sum(rate.mean() for rate in output.bpp(256 * 384).values()))
        loss = bpp + task.criterion.lmbda * float((output.x_hat - pair.clean).square().mean())
        mse = float((eight_bit(output.x_hat) - pair.clean).square().mean())
        found.append((loss, -10 * np.log10(mse), bpp))
    task.train()
    return dict(zip(("loss", "psnr", "bpp"), map(float, np.mean(found, 0)), strict=True))


def built(run: Run, words: tuple[str, ...]) -> tuple[photographs.Photographs, training.Task]:
    config = configuration(*words, *run.words, experiment=run.experiment)
    L.seed_everything(config["seed"], verbose=False)
    data, task = training.build(config, {})
    data.prepare()
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0, strategy=device)
    return data, task


def trained(run: Run, words: tuple[str, ...], pairs: list[Pair], *, steps: int, every: int) -> Iterator[dict]:
    """Figures after every so many steps; the parameters are those that were trained, not their average."""
    data, task = built(run, (*words, f"trainer.max_steps={run.before or steps}"))
    if run.before:
        for _ in stepped(data, task):
            pass
        weights = task.model.state_dict()
        data, task = built(run, (*words, f"trainer.max_steps={steps}"))
        task.model.load_state_dict(weights)
        data.begin_behind(run.before * data.batch if run.fresh else 0)
    yield {"step": 0, "seconds": 0.0, **judged(task, pairs)}
    start = time.process_time()
    for step in stepped(data, task):
        if step % every == 0:
            spent = time.process_time() - start
            yield {"step": step, "seconds": spent, **judged(task, pairs)}
            start = time.process_time() - spent


def stepped(data: photographs.Photographs, task: training.Task) -> Iterator[int]:
    loop = BareLoop(task, device=torch.device("cpu"), precision="32-true")
    for step, batch in enumerate(data.train_dataloader(), 1):
        loop(data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0))
        yield step


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("data", type=Path, help="folder of photos_train and kodak24")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=script.file_to_write, default=Path(__file__).with_name("results.csv"))
    script.run(train, parser, words)


def train(said: argparse.Namespace) -> None:
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(1)
    pairs = middles(said.data)
    root = (f"data.root={said.data}", "data.train=photos_train", "data.test=[kodak24]", "data.workers=0")
    for part in said.parts:
        for name, run in PARTS[part].items():
            for seed in said.seeds:
                with run.fault() if run.fault else ExitStack():
                    rows = list(trained(run, (*root, f"seed={seed}"), pairs, steps=said.steps, every=said.every))
                for row in rows:
                    console.print(part, name, seed, {k: round(v, 3) for k, v in row.items()})
                table = pd.DataFrame([{"part": part, "run": name, "seed": seed, **row} for row in rows]).round(4)
                if said.out.is_file():
                    kept = pd.read_csv(said.out)
                    same = (kept.part == part) & (kept["run"] == name) & (kept.seed == seed)
                    table = pd.concat([kept[~same], table])
                table.to_csv(said.out, index=False)


if __name__ == "__main__":
    main()
