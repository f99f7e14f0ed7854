"""Photographs (and a clean -> clean run) -> what K latents a 16x16 block can reach: results.csv and ceiling.png.

The bound of a linear coder with K latents is the PSNR of the K coefficients that it keeps of a block's 768, neither
quantised nor rounded: per picture, in [0, 1] less 0.5, which is what the codec's transforms get.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read
from jdcsuite.judging.metrics import eight_bit
from jdcsuite.models import haar
from jdcsuite.models.fllic import FLLIC
from jdcsuite.study.resolvers import channels

import matplotlib
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))
matplotlib.use("Agg")
import matplotlib.pyplot as plt

import script

TRAIN, TEST = "photos_train", "kodak24"
KEPT = (96, 128, 152, 192, 256, 320, 384, 512, 768)
WIDTHS = (0.1, 0.15, 0.5, 1.0)  # of the budgets, and of the run in the README
SIDE, SIZE = 16, 16 * 16 * 3
EXACT = 1e-12  # mean squared error that float32 leaves of a complete transform
QUARTER = f"klt of every 4th of {TRAIN}"


def moment(path: Path) -> np.ndarray:
    """Mean of x x^T over a picture's whole blocks, x = (3, 16, 16) samples in [0, 1] less 0.5."""
    image = read(path)
    height, width = (side // SIDE for side in image.shape[:2])
    tiles = image[: height * SIDE, : width * SIDE].reshape(height, SIDE, width, SIDE, 3).transpose(0, 2, 4, 1, 3)
    blocks = tiles.reshape(-1, SIZE) / 255 - 0.5
    return blocks.T @ blocks / len(blocks)


def klt(second: np.ndarray) -> np.ndarray:
    """Columns: the orthonormal directions of most energy first."""
    return np.ascontiguousarray(np.linalg.eigh(second)[1][:, ::-1])


@torch.no_grad()
def ordered_packet(second: np.ndarray) -> np.ndarray:
    """Columns: all bands of the Haar packet, those of most energy first."""
    haar.SMALL = 0.0
    packet = FLLIC(widths=[12, 48, 192], num_latents=SIZE, prior_width=8).g_a
    bands = packet(torch.eye(SIZE).view(SIZE, 3, SIDE, SIDE)).view(SIZE, SIZE).double().numpy()
    return bands[:, np.argsort(-(bands * (second @ bands)).sum(0))]


def errors(moments: dict[str, np.ndarray], basis: np.ndarray) -> list[tuple[int, str, float]]:
    """(K, picture, mean squared error) of keeping the first K columns."""
    energies = {name: (basis * (m @ basis)).sum(0) for name, m in moments.items()}
    return [(kept, name, e[kept:].sum() / SIZE) for kept in KEPT for name, e in energies.items()]


@torch.no_grad()
def start_errors(moments: dict[str, np.ndarray], widths: list[int], kept: int) -> list[tuple[int, str, float]]:
    """The same for FLLIC's Haar start, without the small random gain of its other branches."""
    haar.SMALL = 0.0
    start = FLLIC(widths=widths, num_latents=kept, prior_width=8)
    unit = torch.eye(SIZE).view(SIZE, 3, SIDE, SIDE)
    lost = (unit - start.g_s(start.g_a(unit))).view(SIZE, SIZE).double().numpy()
    return [(kept, name, (m * (lost @ lost.T)).sum() / SIZE) for name, m in moments.items()]


def codec_channels(width: float) -> tuple[list[int], int]:
    """Channels at 1/2, 1/4 and 1/8, and num_latents, as conf/model/fllic.yaml had them when the run was made."""
    return [channels(width, 192), channels(width, 192), channels(width, 192, 0.5)], channels(width, 384, 0.5)


def bounds(root: Path) -> pd.DataFrame:
    train = [moment(path) for path in image_files(root / TRAIN)]
    test = {path.name: moment(path) for path in image_files(root / TEST)}
    found = {f"klt of {TRAIN}": errors(test, klt(sum(train))), QUARTER: errors(test, klt(sum(train[::4])))}
    found[f"klt of {TEST}"] = errors(test, klt(sum(test.values())))
    found["klt of each picture"] = [e for name, m in test.items() for e in errors({name: m}, klt(m))]
    found[f"haar packet in the order of {TRAIN}"] = errors(test, ordered_packet(sum(train)))
    # the packet in maps as wide as it needs, then as each width of the codec cuts it
    found["haar packet"] = [e for kept in KEPT for e in start_errors(test, [12, 48, 192], kept)]
    for width in WIDTHS:
        found[f"haar start, width {width:g}"] = start_errors(test, *codec_channels(width))
    rows = [(method, *error) for method, of_method in found.items() for error in of_method]
    table = pd.DataFrame(rows, columns=["method", "num_latents", "image", "psnr"])
    return table.assign(psnr=table.psnr.map(psnr))


def psnr(mse: float) -> float:
    return math.inf if mse < EXACT else -10 * math.log10(mse)


@torch.no_grad()
def of_run(run: Path, root: Path) -> pd.DataFrame:
    """Rows of a finished run, and what its transforms give when nothing is quantised."""
    model = weights.load(run)
    coded = pd.read_csv(run / "results.csv").query("dataset == @TEST")
    rows = []
    for row in coded.itertuples():
        x = to_tensor(read(root / TEST / row.image))[None]
        x_hat = model.g_s(model.g_a(model.pad(x) - 0.5))[..., : x.shape[-2], : x.shape[-1]] + 0.5
        mse = float((eight_bit(x_hat) - x).square().mean())
        rows.append(("fllic run", model.num_latents, row.image, row.psnr, row.bpp))
        rows.append(("fllic run, unquantised", model.num_latents, row.image, psnr(mse), None))
    return pd.DataFrame(rows, columns=["method", "num_latents", "image", "psnr", "bpp"])


def learning(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").dropna(subset="val/psnr")[["step", "val/bpp", "val/psnr"]]


def show(rows: pd.DataFrame, console: Console) -> None:
    """Mean and worst PSNR over the pictures."""
    every_third = rows[(rows.method == QUARTER) & rows.image.isin(sorted(rows.image.unique())[::3])]
    shown = pd.concat([rows, every_third.assign(method=f"{QUARTER}, on every 3rd picture")])
    figures = shown.groupby(["method", "num_latents"], sort=False).psnr.agg(["mean", "min"])
    table = Table("mean/worst dB by num_latents", *map(str, KEPT[:-1]), title=TEST)
    for method, of_method in figures.groupby("method", sort=False):
        told = {kept: f"{mean:.2f}/{worst:.2f}" for (_, kept), (mean, worst) in of_method.iterrows()}
        if len(told) > 1:  # all 768 are exact
            table.add_row(method, *(told[kept] for kept in KEPT[:-1]))
    console.print(table)
    for (method, kept), (mean, worst) in figures.iterrows():
        if len(figures.loc[method]) == 1:
            console.print(f"{method}, {kept} latents: {mean:.2f}/{worst:.2f} dB")


def show_run(rows: pd.DataFrame, run: Path, console: Console) -> None:
    """Where a run's error and its bits come from."""
    coded, plain = (rows[rows.method == m].set_index("image") for m in ("fllic run", "fllic run, unquantised"))
    kept = int(coded.num_latents.iloc[0])
    share = 1 - (10 ** (-plain.psnr / 10)).mean() / (10 ** (-coded.psnr / 10)).mean()
    bits = coded.bpp.mean() * SIDE**2 / kept
    console.print(
        f"run: {coded.bpp.mean():.3f} bpp, {bits:.2f} bits a latent; quantisation makes {share:.1%} of its MSE"
    )
    for _, row in learning(run).iterrows():
        console.print(f"  step {row.step + 1:.0f}: validation {row['val/bpp']:.2f} bpp, {row['val/psnr']:.2f} dB")


def draw(rows: pd.DataFrame, run: Path | None, path: Path) -> None:
    figure, axes = plt.subplots(1, 2 if run else 1, figsize=(11 if run else 6.5, 4.2), squeeze=False)
    bound = axes[0, 0]
    means = rows[np.isfinite(rows.psnr)].groupby(["method", "num_latents"], sort=False).psnr.mean().reset_index()
    # one mark for all widths
    means["label"] = means.method.str.replace(r", width .*", ", width " + ", ".join(map(str, WIDTHS)), regex=True)
    for label, curve in means[means.method != QUARTER].groupby("label", sort=False):
        style = "o-" if len(curve) == len(KEPT) - 1 else "*" if "run" in label else "kx"
        bound.plot(curve.num_latents, curve.psnr, style, markersize=10 if style == "*" else 5, label=label)
    bound.set(xlabel="num_latents", ylabel=f"PSNR, mean of {TEST} (dB)")
    bound.set_xticks(KEPT[:-1], KEPT[:-1], rotation=60, fontsize=7)
    bound.legend(fontsize=7)
    if run:
        curve = learning(run)
        axes[0, 1].plot(curve["val/bpp"], curve["val/psnr"], "o-", markersize=4)
        for row in curve.itertuples(index=False):
            axes[0, 1].annotate(f"step {row[0] + 1}", row[1:], fontsize=7, xytext=(4, 4), textcoords="offset points")
        axes[0, 1].set(xlabel="bpp (estimated)", ylabel="PSNR of the validation crops (dB)", title="the run's learning")
        axes[0, 1].margins(0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("--root", type=Path, required=True, help=f"folder that holds {TRAIN} and {TEST}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--run", type=Path, help="finished clean -> clean run to set beside the bounds")
    script.run(compare, parser, words)


def compare(said: argparse.Namespace) -> None:
    console = Console(width=160)
    rows = bounds(said.root)
    if said.run:
        rows = pd.concat([rows, of_run(said.run, said.root)])
    show(rows, console)
    if said.run:
        show_run(rows, said.run, console)
    said.out.mkdir(parents=True, exist_ok=True)
    rows.round({"psnr": 4, "bpp": 4}).to_csv(said.out / "results.csv", index=False)
    draw(rows, said.run, said.out / "ceiling.png")


if __name__ == "__main__":
    main()
