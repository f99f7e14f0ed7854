"""Weights and clean pictures -> what exact entropy parameters cost: bytes and PSNR against the same codec in float32.

`python experiments/exact_file/cost.py WEIGHTS FOLDER SIGMA`: every picture, with its fixed noise, is coded twice on one
machine: as `jdc compress` does, and with the networks between bits and symbols in float32.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.samples import Pictures
from jdcsuite.files.compression import load
from jdcsuite.imaging.folders import image_files
from jdcsuite.judging.metrics import quality

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1]))
import script


def in_float32(module: nn.Module) -> Callable[[Tensor], Tensor]:
    exact = module.forward
    return lambda x: exact(x.float()).double()


@torch.no_grad()
def cost(given: argparse.Namespace) -> None:
    codec, plain = load(given.weights), weights.load(given.weights)
    for name in plain.prior_networks:
        part = plain.get_submodule(name)
        part.forward = in_float32(part)
    pictures = Pictures(
        ImageCache.build(image_files(given.folder)), noise=GaussianNoise(sigma=given.sigma), noise_seed=0, lossless=None
    )
    ratios, differences = [], []
    for i in range(len(pictures)):
        _, pair = pictures[i]
        coded = [it.compress(pair.noisy) for it in (codec, plain)]
        psnr = [quality(it.decompress(d), pair.clean)["psnr"] for it, d in zip((codec, plain), coded, strict=True)]
        ratios.append(len(coded[0]) / len(coded[1]) - 1)
        differences.append(psnr[0] - psnr[1])
    for what, values, unit in (("bytes", 100 * np.array(ratios), "%"), ("PSNR", np.array(differences), "dB")):
        print(f"{what}: exact - float32 {values.mean():+.4f} {unit} mean, {values.min():+.4f} .. {values.max():+.4f}")


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sigma", type=float)
    script.run(cost, parser, words)


if __name__ == "__main__":
    main()
