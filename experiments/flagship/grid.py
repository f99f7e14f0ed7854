"""Flagship weights + test folders -> mean rate and PSNR at every noise level and quality: what a leg ends with.

    python experiments/flagship/grid.py WEIGHTS DATA/kodak24 DATA/mcmaster18 DATA/cc15 --sigma 5 10 --out grid.csv

Clean pictures get the noise of `jdc evaluate` (8-bit, seed 0) at each sigma; folders of pairs are judged as they are.
The encoder is blind. Rates are the model's estimate for rounded latents plus the file's header, without the entropy
coder; `jdc evaluate WEIGHTS@20,40 ...` writes files.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.coding.conditions import conditions_of
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.samples import Named, PairPictures, Pictures
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.imaging.folders import image_files
from jdcsuite.judging.metrics import eight_bit, quality
from jdcsuite.models.flagship import Flagship
from jdcsuite.types import Pair, UserError

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

sys.path.append(str(Path(__file__).parents[1]))
import script

QUALITIES = (10, 25, 40, 55, 70, 85)
SIGMAS = (5, 10, 15, 25, 50)
HEADER = 8 * 52  # bits of a file of one tile beside its two segments
RATE = 1.0  # bits per pixel at which legs are compared


@torch.no_grad()
def grid(
    model: Flagship, folders: list[Path], *, sigmas: list[float], limit: int | None, seconds: float = math.inf
) -> pd.DataFrame:
    """A row for each folder, sigma (nan: the pictures' own noise) and quality: means over the pictures, and their
    number. ``limit``: the first so many of each folder. A folder and sigma that are not done after so many ``seconds``
    are left out."""
    model.eval()
    device, rows, start = next(model.parameters()).device, [], time.monotonic()
    for dataset, sigma, pictures in _sets(folders, sigmas):
        made = []
        for i in range(min(limit or len(pictures), len(pictures))):
            if time.monotonic() - start > seconds:
                return pd.DataFrame(rows)
            made += _judged(model, pictures[i][1].to(device))
        rows += [
            {"dataset": dataset, "sigma": sigma, "quality": q, "pictures": len(of_q), **of_q.mean().to_dict()}
            for q, of_q in pd.DataFrame(made).groupby("quality")
        ]
    return pd.DataFrame(rows)


def _sets(folders: list[Path], sigmas: list[float]) -> list[tuple[str, float, Dataset[Named]]]:
    """Name, sigma and pictures of every cell; sigma 10 and real noise, which legs are compared by, come first, should
    the time run out."""
    made: list[tuple[str, float, Dataset[Named]]] = []
    for folder in folders:
        if found := find_shots(folder, Source.parse(folder.name)):
            made.append((folder.name, math.nan, PairPictures(PairCache.of_shots(found, cache_dir=None), lossless=None)))
            continue
        cache = ImageCache.build(image_files(folder))
        for sigma in sigmas:
            noise = GaussianNoise(sigma=sigma)
            made.append((folder.name, float(sigma), Pictures(cache, noise=noise, noise_seed=0, lossless=None)))
    return sorted(made, key=lambda one: 0.0 if math.isnan(one[1]) else abs(one[1] - 10))


def _judged(model: Flagship, pair: Pair) -> list[dict[str, float]]:
    """One picture at every quality. ``unquantised``: PSNR without rounding, the ceiling of the transforms."""
    pixels, rows = pair.clean.shape[-1] * pair.clean.shape[-2], []
    height, width = pair.clean.shape[-2:]
    noise = quality(pair.noisy, pair.clean)["psnr"]
    sigma = model.noise_level(pair.noisy)
    for q in QUALITIES:
        asked = conditions_of(quality=torch.full_like(sigma, q), noise=sigma, strength=torch.ones_like(sigma))
        y = model.analyse(model.pad(pair.noisy), asked)
        y_hat, likelihoods = model._relaxed(y, asked)
        bits = -sum(torch.log2(p.float()).sum() for p in likelihoods.values())
        decoded, ceiling = (
            psnr(model.synthesise(latents, asked)[..., :height, :width], pair.clean) for latents in (y_hat, y)
        )
        rows.append(
            {"quality": q, "bpp": (float(bits) + HEADER) / pixels, "psnr": decoded, "unquantised": ceiling,
             "psnr_noisy": noise, "sigma_hat": float(sigma)}
        )  # fmt: skip
    return rows


def psnr(x_hat: torch.Tensor, clean: torch.Tensor) -> float:
    return float(-10 * torch.log10((eight_bit(x_hat) - eight_bit(clean)).square().mean()))


def at_rate(rows: pd.DataFrame, *, rate: float = RATE) -> dict[str, float]:
    """PSNR of each folder and sigma at ``rate`` bits per pixel, on the straight line between its points in log rate
    (nan where they do not reach it)."""
    made = {}
    for (dataset, sigma), points in rows.groupby(["dataset", "sigma"], dropna=False, sort=False):
        points = points.sort_values("bpp")
        value = np.interp(math.log(rate), np.log(points["bpp"]), points["psnr"], left=math.nan, right=math.nan)
        made[f"{dataset} {'own noise' if math.isnan(sigma) else f'sigma {sigma:g}'}"] = round(float(value), 3)
    return made


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--sigma", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--pictures", type=int, help="only the first so many of each folder")
    parser.add_argument("--out", type=script.file_to_write)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    script.run(judge, parser, words)


def loaded(path: Path, *, device: str = "cpu") -> Flagship:
    """UserError where there are no weights, or those of another model."""
    model = weights.load(path, device=device)
    if not isinstance(model, Flagship):
        raise UserError(f"{path} holds a {type(model).__name__}: give weights of the flagship")
    return model


def judge(given: argparse.Namespace) -> None:
    model = loaded(given.weights, device=given.device)
    rows = grid(model, given.folders, sigmas=given.sigma, limit=given.pictures)
    print(rows.round(3).to_string(index=False))
    for name, psnr in at_rate(rows).items():
        print(f"{name}: {psnr} dB at {RATE} bpp")
    if given.out:
        rows.to_csv(given.out, index=False, float_format="%.5f")


if __name__ == "__main__":
    main()
