"""Flagship weights -> what each part of the network contributes: where to look when it learns badly.

    python experiments/flagship/diagnose.py WEIGHTS FOLDER [--sigma 10] [--pictures 4]

Means over the clean images of a folder, first without and then with noise of sigma:

    PSNR                of files without rounding (quality 85), and the same of the linear transform and its gains alone
    PSNR denoised       of what the encoder's denoiser leaves, against the clean image
    bpp, static         bits of the latents at quality 55 as the prior codes them, and as the empirical entropy of each
                        channel over these images: what a prior that adapts to nothing would need
    hyper-latents       share of the channels of z that are not the same everywhere: what the others cost was not
                        worth it to the training, or they were too small to outlast rounding
    PSNR kept           of files without rounding at strength 0, against the noisy image
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jdcsuite.coding.conditions import conditions_of
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.samples import Pictures
from jdcsuite.imaging.folders import image_files
from jdcsuite.models.flagship import Flagship

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.extend(map(str, Path(__file__).parents[:2]))
import script
from grid import loaded, psnr

HIGH, MIDDLE = 85.0, 55.0  # qualities


@torch.no_grad()
def diagnosed(model: Flagship, folder: Path, *, sigma: float, limit: int | None) -> dict[str, float]:
    """The figures of one noise level in grey levels; ``limit``: of the first so many images."""
    cache = ImageCache.build(image_files(folder))
    pictures = Pictures(cache, noise=GaussianNoise(sigma=sigma), noise_seed=0, lossless=None)
    rows, symbols, hyper, bits, pixels = [], [], [], 0.0, 0
    for i in range(min(limit or len(pictures), len(pictures))):
        pair = pictures[i][1]
        noise = model.noise_level(pair.noisy)

        def conditions(quality: float, strength: float, noise: Tensor = noise) -> Tensor:
            quality, strength = torch.full_like(noise, quality), torch.full_like(noise, strength)
            return conditions_of(quality=quality, noise=noise, strength=strength)

        x, asked = model.pad(pair.noisy), conditions(HIGH, 1.0)
        e = model._embedded(asked)
        gain = model._gain(model.gain_a, asked, e) / model._gain(model.gain_s, asked, e)
        decoded = {
            "psnr": model.synthesise(model.analyse(x, asked), asked),
            "psnr linear alone": model.linear_s(gain * model.linear_a(x - 0.5)) + 0.5,
            "psnr denoised": model._denoised(x, asked, e),
        }
        height, width = pair.clean.shape[-2:]
        row = {name: psnr(image[..., :height, :width], pair.clean) for name, image in decoded.items()}
        kept = conditions(HIGH, 0.0)
        image = model.synthesise(model.analyse(x, kept), kept)
        rows.append(row | {"psnr kept": psnr(image[..., :height, :width], pair.noisy)})

        asked = conditions(MIDDLE, 1.0)
        y = model.analyse(x, asked)
        bits -= float(torch.log2(model._relaxed(y, asked)[1]["y"]).sum())
        z = torch.round(model._hyper_latents(y))
        hyper.append(z[0].flatten(1))
        log2_step = model._entropy_parameters(z, asked)[0]
        symbols.append(torch.round(y / torch.exp2(log2_step))[0].flatten(1).int())
        pixels += height * width
    static = sum(entropy(channel) for channel in torch.cat(symbols, 1).numpy())
    z = torch.cat(hyper, 1)
    return {
        **pd.DataFrame(rows).mean().to_dict(), "bpp": bits / pixels, "bpp static": static / pixels,
        "hyper-latents": float((z != z[:, :1]).any(1).float().mean()),
    }  # fmt: skip


def entropy(symbols: np.ndarray) -> float:
    """Bits of symbols under their own relative frequencies, which are free."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sigma", type=float, default=10.0)
    parser.add_argument("--pictures", type=int, help="only the first so many")
    script.run(diagnose, parser, words)


def diagnose(given: argparse.Namespace) -> None:
    model = loaded(given.weights)
    for sigma in (0.0, given.sigma):
        found = diagnosed(model, given.folder, sigma=sigma, limit=given.pictures)
        print(f"sigma {sigma:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
