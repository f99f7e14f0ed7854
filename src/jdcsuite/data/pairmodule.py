"""Folders of real noisy-clean pairs -> batches of Pairs, some of every batch clean: JDC's datamodule.

Sample n is a function of (seed, n) alone, as in `datamodule`; the last places of every batch hold clean pictures.
Without a data root the pairs are made: the embedded photographs with Poisson-Gaussian noise of several levels, each
level standing for an ISO; everything after that is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache as once
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from jdcsuite.data import provenance, quality, splits
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.catalog import folder
from jdcsuite.data.datamodule import Photographs, Sample, Steps, at_least
from jdcsuite.data.madepairs import MADE, MADE_CLEAN, made
from jdcsuite.data.noise import Noise, PoissonGaussian, Recorded
from jdcsuite.data.pairs import (
    Shot,
    Source,
    is_number,
    listed,
    patterns,
    refuse_shared_scenes,
    scene_and_iso,
    several,
    shots,
    weights,
)
from jdcsuite.data.pairsamples import PairCrops, PairPictures
from jdcsuite.data.quality import PairCache
from jdcsuite.device import layout
from jdcsuite.imaging.folders import walk
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.read import exif_iso
from jdcsuite.types import Pair, UserError


class PairFolders(Photographs):
    """``root``: data folder; None = pairs made of the embedded photographs. A root that holds ``noisy/`` and
    ``clean/`` itself is one data set, whose last scenes are held out as test.
    ``train``, ``test``: folders in ``root``, by name or as `data.pairs.Source`'s fields; a test folder without pairs
    is a set of clean pictures. ``val``: which training pictures validate, as `data.splits.hold_out_val` says.
    ``clean``: folder of the clean pictures that are mixed in (None: the clean halves of the training pairs);
    ``clean_max_iso``: only those whose EXIF says this ISO or less, as the paper takes them: without an ISO is left out;
    ``clean_share``: of every batch, rounded, at least one place where it is not 0.
    ``min_ms_ssim``: only cells whose MS-SSIM(noisy, clean) exceeds it; ``cell``: their side in pixels. ``sampling``:
    pair or scene. ``levels``: the noises that stand for ISOs without a root. ``synthetic``: noise that training draws
    on every clean crop in place of the recorded one, for methods that know no real noise; validation and test are
    real. ``predenoised``: training folders must be those of `jdc predenoise`, whose clean pictures a teacher made. Such
    a folder is never tested on. The rest is `Photographs`'s.

    differs from the paper: clean crops are not rescaled, so that they hold the same detail as the noisy ones; all
    variants sample alike, so that the threshold is not confounded (``sampling=scene`` is theirs).
    """

    def __init__(
        self,
        *,
        root: str | None,
        train: list[str | dict] | str | None,
        clean: str | None,
        test: list[str | dict] | str | None,
        val: list[str] | str | None = None,
        clean_max_iso: int | None = None,
        levels: list[PoissonGaussian],
        synthetic: Noise | None = None,
        noise_seed: int,
        crop: int,
        val_crop: int,
        batch: int,
        workers: int,
        seed: int,
        steps: int,
        cell: int = 256,
        min_ms_ssim: float | None = None,
        sampling: str = "pair",
        clean_share: float = 0.2,
        allow_unpaired: bool = False,
        predenoised: bool = False,
        lossless: Lossless | None = None,
        limit: int | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(
            root=root, train=None, test=None, noise=Recorded("real" if root else levels[0].protocol), crop=crop,
            noise_seed=noise_seed, val_crop=val_crop, batch=batch, workers=workers, seed=seed, steps=steps,
            lossless=lossless, limit=limit, cache=cache,
        )  # fmt: skip
        if sampling not in ("pair", "scene"):
            raise UserError(f"data.sampling={sampling} is unknown: choose pair or scene")
        if not (is_number(clean_share) and 0 <= clean_share < 1):
            raise UserError(f"data.clean_share={clean_share} is not usable: give 0 or more, under 1")
        if min_ms_ssim is not None and not (is_number(min_ms_ssim) and 0 <= min_ms_ssim < 1):
            raise UserError(f"min_ms_ssim={min_ms_ssim} is not usable: give 0 or more, under 1")
        at_least("data.cell", cell, 1)
        if clean is not None and not isinstance(clean, str):
            raise UserError(f"data.clean={clean} names no folder: give one in data.root, as data.clean=photos_train")
        if predenoised and root is None:
            raise UserError(
                "this method learns from predenoised pictures: make a folder with `jdc predenoise`, then give "
                "data.root=ROOT and data.train=[FOLDER]"
            )
        self.whole = root is not None and (Path(root).expanduser() / "noisy").is_dir()
        self.train_sources = [Source.read(said) for said in several("data.train", train)]
        self.test_sources = [Source.read(said) for said in several("data.test", test)]
        names = [source.name for source in self.test_sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{twice[0]} is in data.test twice: leave one out, or give it another name, as "
                            f"{{folder: {twice[0]}, name: NAME}}")  # fmt: skip
        folders = root is not None and not self.whole
        self.weights = weights(self.train_sources, self.test_sources) if folders else None
        if clean_max_iso is not None and not (is_number(clean_max_iso) and clean_max_iso > 0):
            raise UserError(f"data.clean_max_iso={clean_max_iso} is not usable: give 1 or more, as 200")
        if clean_max_iso is not None and not (folders and clean):
            raise UserError(
                f"data.clean_max_iso={clean_max_iso} has no folder to choose from: give data.root=ROOT and "
                "data.clean=FOLDER, pictures with EXIF"
            )
        self.val, self.clean_max_iso = patterns("data.val", val), clean_max_iso
        self.clean_name, self.levels, self.synthetic = clean, levels, synthetic
        self.cell, self.min_ms_ssim, self.sampling = max(cell, crop), min_ms_ssim, sampling
        self.clean_share, self.allow_unpaired, self.predenoised = clean_share, allow_unpaired, predenoised
        if self.cleans >= batch:
            raise UserError(
                f"data.clean_share={clean_share} of data.batch={batch} leaves no place for pairs: give a larger batch "
                "or a smaller share"
            )
        self._plain_scenes: set[str] = set()
        self._parts: dict[str, PairCache] = {}  # train and val
        self._tests: dict[str, PairCache] = {}
        self._at = np.zeros((0, 3), dtype=np.int64)

    @property
    def train_set(self) -> str:
        if self.root is None:
            return MADE
        if self.whole:
            return Path(self.root).name
        # a curve is told by its name, not by data.train
        names = [s.name if s.weight is None else f"{s.weight:g}*{s.name}" for s in self.train_sources]
        return "+".join(names)

    @property
    def test_sets(self) -> list[str]:
        if self.root is None:
            return [MADE, MADE_CLEAN]
        return [f"{Path(self.root).name}-held-out"] if self.whole else [source.name for source in self.test_sources]

    @property
    def train_scenes(self) -> list[str]:
        """Scenes that training or validation has seen."""
        return sorted({scene for pairs in self._parts.values() for scene in pairs.scenes} | self._plain_scenes)

    @property
    def test_scenes(self) -> list[str]:
        return sorted({scene for pairs in self._tests.values() for scene in pairs.scenes})

    @property
    def cleans(self) -> int:
        """Places of a batch that hold a clean picture."""
        return max(1, round(self.clean_share * self.batch)) if self.clean_share else 0

    def prepare(self) -> None:
        """Decodes all pictures, finds bad ones and scores the cells, before anything is trained."""
        if self._parts:
            return
        if self.root is None:
            said = {"noise_seed": self.noise_seed, "val": self.val, "cache_dir": self.cache_dir}
            self._parts, plain, self._tests = made(self.levels, **said)
        else:
            self._parts, plain, self._tests = self._found()
        self._parts["train"].noisy.require(self.cell, said="data.cell" if self.cell > self.crop else "data.crop")
        plain.require(self.crop)
        self._caches = {name: pairs.noisy for name, pairs in self._parts.items()} | {"plain": plain}
        self._at = self._kept()
        self._refuse_empty()

    def _identified(self) -> dict[str, object]:
        parts = {name: self._parts[name].identified() for name in ("train", "val")}
        parts["test"] = [self._tests[name].identified() for name in self.test_sets]
        # sources matter only where they have weights
        weighted = {"weights": self.weights, "sources": self._parts["train"].sources} if self.weights else {}
        return parts | weighted | {"plain": self._caches["plain"].contents if self.cleans else []}

    def _kept(self) -> np.ndarray:
        at = quality.cells(self._parts["train"].noisy, side=self.cell)
        self.facts |= {"crops": len(at), "crops_kept": len(at)}
        if self.min_ms_ssim is None:
            return at
        score = quality.scores(self._parts["train"], at, side=self.cell)
        at = at[quality.above(self.min_ms_ssim, score)]
        self.facts["crops_kept"] = len(at)
        _tell(f"MS-SSIM(noisy, clean) > {self.min_ms_ssim:g}: {len(at)} of {len(score)} crops kept")
        return at

    def _refuse_empty(self) -> None:
        """A source with a weight needs a crop to be drawn."""
        if self.weights is None:
            return
        left = {self._parts["train"].sources[i] for i in self._at[:, 0].tolist()}
        for number, (source, weight) in enumerate(zip(self.train_sources, self.weights, strict=True)):
            if weight and number not in left:
                raise UserError(
                    f"{source.name} has weight={weight:g} and none of its crops is left by min_ms_ssim and "
                    "validation: lower min_ms_ssim, or leave it out of data.train"
                )

    def _found(self) -> tuple[dict[str, PairCache], ImageCache, dict[str, PairCache]]:
        """Training and validation pairs, the clean pictures that are mixed in, and the test sets."""
        root = Path(self.root).expanduser()
        tests: dict[str, list[Shot]] = {}
        if self.whole:
            sources = [Source.read(root.name)]
            every = shots(root, sources[0], allow_unpaired=self.allow_unpaired)
            train, tests[self.test_sets[0]] = splits.hold_out_test(every, sources[0])
        else:
            if not self.train_sources or not self.test_sources:
                raise UserError("data.train and data.test must name folders in data.root, as data.train=[polyu_crops]")
            sources = self.train_sources
            train = [
                replace(shot, source=number)
                for number, source in enumerate(sources)
                for shot in splits.for_training(self._shots(root, source), source)
            ]
            for source in self.test_sources:
                tests[source.name] = splits.for_test(self._shots(root, source, plain=True), source)
        tested = [shot for found in tests.values() for shot in found]
        self._ask_teachers(root, [shot.scene for shot in tested])
        refuse_shared_scenes(train, tested)
        train, val = splits.hold_out_val(train, sources, self.val)
        parts = {"train": self._cached(train), "val": self._cached(val)}
        seen = {shot.scene for shot in val}
        plain = self._plain(root, without=seen) if self.clean_name and not self.whole else parts["train"].clean
        if shared := self._plain_scenes & {shot.scene for shot in tested}:
            raise UserError(
                f"{len(shared)} scenes are in data.clean and in data.test ({listed(sorted(shared))}): leave them out "
                "of one, or give another folder as data.clean"
            )
        return parts, plain, {name: self._cached(found) for name, found in tests.items()}

    def _plain(self, root: Path, *, without: set[str]) -> ImageCache:
        """The clean pictures that are mixed in, but those of scenes that validate."""
        path = folder(root, self.clean_name)
        if any(provenance.read(place) for place in (path, path.parent)):
            raise UserError(
                f"the pictures of {path} are a teacher's, which are not clean: give a folder of clean pictures as "
                "data.clean, or null for the clean halves of the training pairs"
            )
        if shots(path, Source.read(self.clean_name), allow_unpaired=True):
            raise UserError(
                f"{self.clean_name} of data.clean holds pairs, half of them noisy: give a folder of clean pictures, as "
                f"{self.clean_name}/clean, or null for the clean halves of the training pairs"
            )
        plain = [picture for picture in sorted(walk(path)) if scene_and_iso(picture)[0] not in without]
        if not plain:
            raise UserError(f"all pictures of {path} show scenes that validate: give another folder as data.clean")
        if self.clean_name in self.test_sets:
            raise UserError(f"{self.clean_name} is in data.clean and in data.test: leave it out of one")
        if (most := self.clean_max_iso) is not None:
            iso = {path: exif_iso(path) for path in plain}
            silent = sum(value is None for value in iso.values())
            kept = [path for path, value in iso.items() if value is not None and value <= most]
            said = f"{len(kept)} of {len(plain)} pictures of {self.clean_name} have an EXIF ISO of {most} or less"
            said += f" ({silent} say none)"
            if not kept:
                raise UserError(f"{said}: raise data.clean_max_iso, or choose them by hand and leave it null")
            _tell(said)
            plain = kept
        self._plain_scenes = {scene_and_iso(path)[0] for path in plain} if self.cleans else set()
        return ImageCache.build(plain, cache_dir=self.cache_dir)

    def _ask_teachers(self, root: Path, tested: list[str]) -> None:
        teachers = provenance.teachers(
            root,
            train=[source.folder for source in self.train_sources if not self.whole],
            test=[""] if self.whole else [source.folder for source in self.test_sources],
            tested=tested,
            required=self.predenoised,
        )
        for name, teacher in teachers.items():
            if teacher.train_scenes is None:
                _tell(f"{name}: the weights of {teacher.name} do not say which scenes they learned from, "
                      "so it is not known whether they have seen those of data.test")  # fmt: skip
        if teachers:
            self.facts["teacher"] = "+".join(dict.fromkeys(teacher.label for teacher in teachers.values()))

    def _shots(self, root: Path, source: Source, *, plain: bool = False) -> list[Shot]:
        """A folder's pairs; with ``plain``, pictures that have no pairs are clean ones, their own partners."""
        path = folder(root, source.folder)
        found = shots(path, source, allow_unpaired=self.allow_unpaired)
        if not found and plain:
            pictures = [p for p in sorted(walk(path)) if source.takes(p)]
            found = [Shot(noisy=p, clean=p, scene=scene_and_iso(p)[0]) for p in pictures]
        if not found:
            patterns = f" that match only={list(source.only)} without={list(source.without)}"
            raise UserError(
                f"{path} holds no pairs{patterns if source.only or source.without else ''}: it needs noisy/ and "
                "clean/ with equal names, or the layout of SIDD, PolyU or NIND"
            )
        return found

    def _cached(self, found: Sequence[Shot]) -> PairCache:
        return PairCache.of_shots(found, cache_dir=self.cache_dir, allow_unpaired=self.allow_unpaired)

    def crops(self) -> PairCrops:
        """The training samples by number."""
        return PairCrops(
            self._parts["train"], self._caches["plain"], at=self._at, cell=self.cell, crop=self.crop,
            batch=self.batch, cleans=self.cleans, sampling=self.sampling, seed=self.seed, lossless=self.lossless,
            weights=self.weights,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        steps = Steps(
            steps=self.steps, batch=self.batch, rank=trainer.global_rank, world=trainer.world_size,
            start=trainer.global_step, first=self.first,
        )  # fmt: skip
        return self._loader(self.crops(), steps)

    def val_dataloader(self) -> DataLoader:
        return self._whole(self._pictures(self._parts["val"], side=self.val_crop))

    def _pictures(self, pairs: PairCache, *, side: int | None = None, limit: int | None = None) -> PairPictures:
        return PairPictures(pairs, lossless=self.lossless, side=side, limit=limit)

    def pair(self, batch: Sample) -> Pair:
        """A training batch of samples, on its device -> Pair."""
        clean, noisy, sigma = batch["clean"].float() / 255, batch["noisy"].float() / 255, batch["sigma"].float()
        if self.synthetic is not None:
            noisy = self.synthetic(clean, batch["draw"])
            sigma = torch.full_like(sigma, self.synthetic.sigma)
        return Pair(
            noisy=noisy.contiguous(memory_format=layout(noisy.device)),
            clean=clean.contiguous(memory_format=layout(clean.device)),
            sigma=sigma,
            bpp_noisy=_float(batch.get("bpp_noisy")),
            bpp_clean=_float(batch.get("bpp_clean")),
        )


@once
def _tell(said: str) -> None:
    """Once a process, however many rungs share the crops."""
    Console().print(said, highlight=False)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()
