"""Photographs -> the constants of `models/haar`, and what its order of bands keeps of four Kodak pictures.

A separable first-order Markov model has one correlation and one variance a colour; for each correlation the variances
that fit the logarithms of the measured energies best are their mean difference. The bands of the blocks' means are not
of that model and are told apart.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.read import read
from jdcsuite.models import haar

import numpy as np
import torch
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1]))
import script

SIDE, SIZE = 16, 16 * 16 * 3
KODAK = ("kodim03", "kodim08", "kodim19", "kodim23")
CORRELATIONS = np.arange(0.50, 0.995, 0.01)


def blocks(image: np.ndarray) -> np.ndarray:
    """(height, width, 3) bytes -> rows of 768 samples (3, 16, 16) in [0, 1] less 0.5."""
    height, width = (side // SIDE for side in image.shape[:2])
    tiles = image[: height * SIDE, : width * SIDE].reshape(height, SIDE, width, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(-1, SIZE) / 255 - 0.5


def packet() -> tuple[list[haar.Band], np.ndarray]:
    """All 768 bands, and their filters as rows."""
    one = np.ones(1)
    bands = [haar.Band(colour, one, one) for colour in range(3)]
    for _ in range(4):
        bands = [band.child(v, h) for band in bands for v in haar.HAAR for h in haar.HAAR]
    filters = [np.einsum("c,y,x->cyx", haar.COLOURS[b.colour], b.rows, b.columns).ravel() for b in bands]
    return bands, np.array(filters)


def energies(filters: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    """Mean square of every band over pictures that count alike."""
    measured = [np.square(torch.from_numpy(b) @ torch.from_numpy(filters.T)).mean(0).numpy() for b in rows]
    return np.mean(measured, 0)


def log_energy(bands: list[haar.Band], correlation: float) -> np.ndarray:
    """Of every band, at a variance of 1."""
    haar.CORRELATION = correlation
    return np.log([haar._energy(band.rows) * haar._energy(band.columns) for band in bands])


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("data", type=Path, help="folder of photos_train and kodak24")
    script.run(compare, parser, words)


def compare(given: argparse.Namespace) -> None:
    root, console = given.data, Console(highlight=False, soft_wrap=True)
    bands, filters = packet()
    colour = np.array([band.colour for band in bands])
    flat = np.array([abs(band.rows.sum() * band.columns.sum()) > 1 for band in bands])
    measured = energies(filters, [blocks(read(path)) for path in image_files(root / "photos_train")])

    fits = []
    for correlation in CORRELATIONS:
        rest = np.log(measured) - log_energy(bands, correlation)
        level = np.array([rest[(colour == c) & ~flat].mean() for c in range(3)])
        fits.append(((rest - level[colour])[~flat].std(), correlation, np.exp(level)))
    error, correlation, variances = min(fits, key=lambda fit: fit[0])
    means = (measured[flat] - variances[colour[flat]] * np.exp(log_energy(bands, correlation)[flat])) / SIDE**2
    console.print(f"correlation {correlation:.2f}, variances {variances}, of blocks' means {means}")
    console.print(f"the fit is off by {error:.2f} (logarithm of energy, standard deviation)")

    kodak = []
    for name in KODAK:
        image = read(root / "kodak24" / f"{name}.png")
        top, left = (image.shape[0] - 256) // 2, (image.shape[1] - 384) // 2
        kodak.append(blocks(image[top : top + 256, left : left + 384]))
    orders = {
        "as before, .95 and 1 : .06 : .02": np.log([1, 0.06, 0.02])[colour] + log_energy(bands, 0.95),
        "plain variances, .95 and 1 : .20 : .045": np.log([1, 0.20, 0.045])[colour] + log_energy(bands, 0.95),
        "the fit": np.where(flat, np.inf, np.log(variances)[colour] + log_energy(bands, correlation)),
        "measured energies": measured,
    }
    for name, order in orders.items():
        best = np.argsort(-order, kind="stable")
        told = []
        for kept in (192, 256, 320, 384):
            lost = [energies(filters[best[kept:]], [rows]).sum() / SIZE for rows in kodak]
            told.append(f"{np.mean(-10 * np.log10(lost)):.2f}")
        console.print(f"{name}: {' / '.join(told)} dB at 192 / 256 / 320 / 384 latents")


if __name__ == "__main__":
    main()
