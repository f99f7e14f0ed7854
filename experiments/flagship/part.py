"""Trains one part of the flagship alone, which takes minutes of a CPU, and puts it into the weights.

    python experiments/flagship/part.py PART MINUTES --data DATA --weights WEIGHTS [--out OUT] [--anew PART ...]

    noise_level  the blind estimate: smooth-L1 error of log2(1 + sigma), with more camera noise and JPEG than a leg has
    denoiser     the encoder's: log(1 + MSE / the error that denoising leaves), as in the criterion
    prior        h_a, h_s, fusion, spatial prior and the prior of z: bits and the error of rounding, of latents of crops
                 that are analysed once; the sensitivity of the decoded image to each latent, measured before, stands
                 for the decoder
    post_filter  the decoder's: log of the MSE of crops that are coded once

The network is that of the configuration (`--set model.blocks=[3,2]`). It takes from the weights what has the same
shape, but for the parts of --anew; a convolution that has got more inputs ignores them at first. --like OTHER takes
PART from other weights; this may be all that is done, as MINUTES may be 0. The optimiser is that of a leg, its learning
rate 1e-3 (noise_level: 2e-3) or --rate, falling to 0 over the second half. --keep SHARE writes SHARE of the part as it
was before and the rest as it is then, which can be better than both. After `noise_level` it prints what the estimate
reads, of `kodak24` and of the pairs of `cc15`, `polyu_crops` and `sidd_small_256` in DATA.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from jdcsuite.artifacts import weights
from jdcsuite.coding.conditions import CODED, conditions_of, denoising_error, lmbda_of
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read
from jdcsuite.models.flagship import Flagship
from jdcsuite.training import job as training
from jdcsuite.training.criteria import mse
from jdcsuite.training.gradients import scale_gradients
from jdcsuite.types import Pair, UserError

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor, nn

sys.path.extend(map(str, Path(__file__).parents[:2]))
import leg
import script

PRIOR = ("h_a", "h_s", "fusion", "spatial_prior", "prior_z")
SENSED = 10  # batches on which the decoder's sensitivity is measured
BATCHES = {"prior": 150, "post_filter": 300}  # that are coded once, and drawn from again
PAIRS = {"cc15": 1, "polyu_crops": 5, "sidd_small_256": 8}  # folder -> every how many images
WORDS = {
    "noise_level": ["data.batch=16", "data.crop=128", "data.training_noise.camera=0.3", "data.training_noise.jpeg=0.3"],
    "denoiser": ["data.batch=8", "data.crop=128"],
    "prior": ["data.batch=4", "data.crop=256"],
    "post_filter": ["data.batch=8", "data.crop=128"],
}

Loss = Callable[[], Tensor]
T = TypeVar("T")


def take(model: nn.Module, path: Path, anew: Sequence[str] = ()) -> list[str]:
    """Fills the model from a weights file where shapes agree, but for the parts ``anew``; returns the names of what
    stays as it was initialised."""
    state, own = weights.read(path)[2], model.state_dict()
    new = []
    for name, tensor in own.items():
        old = state.get(name)
        if name.split(".")[0] in anew or old is None or old.ndim != tensor.ndim or old.shape[:1] != tensor.shape[:1]:
            new.append(name)
        elif old.shape == tensor.shape:
            own[name] = old.to(tensor.dtype)
        elif old.shape[2:] == tensor.shape[2:] and old.shape[1] < tensor.shape[1]:
            own[name] = torch.zeros_like(tensor)
            own[name][:, : old.shape[1]] = old
        else:
            new.append(name)
    model.load_state_dict(own)
    return new


def take_over(model: nn.Module, parts: Sequence[str], path: Path) -> None:
    """Fills ``parts`` of the model from other weights. UserError: theirs have other shapes."""
    own, other = (
        {name: tensor for name, tensor in state.items() if name.split(".")[0] in parts}
        for state in (model.state_dict(), weights.read(path)[2])
    )
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in other.items()}:
        raise UserError(f"{path} has {' and '.join(parts)} of another shape: give weights of the same configuration")
    model.load_state_dict({name: tensor.float() for name, tensor in other.items()}, strict=False)


def noise_level(model: Flagship, batches: Iterator[Pair]) -> tuple[list[nn.Module], float, Loss]:
    def loss() -> Tensor:
        pair = next(batches)
        read_as = model.noise_level(pair.noisy)
        return F.smooth_l1_loss(torch.log2(1 + read_as), torch.log2(1 + pair.level), beta=0.3)

    return [model.noise_level], 2e-3, loss


def denoiser(model: Flagship, batches: Iterator[Pair]) -> tuple[list[nn.Module], float, Loss]:
    def loss() -> Tensor:
        pair = next(batches)
        conditions = _conditions(model, pair)
        denoised = model._denoised(pair.noisy, conditions, model._embedded(conditions).detach())
        return torch.log1p(mse(denoised, pair) / denoising_error(pair.level.clamp(min=1))).mean()

    return [model.denoiser], 1e-3, loss


def prior(model: Flagship, batches: Iterator[Pair]) -> tuple[list[nn.Module], float, Loss]:
    energy = torch.stack([sensitivity(model, next(batches)) for _ in range(SENSED)]).mean(0)[None, :, None, None]

    def analysed() -> tuple[Tensor, Tensor]:
        pair = next(batches)
        conditions = _conditions(model, pair)
        gain = model._gain(model.gain_a, conditions, model._embedded(conditions)).float()
        return (model.analyse(pair.noisy, conditions) / gain).half(), conditions

    draw = drawn_again(analysed, BATCHES["prior"])

    def loss() -> Tensor:
        y, conditions = draw()
        conditions = torch.cat([torch.rand(len(y), 1), conditions[:, 1:]], 1)  # of any other quality
        with torch.no_grad():
            e = model._embedded(conditions)
            gain_a, gain_s = (model._gain(head, conditions, e).float() for head in (model.gain_a, model.gain_s))
            y = y.float() * gain_a
        y_hat, likelihoods = model._relaxed(y, conditions)
        pixels = y[0, 0].numel() * 256
        bpp = sum(-torch.log2(p.float()).flatten(1).sum(1) for p in likelihoods.values()) / pixels
        error = (((y_hat - y) / gain_s).square() * energy).flatten(1).sum(1) / (3 * pixels)
        return torch.log1p((bpp + lmbda_of(100 * conditions[:, 0]) * error) / CODED).mean()

    return [getattr(model, name) for name in PRIOR], 1e-3, loss


def sensitivity(model: Flagship, pair: Pair) -> Float[Tensor, "m"]:
    """Sum of the squared derivatives of all samples of the decoded image, in [0, 1], by a latent of each channel, in
    units of the transform (y / gain): mean over positions and crops, estimated by a projection on random signs."""
    conditions = _conditions(model, pair)
    with torch.no_grad():
        e = model._embedded(conditions)
        y_hat, _ = model._relaxed(model.analyse(pair.noisy, conditions), conditions)
        gain = model._gain(model.gain_s, conditions, e)
    y = (y_hat / gain).requires_grad_()
    decoded = model._filtered(model._decoded(y * gain, conditions, e), conditions, e)
    signs = torch.randint(2, decoded.shape) * 2.0 - 1
    (gradient,) = torch.autograd.grad((signs * decoded).sum(), y)
    return gradient.square().mean((0, 2, 3))


def post_filter(model: Flagship, batches: Iterator[Pair]) -> tuple[list[nn.Module], float, Loss]:
    def coded() -> tuple[Tensor, Tensor, Tensor]:
        pair = next(batches)
        conditions = _conditions(model, pair)
        y_hat, _ = model._relaxed(model.analyse(pair.noisy, conditions), conditions)
        decoded = model._decoded(y_hat, conditions, model._embedded(conditions))
        return decoded.half(), pair.clean.half(), conditions

    draw = drawn_again(coded, BATCHES["post_filter"])

    def loss() -> Tensor:
        decoded, clean, conditions = draw()
        filtered = model._filtered(decoded.float(), conditions, model._embedded(conditions).detach())
        return torch.log((filtered - clean.float()).square().flatten(1).mean(1) + 1e-6).mean()

    return [model.post_filter], 1e-3, loss


def drawn_again(make: Callable[[], T], count: int) -> Callable[[], T]:
    """Returns what ``make`` makes the first ``count`` times, then one of these at random."""
    random, made = np.random.default_rng(0), []

    def draw() -> T:
        if len(made) < count:
            with torch.no_grad():
                made.append(make())
            return made[-1]
        return made[int(random.integers(count))]

    return draw


PARTS = {"noise_level": noise_level, "denoiser": denoiser, "prior": prior, "post_filter": post_filter}


@torch.no_grad()
def _conditions(model: Flagship, pair: Pair) -> Tensor:
    noise = torch.where(pair.sigma.isnan(), model.noise_level(pair.noisy), pair.sigma)
    return conditions_of(quality=pair.settings["quality"], noise=noise, strength=pair.settings["strength"])


def train(modules: list[nn.Module], rate: float, loss: Loss, *, minutes: float, config: dict) -> None:
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = instantiate(config["task"]["optimizer"])(parameters, lr=rate, betas=(0.9, 0.99))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled="bf16" in config["trainer"]["precision"])
    start, losses = time.monotonic(), []
    while (gone := (time.monotonic() - start) / 60 / minutes if minutes else 1) < 1:
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - gone), (len(losses) + 1) / 50)
        with autocast:
            value = loss()
        optimizer.zero_grad()
        value.backward()
        norm = scale_gradients(parameters, max_norm=1.0, normalize=config["task"]["normalize"])
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # such a step changes nothing
        optimizer.step()
        losses.append(float(value))
        if len(losses) % 100 == 0:
            print(f"{len(losses)} steps, {60 * minutes * gone:.0f} s: loss {np.mean(losses[-100:]):.4f}", flush=True)


@torch.no_grad()
def mix(modules: list[nn.Module], earlier: list[nn.Module], share: float) -> None:
    """Moves ``modules`` towards what they were, by ``share`` of the way."""
    for module, old in zip(modules, earlier, strict=True):
        for parameter, before in zip(module.parameters(), old.parameters(), strict=True):
            parameter.lerp_(before, share)


@torch.no_grad()
def show(net: nn.Module, data: Path) -> None:
    """Prints the estimates of the images that are there."""
    kodak = data / "kodak24"
    pictures = [read(path)[:400, :400] for path in image_files(kodak)[::3]] if kodak.is_dir() else []
    for sigma in (0, 2, 5, 10, 15, 25, 50) if pictures else ():
        noisy = [GaussianNoise(sigma=sigma).fixed(picture, seed=0)[None] for picture in pictures]
        clean = [to_tensor(picture)[None] for picture in pictures]
        levels = [255 * float((a - b).square().mean().sqrt()) for a, b in zip(noisy, clean, strict=True)]
        print(f"Kodak24, root mean square {np.mean(levels):.1f}:", np.round([float(net(x)) for x in noisy], 1))
    for name, every in PAIRS.items():
        if not (data / name).is_dir():
            continue
        ratios, clean_levels = [], []
        for path in image_files(data / name / "noisy")[::every]:
            noisy, clean = (to_tensor(read(data / name / kind / path.name))[None] for kind in ("noisy", "clean"))
            ratios.append(float(net(noisy)) / (255 * float((noisy - clean).square().mean().sqrt())))
            clean_levels.append(float(net(clean)))
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        print(
            f"{name}: {middle:.2f} ({low:.2f} .. {high:.2f}) times the root mean square, median and range of "
            f"{len(ratios)}; median of the clean images {np.median(clean_levels):.1f}"
        )


def main(words: list[str] | None = None) -> None:
    parser = leg.parser_of(__file__, __doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=script.file_to_write, help="(--weights)")
    parser.add_argument("--keep", type=float, default=0.0, metavar="SHARE", help="of the part before training, 0 to 1")
    parser.add_argument("--like", type=Path, metavar="OTHER", help="weights to take PART from")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--anew", nargs="*", default=[], metavar="PART", help="not taken from the weights")
    script.run(part, parser, words)


def part(given: argparse.Namespace) -> None:
    if not (math.isfinite(given.minutes) and given.minutes >= 0):
        raise UserError(f"{given.minutes} minutes: give 0 or more")
    if given.rate is not None and not 0 < given.rate < math.inf:
        raise UserError(f"a learning rate of {given.rate} trains nothing: give one above 0, as in --rate 3e-4")
    if not 0 <= given.keep <= 1:
        raise UserError(f"{given.keep} is no share of the part: give 0 to 1, as in --keep 0.5")
    if not (given.data / given.train).is_dir():
        raise UserError(f"{given.data} holds no folder {given.train}: give --train what is there")
    before, out = weights.read(given.weights)[1], given.out or given.weights
    given.test = [name for name in leg.TESTS if (given.data / name).is_dir()]
    given.words = [*WORDS[given.part], "data.workers=0", "trainer.accelerator=cpu", *given.words]
    config = leg.configured(given)
    L.seed_everything(config["seed"], verbose=False)
    data, task = training.build(config, {})
    data.prepare()
    data.begin_behind(int(before.get("samples") or 0))
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model, criterion = task.model.train(), task.criterion.train()
    if getattr(model, given.part, model) is None:
        raise UserError(f"this network has no {given.part}: give model.{given.part}=[64,3], or another part")
    leg.parts_of(model, given.anew)
    print("initialised:", ", ".join(take(model, given.weights, given.anew)) or "nothing")
    if given.like is not None:
        take_over(model, PRIOR if given.part == "prior" else [given.part], given.like)
    moved = (data.on_after_batch_transfer(data.on_before_batch_transfer(b, 0), 0) for b in data.train_dataloader())
    modules, rate, loss = PARTS[given.part](model, (criterion.prepare(pair) for pair in moved))
    earlier = copy.deepcopy(modules)
    train(modules, given.rate or rate, loss, minutes=given.minutes, config=config)
    mix(modules, earlier, given.keep)
    weights.round_to_bf16(model)
    model.eval().update()
    seen = {name: before.get(name) or 0 for name in ("legs", "samples")}  # a part alone is no leg
    about = leg.described(config, data, before) | seen
    weights.save(model, config["model"], out, about=about, dtype=torch.bfloat16)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
    if given.part == "noise_level":
        show(model.noise_level, given.data)


if __name__ == "__main__":
    main()
