"""Trains the flagship's noise estimate alone for some seconds, puts it into the weights, and prints what it reads.

    python experiments/flagship/estimator.py SECONDS --data DATA --weights WEIGHTS

Nothing else of the network learns from the estimate's loss, so it can be trained apart: crops of 96 pixels of
`photos_train` under the law of noises, Adam 2e-3 falling to 0 over the second half. DATA holds `kodak24` and `cc15`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from jdcsuite.artifacts import weights
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.draw import Draw
from jdcsuite.data.law import NoiseLaw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import read
from jdcsuite.models.noise_level import NoiseLevel

BATCH, CROP, RATE = 16, 96, 2e-3


def train(net: NoiseLevel, folder: Path, *, seconds: float) -> int:
    """Steps taken."""
    law, cache, random = NoiseLaw(), ImageCache.build(image_files(folder)), np.random.default_rng(5)
    optimizer, start, step = torch.optim.Adam(net.parameters(), RATE), time.monotonic(), 0
    while (gone := (time.monotonic() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - gone))
        crops = []
        for i in random.integers(len(cache), size=BATCH).tolist():
            top, left = (int(random.integers(side - CROP + 1)) for side in cache.shape(i))
            crops.append(to_tensor(cache.crop(i, top, left, CROP)))
        clean = torch.stack(crops)
        numbers = range(step * BATCH, (step + 1) * BATCH)
        noisy = law(clean, Draw(numbers=numbers, seeds=numbers, batch=BATCH, seed=7, device="cpu"))
        level = 255 * (noisy - clean).square().flatten(1).mean(1).sqrt()
        loss = F.smooth_l1_loss(torch.log2(1 + net(noisy)), torch.log2(1 + level))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
    return step


@torch.no_grad()
def show(net: NoiseLevel, data: Path) -> None:
    pictures = [read(path)[:400, :400] for path in image_files(data / "kodak24")[::3]]
    for sigma in (0, 5, 10, 15, 25, 50):
        noise = GaussianNoise(sigma=sigma)
        print(f"Kodak24, sigma {sigma}:", np.round([float(net(noise.fixed(p, seed=0)[None])) for p in pictures], 1))
    for path in image_files(data / "cc15" / "noisy")[::3]:
        noisy, clean = (to_tensor(read(data / "cc15" / kind / path.name)) for kind in ("noisy", "clean"))
        level = 255 * (noisy - clean).square().mean().sqrt()
        print(f"{path.name}: {float(net(noisy[None])):.1f} where the root mean square is {float(level):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    given = parser.parse_args()
    config, about, _ = weights.read(given.weights)
    model = weights.load(given.weights)
    if given.seconds > 0:
        torch.manual_seed(0)
        model.noise_level = NoiseLevel()
        print(train(model.noise_level, given.data / "photos_train", seconds=given.seconds), "steps")
        weights.round_to_bf16(model)
        model.eval().update()
        weights.save(model, config, given.weights, about=about, dtype=torch.bfloat16)
    show(model.noise_level, given.data)


if __name__ == "__main__":
    main()
