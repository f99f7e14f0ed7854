"""Real noisy-clean pairs -> batches of Pairs with some clean images in each: JDC's data.

Without a data root the pairs are synthetic: the embedded photographs with Poisson-Gaussian noise of several levels,
each in the place of an ISO; everything else is the same.
"""

from __future__ import annotations

import numpy as np
import torch

from jdcsuite import checks
from jdcsuite.data import cells, provenance
from jdcsuite.data.datamodule import DataModule
from jdcsuite.data.listing import report
from jdcsuite.data.noise import Noise, PoissonGaussian, Recorded
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.pairsets import EmbeddedPairs, FolderPairs
from jdcsuite.data.samples import PairCrops, PairPictures, Sample
from jdcsuite.data.sources import Source, as_list, patterns
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_unit
from jdcsuite.types import Pair, UserError


class PairFolders(DataModule):
    """``train``, ``test``: folders in ``root``, by name or as the fields of `sources.Source`; a test folder without
    pairs is a set of clean images. Without ``test``, some scenes of every training folder are held out as test. A root
    that holds ``noisy/`` and ``clean/`` itself is one dataset and treated so.
    ``val``: which training images validate, as in `splits.hold_out_val`.

    ``clean``: folder of the clean images that are mixed in (None: the clean halves of the training pairs);
    ``clean_max_iso``: only those with such an ISO or less in their EXIF, as in the paper; ``clean_share``: of every
    batch, rounded, at least one place unless it is 0.
    ``min_ms_ssim``: only cells whose MS-SSIM(noisy, clean) exceeds it; ``cell``: their side in pixels. ``sampling``:
    pair or scene, as in `samples.PairCrops`. ``levels``: the noises in the place of ISOs without a root. ``synthetic``:
    noise that training draws on every clean crop in place of the recorded one, for methods that know no real noise;
    validation and test are real. ``predenoised``: training folders must have been made by `jdc predenoise`; such a
    folder is never tested on. The others are `DataModule`'s.

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
            root=root, noise=Recorded("real" if root else levels[0].protocol), noise_seed=noise_seed, crop=crop,
            val_crop=val_crop, batch=batch, workers=workers, seed=seed, steps=steps, lossless=lossless, limit=limit,
            cache=cache,
        )  # fmt: skip
        self.sampling = checks.choice("data.sampling", sampling, ("pair", "scene"))
        self.clean_share = checks.number("data.clean_share", clean_share, least=0, under=1)
        if min_ms_ssim is not None:
            checks.number("min_ms_ssim", min_ms_ssim, least=0, under=1)
        if clean is not None and not isinstance(clean, str):
            raise UserError(f"data.clean={clean} names no folder: give one in data.root, as data.clean=photographs")
        if predenoised and root is None:
            raise UserError(
                "this method learns from predenoised pictures: make a folder with `jdc predenoise`, then give "
                "data.root=ROOT and data.train=[FOLDER]"
            )
        sources = [[Source.parse(x) for x in as_list(f"data.{k}", v)] for k, v in (("train", train), ("test", test))]
        val = patterns("data.val", val)
        self.sources: EmbeddedPairs | FolderPairs
        if root is None:
            self.sources = EmbeddedPairs(levels=levels, noise_seed=noise_seed, val=val, cache_dir=cache)
        else:
            self.sources = FolderPairs(
                root=self.root, train=sources[0], test=sources[1], val=val, clean=clean,
                clean_max_iso=clean_max_iso, allow_unpaired=allow_unpaired, predenoised=predenoised, cache_dir=cache,
            )  # fmt: skip
        if clean_max_iso is not None:
            checks.number("data.clean_max_iso", clean_max_iso, above=0)
            if root is None or not clean or self.sources.single:
                raise UserError(
                    f"data.clean_max_iso={clean_max_iso} has no folder to choose from: give data.root=ROOT and "
                    "data.clean=FOLDER, pictures with EXIF"
                )
        self.cell, self.min_ms_ssim = max(checks.whole("data.cell", cell, least=1), crop), min_ms_ssim
        self.weights, self.synthetic = self.sources.weights, synthetic
        if self.cleans >= batch:
            raise UserError(
                f"data.clean_share={clean_share} of data.batch={batch} leaves no place for pairs: give a larger batch "
                "or a smaller share"
            )
        self._clean_scenes: frozenset[str] = frozenset()
        self._parts: dict[str, PairCache] = {}  # train and val
        self._tests: dict[str, PairCache] = {}
        self._cells = np.zeros((0, 3), dtype=np.int64)

    @property
    def train_set(self) -> str:
        return self.sources.train_set

    @property
    def test_sets(self) -> list[str]:
        return list(self.sources.test_sets)

    @property
    def train_scenes(self) -> list[str]:
        return sorted({scene for pairs in self._parts.values() for scene in pairs.scenes} | self._clean_scenes)

    @property
    def has_one_level(self) -> bool:
        return self.synthetic is not None

    @property
    def gives_levels(self) -> bool:
        return self.synthetic is not None or self.lossless is not None

    @property
    def test_scenes(self) -> list[str]:
        return sorted({scene for pairs in self._tests.values() for scene in pairs.scenes})

    @property
    def cleans(self) -> int:
        """Places of a batch that hold a clean image."""
        return max(1, round(self.clean_share * self.batch)) if self.clean_share else 0

    def prepare(self) -> None:
        """Also scores the cells."""
        if self._parts:
            return
        sets = self.sources.load()
        if self.cleans:
            self._clean_scenes = sets.clean_scenes
        tested = [scene for pairs in sets.tests.values() for scene in pairs.scenes]
        provenance.refuse_overlap(
            self._clean_scenes, tested, subject="data.clean holds",
            cure="leave them out of one, or give another folder as data.clean",
        )  # fmt: skip
        sets.train.noisy.require(self.cell, reason="data.cell" if self.cell > self.crop else "data.crop")
        sets.clean.require(self.crop)
        if sets.teacher:
            self.facts["teacher"] = sets.teacher
        self._cells = self._chosen(sets.train)
        self._parts, self._tests = {"train": sets.train, "val": sets.val}, sets.tests
        self._caches = {name: pairs.noisy for name, pairs in self._parts.items()} | {"plain": sets.clean}

    def _chosen(self, train: PairCache) -> np.ndarray:
        """The cells that training draws from. UserError if a source with a weight has none."""
        every = chosen = cells.grid(train.noisy, side=self.cell)
        if self.min_ms_ssim is not None:
            score = cells.scores(train, every, side=self.cell)
            chosen = every[cells.above(self.min_ms_ssim, score)]
            report(f"MS-SSIM(noisy, clean) > {self.min_ms_ssim:g}: {len(chosen)} of {len(score)} crops kept")
        self.facts |= {"crops": len(every), "crops_kept": len(chosen)}
        drawn = {train.sources[i] for i in chosen[:, 0].tolist()}
        for number, weight in enumerate(self.weights or ()):
            if weight and number not in drawn:
                raise UserError(
                    f"{self.sources.train[number].name} has weight={weight:g} and none of its crops is left by "
                    "min_ms_ssim and validation: lower min_ms_ssim, or leave it out of data.train"
                )
        return chosen

    def _identified(self) -> dict[str, object]:
        parts = {name: self._parts[name].identified() for name in ("train", "val")}
        parts["test"] = [self._tests[name].identified() for name in self.test_sets]
        # sources matter only if they have weights
        weighted = {"weights": self.weights, "sources": self._parts["train"].sources} if self.weights else {}
        return parts | weighted | {"plain": self._caches["plain"].contents if self.cleans else []}

    def crops(self) -> PairCrops:
        return PairCrops(
            self._parts["train"], self._caches["plain"], cells=self._cells, cell=self.cell, crop=self.crop,
            batch=self.batch, cleans=self.cleans, sampling=self.sampling, seed=self.seed, lossless=self.lossless,
            weights=self.weights,
        )  # fmt: skip

    def validation(self) -> PairPictures:
        return PairPictures(self._parts["val"], lossless=self.lossless, side=self.val_crop)

    def pictures(self, test_set: str) -> PairPictures:
        return PairPictures(self._tests[test_set], lossless=self.lossless, limit=self.limit)

    def pair(self, batch: Sample) -> Pair:
        clean, noisy, sigma = to_unit(batch["clean"]), to_unit(batch["noisy"]), batch["sigma"].float()
        if self.synthetic is not None:
            noisy = self.synthetic(clean, batch["draw"])
            sigma = torch.full_like(sigma, self.synthetic.sigma)
        return self._pair(batch, noisy=noisy, clean=clean, sigma=sigma)
