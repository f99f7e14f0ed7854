"""Weights, pictures and a tile -> what tiles cost, and whether their seams can be seen.

`python experiments/exact_file/seams.py WEIGHTS FOLDER SIGMA TILE`: each picture, with its fixed noise, is coded whole
and in tiles. PSNR against the clean picture is taken in strips of 16 pixels beside every seam and in the rest. A seam
that shows is a step of the error from one of its sides to the other, which is compared with that of the whole picture
there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.samples import Pictures
from jdcsuite.files.compression import load
from jdcsuite.imaging.folders import image_files
from jdcsuite.types import UserError

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
import script

STRIP = 16


def psnr(x_hat: Tensor, clean: Tensor, where: Tensor) -> float:
    return float(-10 * torch.log10(((x_hat - clean) ** 2)[..., where].mean()))


def step(error: Float[Tensor, "3 h w"], tile: int) -> float:
    """Mean absolute difference of the errors on both sides of a seam."""
    differences = [error.diff(dim=axis) for axis in (1, 2)]
    seams = [torch.arange(tile, error.shape[axis], tile) - 1 for axis in (1, 2)]
    across = [d.index_select(axis, s).flatten() for d, s, axis in zip(differences, seams, (1, 2), strict=True)]
    return float(torch.cat(across).abs().mean())


def near_seams(height: int, width: int, tile: int) -> Tensor:
    """True within a strip of a seam: (height, width)."""

    def near(side: int) -> Tensor:
        seams = torch.arange(tile, side, tile)
        return ((torch.arange(side)[:, None] - seams + 0.5).abs() < STRIP).any(1)

    return near(height)[:, None] | near(width)[None]


@torch.no_grad()
def seams(given: argparse.Namespace) -> None:
    codec, tile = load(given.weights), given.tile
    pictures = Pictures(
        ImageCache.build(image_files(given.folder)), noise=GaussianNoise(sigma=given.sigma), noise_seed=0, lossless=None
    )
    rows = []
    for i in range(len(pictures)):
        name, pair = pictures[i]
        if not 0 < tile < min(pair.clean.shape[-2:]):
            raise UserError(f"tiles of {tile} leave no seams in {name}: give a side from 1 to less than the image's")
        strips = near_seams(*pair.clean.shape[-2:], tile)
        coded = {side: codec.compress(pair.noisy, tile=side) for side in (0, tile)}
        x_hat = {side: codec.decompress(data) for side, data in coded.items()}
        change = [psnr(x_hat[tile], pair.clean, at) - psnr(x_hat[0], pair.clean, at) for at in (strips, ~strips)]
        steps = [step((x_hat[side] - pair.clean)[0], tile) for side in (tile, 0)]
        rows.append([100 * (len(coded[tile]) / len(coded[0]) - 1), *change, 100 * (steps[0] / steps[1] - 1)])
    names = ("bytes, %", "PSNR near seams, dB", "PSNR elsewhere, dB", "step of the error at a seam, %")
    for what, values in zip(names, np.array(rows).T, strict=True):
        print(f"tiles of {tile} - whole: {what}: {values.mean():+.4f} mean, {values.min():+.4f} .. {values.max():+.4f}")


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sigma", type=float)
    parser.add_argument("tile", type=int, help="pixels")
    script.run(seams, parser, words)


if __name__ == "__main__":
    main()
