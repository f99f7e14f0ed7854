"""What every kind of data shares: samples numbered over the whole run -> batches of Pairs on each rank.

Sample n of a run (n = first + step * batch + place in the batch) is a function of (seed, n) alone. So 1, 2 or 4 ranks
see the same union, and a run resumed in mid-epoch continues with the next sample. ``first`` is 0, or lies behind the
samples that the starting weights were trained on. Workers cut crops; noise and symmetries are applied on the device.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path

import lightning as L
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jdcsuite import checks
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import Noise, Recorded
from jdcsuite.data.samples import Named, Sample, Steps
from jdcsuite.device import layout
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.types import Pair


class DataModule(L.LightningDataModule, ABC):
    """Training, validation and test images.

    ``root``: data folder; None: the photographs inside scikit-image's wheel, which need no download. ``noise``: of
    validation and test. ``crop``: side of the training crops; ``val_crop``: of the validation images (pixels).
    ``batch``: total over all devices. ``lossless``: coder that measures H(noisy) and H(clean), or None. ``limit``: at
    most so many images of each test set. ``cache``: folder of decoded images (None: the user's cache folder).
    """

    training_noise: Noise | None = None  # where it is not `noise`

    def __init__(
        self,
        *,
        root: str | None,
        noise: Noise | Recorded,
        noise_seed: int,
        crop: int,
        val_crop: int,
        batch: int,
        workers: int,
        seed: int,
        steps: int,
        lossless: Lossless | None,
        limit: int | None,
        cache: str | None,
    ) -> None:
        super().__init__()
        for name, value in {"batch": batch, "crop": crop, "val_crop": val_crop}.items():
            checks.whole(f"data.{name}", value, least=1)
        checks.whole("data.workers", workers, least=0)
        if limit is not None:
            checks.whole("data.limit", limit, least=1)
        self.root = None if root is None else Path(root).expanduser()
        self.noise, self.noise_seed, self.lossless = noise, noise_seed, lossless
        self.crop, self.val_crop, self.batch, self.workers = crop, val_crop, batch, workers
        self.seed, self.steps, self.limit, self.cache_dir = seed, steps, limit, cache
        self.first = 0  # number of the first sample
        self.facts: dict[str, object] = {}  # columns of every row that depend on the data
        self._caches: dict[str, ImageCache] = {}  # train and val; of pairs, the noisy images

    @property
    @abstractmethod
    def train_set(self) -> str:
        """Name of the training set in results."""

    @property
    @abstractmethod
    def test_sets(self) -> list[str]:
        """Names of the test sets in results."""

    @property
    def train_scenes(self) -> list[str] | None:
        """Scenes (`layouts.scene_and_iso`) in training and validation; None: not known."""
        return None

    @property
    def has_one_level(self) -> bool:
        """Whether all training noise is of one level, which `sigma` of a configuration then is."""
        return self.training_noise is None

    @property
    def gives_levels(self) -> bool:
        """Whether training samples have a noise level, known or estimated; else it is NaN."""
        return True

    @property
    def test_scenes(self) -> list[str]:
        """Scenes of the test images, as far as known."""
        return []

    @abstractmethod
    def prepare(self) -> None:
        """Decode all images into the cache and check them, before anything is trained."""

    @abstractmethod
    def crops(self) -> Dataset[Sample]:
        """Training samples by number."""

    @abstractmethod
    def pair(self, batch: Sample) -> Pair:
        """A training batch of samples, on its device -> Pair."""

    @abstractmethod
    def validation(self) -> Dataset[Named]:
        """The validation images, cropped to ``val_crop`` pixels."""

    @abstractmethod
    def pictures(self, test_set: str) -> Dataset[Named]:
        """The whole images of a test set with their fixed noise."""

    @abstractmethod
    def _identified(self) -> dict[str, object]:
        """What `identity` hashes, with the test images under "test"."""

    def identity(self) -> str:
        """Short SHA-256 of what the data of this run are, after `prepare`: the size and CRC-32 of the pixels of every
        training, validation and test image, in order. Names of folders and files are not part of it, except that they
        decide the order and which images are held out.

        CRC-32, which the cache stores anyway, is enough: an edited image of the same size keeps its checksum with a
        probability of 2^-32, and nobody forges images here.
        """
        return _short_hash(self._identified())

    def test_identity(self) -> str:
        """As `identity`, of the test images alone."""
        return _short_hash(self._identified()["test"])

    def counts(self) -> dict[str, int]:
        """Number of training, validation and test images, after `prepare`."""
        tests = {f"test ({name})": len(self.pictures(name)) for name in self.test_sets}
        return {"training": len(self._caches["train"]), "validation": len(self._caches["val"]), **tests}

    def begin_behind(self, samples: int) -> None:
        """Do not repeat sample numbers below ``samples``; the first number is a multiple of the batch."""
        self.first = max(self.first, -(-samples // self.batch) * self.batch)

    def first_of(self, step: int) -> int:
        """Number of the first sample of a step."""
        return self.first + step * self.batch

    def require_val(self, side: int) -> None:
        """UserError that names the validation images with a side of fewer pixels; after `prepare`."""
        self._caches["val"].require(side, reason="MS-SSIM, of validation,")

    def prepare_data(self) -> None:
        self.prepare()

    def setup(self, stage: str) -> None:
        self.prepare()

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        steps = Steps(
            steps=self.steps, batch=self.batch, rank=trainer.global_rank, world=trainer.world_size,
            start=trainer.global_step, first=self.first,
        )  # fmt: skip
        return DataLoader(
            self.crops(),
            batch_sampler=steps,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader:
        return self._whole(self.validation())

    def test_dataloader(self) -> list[DataLoader]:
        return [self._whole(self.pictures(name)) for name in self.test_sets]

    def _whole(self, pictures: Dataset[Named]) -> DataLoader:
        # Each rank takes its own share, and none is repeated to even out the ranks, as a padded sampler would do. With
        # more ranks than images every rank takes all: Lightning's loop refuses a rank that has none.
        world = self.trainer.world_size if len(pictures) >= self.trainer.world_size else 1
        own = range(self.trainer.global_rank % world, len(pictures), world)
        return DataLoader(pictures, sampler=list(own), batch_size=None, collate_fn=_unchanged)

    def on_before_batch_transfer(self, batch: Sample | Named, dataloader_idx: int) -> Sample | Named:
        """Read the seeds of a training batch while it is on the CPU; reading them from a GPU would wait for it."""
        if not isinstance(batch, dict):
            return batch
        numbers, seeds = (batch[name].tolist() for name in ("number", "noise_seed"))
        device = self.trainer.strategy.root_device
        draw = Draw(numbers=numbers, seeds=seeds, batch=self.batch, seed=self.seed, device=device)
        return {name: value for name, value in batch.items() if name not in ("number", "noise_seed")} | {"draw": draw}

    def on_after_batch_transfer(self, batch: Sample | Named, dataloader_idx: int) -> Pair | Named:
        return self.pair(batch) if isinstance(batch, dict) else batch

    def _pair(
        self,
        batch: Sample,
        *,
        noisy: Float[Tensor, "b 3 h w"],
        clean: Float[Tensor, "b 3 h w"],
        sigma: Float[Tensor, "b"],
    ) -> Pair:
        """Pair in the memory layout of its device, with the code lengths that the samples have."""
        bpp = {name: batch[name].float() for name in ("bpp_noisy", "bpp_clean") if name in batch}
        noisy, clean = (images.contiguous(memory_format=layout(images.device)) for images in (noisy, clean))
        return Pair(noisy=noisy, clean=clean, sigma=sigma, **bpp)


def _short_hash(identified: object) -> str:
    return hashlib.sha256(json.dumps(identified).encode()).hexdigest()[:16]


def _unchanged(sample: Named) -> Named:
    return sample
