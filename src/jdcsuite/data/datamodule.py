"""Folders of photographs -> batches of Pairs: the one datamodule of every method.

Sample n of a run (n = first + step * total batch + place in the batch) is a function of (seed, n) alone: its
picture, crop, symmetry and noise. So 1, 2 or 4 ranks see the same union, and a run resumed in mid-epoch goes on
with the very next sample. ``first`` is 0, or lies behind the samples that the weights at the start have seen.
Workers only slice crops out of decoded pictures, or say where they lie in pictures that a GPU has room for
(`resident`); noise and symmetries are made on the device, unless a lossless code length of the noisy crop is asked
for, which needs the noise on the CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from jdcsuite.data.augment import Augmentation, half
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.catalog import folder
from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import Noise, Recorded
from jdcsuite.data.resident import Resident, fits
from jdcsuite.data.symmetries import turned
from jdcsuite.device import layout
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.imaging.read import embedded
from jdcsuite.types import Pair, UserError

EMBEDDED = "embedded"
Sample = dict[str, Tensor]
Named = tuple[str, Pair]  # a whole picture and its name


class Crops(Dataset[Sample]):
    """Sample number -> crop, drawn from all crop positions of all pictures alike.

    ``halved``: share of the crops that are cut twice as large, where the picture is, and made smaller. ``places``: a
    sample is where its crop lies, for `Resident` to cut, not the crop."""

    def __init__(
        self,
        cache: ImageCache,
        *,
        crop: int,
        seed: int,
        noise: Noise,
        lossless: Lossless | None,
        halved: float = 0.0,
        places: bool = False,
    ) -> None:
        cache.require(crop)
        shapes = [cache.shape(i)[:2] for i in range(len(cache))]
        positions = np.array([(h - crop + 1) * (w - crop + 1) for h, w in shapes], dtype=np.float64)
        self.share = np.cumsum(positions) / positions.sum()
        self.cache, self.crop, self.seed, self.noise, self.lossless = cache, crop, seed, noise, lossless
        self.halved, self.places = halved, places

    def __getitem__(self, n: int) -> Sample:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, n]))
        i = min(int(np.searchsorted(self.share, draw.random(), side="right")), len(self.cache) - 1)
        height, width = self.cache.shape(i)[:2]
        halved = self.halved > 0 and draw.random() < self.halved and 2 * self.crop <= min(height, width)
        cut = 2 * self.crop if halved else self.crop
        top, left = (int(draw.integers(side - cut + 1)) for side in (height, width))
        flips, noise_seed = draw.integers(2, size=3), int(draw.integers(2**62))
        numbers = {"number": n, "noise_seed": noise_seed}
        if self.places:
            numbers |= {"at": self.cache.pixel(i, top, left), "width": width, "scale": 1 + halved}
        sample = {"flips": torch.from_numpy(flips)} | {name: torch.tensor(value) for name, value in numbers.items()}
        if self.places:
            return sample
        clean = np.ascontiguousarray(self.cache.crop(i, top, left, cut))
        clean = half(clean) if halved else clean
        sample["clean"] = torch.from_numpy(clean).permute(2, 0, 1).contiguous()
        return sample if self.lossless is None else sample | self._measured(clean, noise_seed)

    def _measured(self, clean: np.ndarray, noise_seed: int) -> Sample:
        noisy = self.noise(to_tensor(clean)[None], Draw.whole(1, seed=noise_seed))[0]
        bpp = [self.lossless.bpp(to_bytes(noisy)), self.lossless.bpp(clean)]
        return {"noisy": noisy, "bpp_noisy": torch.tensor(bpp[0]), "bpp_clean": torch.tensor(bpp[1])}


class Steps(Sampler[list[int]]):
    """The sample numbers of this rank's share of each batch, from step ``start`` on; ``first``: that of step 0.

    Place p of the total batch belongs to rank p mod world.
    """

    def __init__(self, *, steps: int, batch: int, rank: int, world: int, start: int = 0, first: int = 0) -> None:
        if batch % world:
            raise UserError(f"data.batch={batch} cannot be dealt to {world} devices: make it a multiple of {world}")
        self.steps, self.batch, self.rank, self.world, self.start = steps, batch, rank, world, start
        self.first = first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            number = self.first + step * self.batch
            yield list(range(number + self.rank, number + self.batch, self.world))

    def __len__(self) -> int:
        # The whole run is one epoch; Lightning counts the steps that a resumed run has behind it itself.
        return self.steps


class Pictures(Dataset[Named]):
    """Whole pictures with their fixed noise; ``side``: only their central square of that side, in pixels."""

    def __init__(
        self,
        cache: ImageCache,
        *,
        noise: Noise,
        noise_seed: int,
        lossless: Lossless | None,
        side: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.cache, self.noise, self.noise_seed, self.lossless = cache, noise, noise_seed, lossless
        self.side, self.count = side, min(limit or len(cache), len(cache))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[str, Pair]:
        image = np.ascontiguousarray(self.cache[i])
        if self.side is not None:
            top, left = ((s - min(s, self.side)) // 2 for s in image.shape[:2])
            image = image[top : top + self.side, left : left + self.side]
        noisy = self.noise.fixed(image, seed=self.noise_seed)
        pair = Pair(noisy=noisy[None], clean=to_tensor(image)[None], sigma=torch.tensor([self.noise.sigma]))
        if self.lossless is not None:
            bpp = {"bpp_noisy": self.lossless.bpp(to_bytes(noisy)), "bpp_clean": self.lossless.bpp(image)}
            pair = replace(pair, **{name: torch.tensor([value]) for name, value in bpp.items()})
        return self.cache.names[i], pair


def at_least(name: str, value: object, least: int) -> None:
    """UserError where ``value`` is no whole number of that size."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value} is not usable: give {least} or more, a whole number")


class Photographs(L.LightningDataModule):
    """``root``: data folder; None = the photographs inside scikit-image's wheel, which need no download.
    ``train``, ``test``: names of folders in ``root`` (None: ``root`` itself, its last pictures held out as test).
    ``crop``: side of the training crops; ``val_crop``: of the validation ones (pixels). ``batch``: total over all
    devices. ``lossless``: coder that measures H(noisy) and H(clean), or None. ``limit``: at most so many pictures
    of each test set. ``cache``: where decoded pictures are packed (None: the user's cache folder).
    ``training_noise``: what training draws in place of ``noise``, whose level is then that of each image's own
    noise; validation and test keep ``noise``. ``augment``: of the clean training crops. ``resident``: whether training
    pictures are kept on the device that trains (None: where it is a GPU with room for them)."""

    def __init__(
        self,
        *,
        root: str | None,
        train: str | None,
        test: list[str] | str | None,
        noise: Noise | Recorded,
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
        super().__init__()
        if root is None and (train or test):
            raise UserError("data.train and data.test name folders in data.root: give data.root=FOLDER too")
        for name, value in {"data.batch": batch, "data.crop": crop, "data.val_crop": val_crop}.items():
            at_least(name, value, 1)
        at_least("data.workers", workers, 0)
        if limit is not None:
            at_least("data.limit", limit, 1)
        self.root, self.train_name = root, train
        self.test_names = [test] if isinstance(test, str) else list(test or [])
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
        self.noise, self.noise_seed, self.lossless = noise, noise_seed, lossless
        self.training_noise, self.augment = training_noise, augment
        self.crop, self.val_crop, self.batch, self.workers = crop, val_crop, batch, workers
        self.seed, self.steps, self.limit, self.cache_dir = seed, steps, limit, cache
        self._caches: dict[str, ImageCache] = {}  # of the parts train and val
        self.resident, self._resident = resident, None  # the wish, and the pictures once they are there
        self._tests: dict[str, ImageCache] = {}  # apart: a folder may be called train
        self.first = 0  # number of the first sample
        # columns of every row, that only the data can say
        self.facts: dict[str, object] = {} if training_noise is None else {"training_noise": training_noise.protocol}

    @property
    def train_set(self) -> str:
        return EMBEDDED if self.root is None else self.train_name or Path(self.root).name

    @property
    def test_sets(self) -> list[str]:
        return self.test_names or [self.train_set if self.root is None else f"{Path(self.root).name}-held-out"]

    @property
    def train_scenes(self) -> list[str] | None:
        """What the training pictures show, as `data.pairs` names it; None: not known."""
        return None

    @property
    def test_scenes(self) -> list[str]:
        """What the test pictures show, where that is known."""
        return []

    def begin_behind(self, samples: int) -> None:
        """No sample number below ``samples`` comes again; the first one is a multiple of the batch, as places in it
        are."""
        self.first = max(self.first, -(-samples // self.batch) * self.batch)

    def first_of(self, step: int) -> int:
        """Number of the first sample of a step."""
        return self.first + step * self.batch

    def prepare(self) -> None:
        """Decodes all pictures into the cache and finds bad ones, before anything is trained."""
        train, val, test = self._sources()
        for caches, sources in ((self._caches, {"train": train, "val": val}), (self._tests, test)):
            for name, source in sources.items():
                if name not in caches:
                    caches[name] = ImageCache.build(source, cache_dir=self.cache_dir and Path(self.cache_dir))
        self._caches["train"].require(self.crop)
        self._refuse_tested()

    def _refuse_tested(self) -> None:
        """UserError where a training or validation picture is in a test set too, whatever it is called there."""
        seen = {
            content: name
            for cache in self._caches.values()
            for name, content in zip(cache.names, cache.contents, strict=True)
        }
        for test_set, cache in self._tests.items():
            for name, content in zip(cache.names, cache.contents, strict=True):
                if content in seen:
                    raise UserError(
                        f"{seen[content]} of data.train is {name} of the test set {test_set}, pixel by pixel: a "
                        "picture cannot be both, leave it out of one"
                    )

    def identity(self) -> str:
        """Short SHA-256 of what the data of this run are, after `prepare`: the size and CRC-32 of the pixels of every
        training, validation and test picture, in order. Names of folders and files are not part of it, except that
        they decide the order and which pictures are held out.

        CRC-32, which the cache keeps anyway, is enough: an edited picture of the same size keeps its checksum with a
        probability of 2^-32, and nobody forges pictures here.
        """
        return hashlib.sha256(json.dumps(self._identified()).encode()).hexdigest()[:16]

    def _identified(self) -> dict[str, object]:
        """What `identity` hashes."""
        parts = {name: self._caches[name].contents for name in ("train", "val")}
        return parts | {"test": [self._tests[name].contents for name in self.test_sets]}

    def require_val(self, side: int) -> None:
        """UserError that names the validation pictures with a side of fewer pixels, once they are prepared."""
        self._caches["val"].require(side, said="MS-SSIM, of validation,")

    def prepare_data(self) -> None:
        self.prepare()

    def setup(self, stage: str) -> None:
        self.prepare()

    def _sources(self) -> tuple[list, list, dict[str, list]]:
        """Train, validation and test pictures. Validation is held out of the training pictures: one in ten (12 at
        most, at least one), by the hash of their names, so that it does not change when others come."""
        if self.root is None:
            pool, test = embedded("train"), {self.test_sets[0]: embedded("test")}
        elif self.test_names:
            root = Path(self.root)
            pool = image_files(folder(root, self.train_name))
            test = {name: image_files(folder(root, name)) for name in self.test_names}
        else:
            pool = image_files(folder(Path(self.root), self.train_name) if self.train_name else Path(self.root))
            pool, held = _hold_out(pool, salt="test")
            test = {self.test_sets[0]: held}
        train, val = _hold_out(pool, salt="val")
        return train, val, test

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        steps = Steps(
            steps=self.steps, batch=self.batch, rank=trainer.global_rank, world=trainer.world_size,
            start=trainer.global_step, first=self.first,
        )  # fmt: skip
        cache, noise = self._caches["train"], self.training_noise or self.noise
        halved = self.augment.halved if self.augment else 0.0
        device = trainer.strategy.root_device
        if self.resident or (self.resident is None and self.lossless is None and fits(cache, device)):
            self._resident = Resident(cache, device=device, halves=halved > 0)
        crops = Crops(
            cache, crop=self.crop, seed=self.seed, noise=noise, lossless=self.lossless, halved=halved,
            places=self._resident is not None,
        )  # fmt: skip
        return self._loader(crops, steps)

    def _loader(self, samples: Dataset[Sample], steps: Steps) -> DataLoader:
        return DataLoader(
            samples,
            batch_sampler=steps,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def pictures(self, test_set: str) -> Dataset[Named]:
        """The pictures of a test set with their fixed noise."""
        return self._pictures(self._tests[test_set], limit=self.limit)

    def val_dataloader(self) -> DataLoader:
        return self._whole(self._pictures(self._caches["val"], side=self.val_crop))

    def test_dataloader(self) -> list[DataLoader]:
        return [self._whole(self.pictures(name)) for name in self.test_sets]

    def _pictures(self, cache: ImageCache, *, side: int | None = None, limit: int | None = None) -> Dataset[Named]:
        return Pictures(
            cache, noise=self.noise, noise_seed=self.noise_seed, lossless=self.lossless,
            side=side, limit=limit,
        )  # fmt: skip

    def _whole(self, pictures: Dataset[Named]) -> DataLoader:
        # Each rank takes its own; none is repeated to even the ranks out, as a padded sampler would. Where there are
        # more ranks than pictures every rank takes all: Lightning's loop refuses a rank that has none.
        world = self.trainer.world_size if len(pictures) >= self.trainer.world_size else 1
        mine = range(self.trainer.global_rank % world, len(pictures), world)
        return DataLoader(pictures, sampler=list(mine), batch_size=None, collate_fn=_as_it_is)

    def on_before_batch_transfer(self, batch: Sample | Named, dataloader_idx: int) -> Sample | Named:
        """Takes the seeds out of a training batch while it is on the CPU: read from a GPU, they would have to be waited
        for."""
        if not isinstance(batch, dict):
            return batch
        numbers, seeds = (batch[name].tolist() for name in ("number", "noise_seed"))
        device = self.trainer.strategy.root_device
        draw = Draw(numbers=numbers, seeds=seeds, batch=self.batch, seed=self.seed, device=device)
        return {name: value for name, value in batch.items() if name not in ("number", "noise_seed")} | {"draw": draw}

    def on_after_batch_transfer(self, batch: Sample | tuple[str, Pair], dataloader_idx: int) -> object:
        return self.pair(batch) if isinstance(batch, dict) else batch

    def pair(self, batch: Sample) -> Pair:
        """A training batch of samples, on its device -> Pair: noise where it is not drawn yet, then turned."""
        if self._resident is not None:
            clean = self._resident.cut(batch["at"], batch["width"], batch["scale"], crop=self.crop)
        else:
            clean = batch["clean"]
        clean = clean.float() / 255
        if self.augment is not None:
            clean = self.augment(clean, batch["draw"])
        noise = self.training_noise or self.noise
        noisy = batch["noisy"] if "noisy" in batch else noise(clean, batch["draw"])
        sigma = torch.full((len(clean),), noise.sigma, device=clean.device)
        if self.training_noise is not None:
            sigma = (noisy - clean).square().mean((1, 2, 3)).sqrt() * 255
        clean, noisy = (turned(images, batch["flips"]) for images in (clean, noisy))
        return Pair(
            noisy=noisy.contiguous(memory_format=layout(noisy.device)),
            clean=clean.contiguous(memory_format=layout(clean.device)),
            sigma=sigma,
            bpp_noisy=_float(batch.get("bpp_noisy")),
            bpp_clean=_float(batch.get("bpp_clean")),
        )


def _as_it_is(sample: tuple[str, Pair]) -> tuple[str, Pair]:
    return sample


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def _hold_out(pictures: list, *, salt: str, most: int = 12) -> tuple[list, list]:
    if len(pictures) < 2:
        raise UserError("at least 2 pictures are needed to train on one and hold out another: add some")

    def rank(picture: object) -> str:
        name = picture[0] if isinstance(picture, tuple) else Path(str(picture)).name
        return hashlib.sha256(f"{salt} {name}".encode()).hexdigest()

    held = sorted(pictures, key=rank)[: max(1, min(most, len(pictures) // 10))]
    return [p for p in pictures if not any(p is h for h in held)], held
