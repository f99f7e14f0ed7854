"""Trains the flagship's noise estimate alone for some seconds, puts it into the weights, and prints what it reads.

    python experiments/flagship/estimator.py SECONDS --data DATA --weights WEIGHTS

Nothing else of the network learns from the estimate's loss, so it can be trained apart: 16 crops of 128 pixels of
`photos_train` under the law of noises, with more camera noise and JPEG, Adam 2e-3 falling to 0 over the second half.
SECONDS are of one core; 0 trains nothing. DATA holds `kodak24` and the pairs of `cc15`, `polyu_crops` and
`sidd_small_256`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn

from jdcsuite.artifacts import weights
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.draw import Draw
from jdcsuite.data.law import NoiseLaw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read

BATCH, CROP, RATE = 16, 128, 2e-3
PAIRS = {"cc15": 1, "polyu_crops": 5, "sidd_small_256": 8}  # folder -> every how many images


def train(net: nn.Module, folder: Path, *, seconds: float) -> int:
    """Steps taken."""
    law, cache = NoiseLaw(camera=0.3, jpeg=0.3), ImageCache.build(image_files(folder))
    random, start, step = np.random.default_rng(5), time.process_time(), 0
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    while (gone := (time.process_time() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - gone))
        crops = []
        for i in random.integers(len(cache), size=BATCH).tolist():
            top, left = (int(random.integers(side - CROP + 1)) for side in cache.shape(i))
            crops.append(to_tensor(cache.crop(i, top, left, CROP)))
        clean = torch.stack(crops)
        numbers = range(step * BATCH, (step + 1) * BATCH)
        noisy = law(clean, Draw(numbers=numbers, seeds=numbers, batch=BATCH, seed=7, device="cpu"))
        level = 255 * (noisy - clean).square().flatten(1).mean(1).sqrt()
        loss = F.smooth_l1_loss(torch.log2(1 + net(noisy)), torch.log2(1 + level), beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
    return step


@torch.no_grad()
def show(net: nn.Module, data: Path) -> None:
    pictures = [read(path)[:400, :400] for path in image_files(data / "kodak24")[::3]]
    for sigma in (0, 2, 5, 10, 15, 25, 50):
        noisy = [GaussianNoise(sigma=sigma).fixed(picture, seed=0)[None] for picture in pictures]
        clean = [to_tensor(picture)[None] for picture in pictures]
        levels = [255 * float((a - b).square().mean().sqrt()) for a, b in zip(noisy, clean, strict=True)]
        print(f"Kodak24, root mean square {np.mean(levels):.1f}:", np.round([float(net(x)) for x in noisy], 1))
    for name, every in PAIRS.items():
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.seconds > 0:
        torch.manual_seed(0)
        config, about, _ = weights.read(given.weights)
        config["noise_estimate"] = "bands"
        model = instantiate(config, _convert_="all")
        weights.load_into(model, given.weights, without=["noise_level"])
        print(train(model.noise_level, given.data / "photos_train", seconds=given.seconds), "steps")
        weights.round_to_bf16(model)
        model.eval().update()
        weights.save(model, config, given.weights, about=about, dtype=torch.bfloat16)
    show(weights.load(given.weights).noise_level, given.data)


if __name__ == "__main__":
    main()
