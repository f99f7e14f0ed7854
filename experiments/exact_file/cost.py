"""Weights and clean pictures -> what exact entropy parameters cost: bytes and PSNR against the same codec in float32.

`python experiments/exact_file/cost.py WEIGHTS FOLDER SIGMA`: every picture, with its fixed noise, is coded twice on one
machine: as `jdc compress` does, and with the networks between bits and symbols in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jdcsuite.artifacts import weights
from jdcsuite.coding.codec import Codec
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.samples import Pictures
from jdcsuite.imaging.folders import image_files
from jdcsuite.judging.metrics import quality


def in_float32(module: nn.Module) -> Callable[[Tensor], Tensor]:
    exact = module.forward
    return lambda x: exact(x.float()).double()


def main(weights_file: str, folder: str, sigma: float) -> None:
    codec, plain = weights.load(weights_file), weights.load(weights_file)
    assert isinstance(codec, Codec) and isinstance(plain, Codec)
    for name in plain.prior_networks:
        part = plain.get_submodule(name)
        part.forward = in_float32(part)
    pictures = Pictures(
        ImageCache.build(image_files(Path(folder))), noise=GaussianNoise(sigma=sigma), noise_seed=0, lossless=None
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


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
