"""Folders of clean photographs -> batches of Pairs with noise that is drawn on the device."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Dataset

from jdcsuite.data import splits
from jdcsuite.data.augment import Augmentation
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.catalog import folder
from jdcsuite.data.datamodule import DataModule
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.noise import Noise
from jdcsuite.data.resident import Resident, fits
from jdcsuite.data.samples import Crops, Named, Pictures, Sample
from jdcsuite.data.symmetries import turned
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_unit
from jdcsuite.imaging.read import embedded
from jdcsuite.types import Pair, UserError

EMBEDDED = "embedded"
MOST_SCENES = 10_000  # that weights list, whose description is limited


class Photographs(DataModule):
    """``train``, ``test``: names of folders in ``root``; None: ``root`` itself, with one image in ten held out as test.

    ``training_noise``: drawn in training in place of ``noise``; sigma is then the measured level of each image's noise.
    ``augment``: of the clean training crops. ``resident``: keep the training images on the device that trains (None: if
    it is a GPU with room for them). The others are `DataModule`'s.
    """

    def __init__(
        self,
        *,
        root: str | None,
        train: str | None,
        test: list[str] | str | None,
        noise: Noise,
        noise_seed: int,
        crop: int,
        val_crop: int,
        batch: int,
        workers: int,
        seed: int,
        steps: int,
        lossless: Lossless | None = None,
        limit: int | None = None,
        cache: str | None = None,
        training_noise: Noise | None = None,
        augment: Augmentation | None = None,
        resident: bool | None = None,
    ) -> None:
        super().__init__(
            root=root, noise=noise, noise_seed=noise_seed, crop=crop, val_crop=val_crop, batch=batch, workers=workers,
            seed=seed, steps=steps, lossless=lossless, limit=limit, cache=cache,
        )  # fmt: skip
        if root is None and (train or test):
            raise UserError("data.train and data.test name folders in data.root: give data.root=FOLDER too")
        self.train_name, self.test_names = train, [test] if isinstance(test, str) else list(test or [])
        if self.test_names and not train:
            raise UserError("data.test was given without data.train: name the training folder too, as data.train=NAME")
        if train in self.test_names:
            raise UserError(f"{train} is in data.train and in data.test: a picture cannot be both, leave it out of one")
        if augment is not None and lossless is not None:
            raise UserError(
                "data.augment changes crops after their code lengths were measured: leave it or data.lossless out"
            )
        if resident and lossless is not None:
            raise UserError(
                "data.resident=true keeps crops off the CPU, where data.lossless measures them: leave it out"
            )
        self.training_noise, self.augment, self.resident = training_noise, augment, resident
        if training_noise is not None:
            self.facts["training_noise"] = training_noise.protocol
        self._resident: Resident | None = None
        self._tests: dict[str, ImageCache] = {}
        self._train_scenes: list[str] | None = None
        self._test_scenes: list[str] | None = None

    @property
    def train_set(self) -> str:
        return EMBEDDED if self.root is None else self.train_name or self.root.absolute().name

    @property
    def test_sets(self) -> list[str]:
        return self.test_names or [self.train_set if self.root is None else f"{self.root.absolute().name}-held-out"]

    @property
    def train_scenes(self) -> list[str] | None:
        return self._train_scenes

    @property
    def test_scenes(self) -> list[str]:
        return self._test_scenes or []

    def prepare(self) -> None:
        train, val, tests = self._sources()
        self._train_scenes = _scenes([*train, *val])
        self._test_scenes = _scenes([image for images in tests.values() for image in images])
        for caches, sources in ((self._caches, {"train": train, "val": val}), (self._tests, tests)):
            for name, source in sources.items():
                if name not in caches:
                    caches[name] = ImageCache.build(source, cache_dir=self.cache_dir and Path(self.cache_dir))
        self._caches["train"].require(self.crop)
        self._refuse_tested()

    def _sources(self) -> tuple[list, list, dict[str, list]]:
        """Training, validation and test images: files, or names and pixels. Validation is held out of training."""
        if self.root is None:
            pool, tests = embedded("train"), {self.test_sets[0]: embedded("test")}
        elif self.test_names:
            pool = splits.photographs(folder(self.root, self.train_name))
            tests = {name: splits.photographs(folder(self.root, name)) for name in self.test_names}
        else:
            place = folder(self.root, self.train_name) if self.train_name else self.root
            pool, held = splits.hold_out(splits.photographs(place, whole_root=not self.train_name), salt="test")
            tests = {self.test_sets[0]: held}
        train, val = splits.hold_out(pool, salt="val")
        return train, val, tests

    def _refuse_tested(self) -> None:
        """UserError if a training or validation image is in a test set too, under any name."""
        learned = {
            content: name
            for cache in self._caches.values()
            for name, content in zip(cache.names, cache.contents, strict=True)
        }
        for test_set, cache in self._tests.items():
            for name, content in zip(cache.names, cache.contents, strict=True):
                if content in learned:
                    raise UserError(
                        f"{learned[content]} of data.train is {name} of the test set {test_set}, pixel by pixel: a "
                        "picture cannot be both, leave it out of one"
                    )

    def _identified(self) -> dict[str, object]:
        parts = {name: self._caches[name].contents for name in ("train", "val")}
        return parts | {"test": [self._tests[name].contents for name in self.test_sets]}

    def crops(self) -> Crops:
        """Also moves the training images to the device that trains, if that was chosen."""
        cache, device = self._caches["train"], self.trainer.strategy.root_device
        halved = self.augment.halved if self.augment else 0.0
        if self.resident or (self.resident is None and self.lossless is None and fits(cache, device)):
            self._resident = Resident(cache, device=device, halves=halved > 0)
        return Crops(
            cache, crop=self.crop, seed=self.seed, noise=self.training_noise or self.noise, lossless=self.lossless,
            halved=halved, places=self._resident is not None,
        )  # fmt: skip

    def validation(self) -> Dataset[Named]:
        return self._pictures(self._caches["val"], side=self.val_crop)

    def pictures(self, test_set: str) -> Dataset[Named]:
        return self._pictures(self._tests[test_set], limit=self.limit)

    def _pictures(self, cache: ImageCache, *, side: int | None = None, limit: int | None = None) -> Pictures:
        return Pictures(
            cache, noise=self.noise, noise_seed=self.noise_seed, lossless=self.lossless, side=side, limit=limit
        )

    def pair(self, batch: Sample) -> Pair:
        """Draws the noise where the samples have none yet, then applies the symmetries."""
        if self._resident is not None:
            clean = to_unit(self._resident.cut(batch["at"], batch["width"], batch["scale"], crop=self.crop))
        else:
            clean = to_unit(batch["clean"])
        if self.augment is not None:
            clean = self.augment(clean, batch["draw"])
        noise = self.training_noise or self.noise
        noisy = batch["noisy"] if "noisy" in batch else noise(clean, batch["draw"])
        sigma = torch.full((len(clean),), noise.sigma, device=clean.device)
        if self.training_noise is not None:
            sigma = (noisy - clean).square().mean((1, 2, 3)).sqrt() * 255
        clean, noisy = (turned(images, batch["flips"]) for images in (clean, noisy))
        return self._pair(batch, noisy=noisy, clean=clean, sigma=sigma)


def _scenes(images: list) -> list[str] | None:
    """None: the images are not files, or more than weights can list."""
    if len(images) > MOST_SCENES or not all(isinstance(image, Path) for image in images):
        return None
    return sorted({scene_and_iso(path)[0] for path in images})
