"""Small folders of real pairs, and the datamodule on them, for the tests of several files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from jdcsuite.data.noise import PoissonGaussian
from jdcsuite.data.pairfolders import PairFolders
from jdcsuite.types import Pair

SIDE = 180


LEVELS = [
    PoissonGaussian(a=level["a"], b=level["b"])
    for level in yaml.safe_load((Path(__file__).parents[1] / "conf" / "data" / "real_noise.yaml").read_text())["levels"]
]


NIND_TEST = (
    "ursulines-red", "ursulines-building", "stefantiek", "CourtineDeVillersDebris", "MuseeL-Bobo", "MuseeL-Bobo-C500D",
)  # fmt: skip


NIND_VAL = ("7D-2", "7D-7", "Pen-pile")


SIDD = "{:04d}_{}_S6_00{}_00100_5500_L.png"


def photo(seed: int, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 216, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def noised(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes at two ISOs in ``real``, two other scenes in ``other``, clean pictures in ``plain``."""
    root = tmp_path_factory.mktemp("pairs")
    for folder, scenes in (("real", range(1, 9)), ("other", (20, 21))):
        for scene in scenes:
            for iso, sigma in (("100", 3 * scene), ("800", 90)):
                name = SIDD.format(scene, f"{scene:03d}", iso)
                clean = photo(scene, width=2 * SIDE)
                save(root / folder / "clean" / name, clean)
                save(root / folder / "noisy" / name, noised(clean, sigma))
    for i in range(3):
        save(root / "plain" / f"{i}.png", photo(100 + i))
    return root


def module(root: Path | None, *, rank: int = 0, world: int = 1, start: int = 0, **other: object) -> PairFolders:
    options = {"root": root and str(root), "train": ["real"], "test": ["other", "plain"], "clean": None}
    options |= {"levels": [PoissonGaussian(a=0.01, b=0.01)], "noise_seed": 0, "crop": 64, "val_crop": 64, "cell": 176}
    data = PairFolders(**options | {"batch": 8, "workers": 0, "seed": 3, "steps": 5} | other)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start, strategy=strategy)
    data.prepare()
    return data


def batches(data: PairFolders) -> list[Pair]:
    return [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0) for batch in data.train_dataloader()
    ]


@pytest.fixture(scope="module")
def nind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with ``nind``: the test and validation scenes, three others, and one whose name begins with that of a
    validation scene."""
    root = tmp_path_factory.mktemp("nind")
    for number, scene in enumerate((*NIND_TEST, *NIND_VAL, "7D-3", "droid", "soap", "Pen-piles")):
        for iso, sigma in (("200", 1), ("200-2", 1), ("800", 20), ("H1", 60)):
            image = noised(photo(number, height=64, width=64), sigma)
            save(root / "nind" / scene / f"NIND_{scene}_ISO{iso}.png", image)
    for scene in range(12):
        for kind, sigma in (("clean", 0), ("noisy", 30)):
            image = noised(photo(50 + scene, height=64, width=64), sigma)
            save(root / "mine" / kind / SIDD.format(scene, f"{scene:03d}", 100), image)
    return root


def scenes_of(data: PairFolders, part: str) -> set[str]:
    return {scene.removeprefix("nind_NIND_") for scene in (data._parts | data._tests)[part].scenes}
