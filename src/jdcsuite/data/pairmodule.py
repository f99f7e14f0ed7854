"""Folders of real noisy-clean pairs -> batches of Pairs, some of every batch clean: JDC's datamodule.

Sample n is a function of (seed, n) alone, as in `datamodule`; the last places of every batch hold clean pictures.
Without a data root the pairs are made: the embedded photographs with Poisson-Gaussian noise of several levels, each
level standing for an ISO; everything after that is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache as once
from math import nan
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jdcsuite.data import provenance, quality
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.catalog import folder, images
from jdcsuite.data.datamodule import Named, Photographs, Sample, Steps, _hold_out
from jdcsuite.data.images import embedded
from jdcsuite.data.noise import Noise, PoissonGaussian, Recorded, to_bytes, to_tensor
from jdcsuite.data.pairs import Shot, Source, refuse_shared_scenes, scene_and_iso, shots
from jdcsuite.data.quality import PairCache
from jdcsuite.entropy.lossless import Lossless
from jdcsuite.types import Pair, UserError

MADE, MADE_CLEAN = "embedded-poisson-gaussian", "embedded-clean"


class PairCrops(Dataset[Sample]):
    """Sample number -> (noisy, clean) crop, turned and mirrored.

    ``kept``: the cells of ``at`` that crops come from; all (crop, ISO) pairs alike (``sampling`` pair), or a place of
    a scene first and one of its ISOs then (scene, as JDC-N and JDC-CN are published). A ``crop`` smaller than its
    ``cell`` lies anywhere in it. The last ``cleans`` places of each ``batch`` are crops of ``plain`` pictures.
    """

    def __init__(
        self,
        pairs: PairCache,
        plain: ImageCache,
        *,
        at: np.ndarray,
        cell: int,
        crop: int,
        batch: int,
        cleans: int,
        sampling: str,
        seed: int,
        lossless: Lossless | None,
    ) -> None:
        self.pairs, self.plain, self.at, self.cell, self.crop = pairs, plain, at, cell, crop
        self.batch, self.cleans, self.seed, self.lossless = batch, cleans, seed, lossless
        places: dict[tuple, list[int]] = {}
        for k, (i, top, left) in enumerate(at.tolist()):
            place = (pairs.partner[i], top, left) if sampling == "scene" else k
            places.setdefault(place, []).append(k)
        self.places = list(places.values())
        sides = [plain.shape(i) for i in range(len(plain))]
        positions = np.array([(h - crop + 1) * (w - crop + 1) for h, w in sides], dtype=np.float64)
        self.share = np.cumsum(positions) / positions.sum()

    def __getitem__(self, n: int) -> Sample:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, n]))
        is_clean = n % self.batch >= self.batch - self.cleans
        noisy, clean = self._plain(draw) if is_clean else self._pair(draw)
        turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
        sample = {}
        for kind, image in {"noisy": noisy, "clean": clean}.items():
            image = np.rot90(image[:, ::-1] if mirrored else image, turns)
            sample[kind] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            if self.lossless is not None:
                sample[f"bpp_{kind}"] = torch.tensor(self.lossless.bpp(np.ascontiguousarray(image)))
        sigma = torch.tensor(0.0 if is_clean else nan)
        return sample | {"sigma": sigma, "noise_seed": torch.tensor(int(draw.integers(2**62)))}

    def _pair(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shots_here = self.places[int(draw.integers(len(self.places)))]
        i, top, left = self.at[shots_here[int(draw.integers(len(shots_here)))]].tolist()
        down, right = draw.integers(self.cell - self.crop + 1, size=2).tolist()
        return self.pairs.crop(i, top + down, left + right, self.crop)

    def _plain(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        i = min(int(np.searchsorted(self.share, draw.random(), side="right")), len(self.plain) - 1)
        top, left = (int(draw.integers(side - self.crop + 1)) for side in self.plain.shape(i))
        image = self.plain.crop(i, top, left, self.crop)
        return image, image


class PairPictures(Dataset[Named]):
    """Whole pairs as they are; ``side``: only their central square of that side, in pixels."""

    def __init__(
        self, pairs: PairCache, *, lossless: Lossless | None, side: int | None = None, limit: int | None = None
    ) -> None:
        self.pairs, self.lossless, self.side = pairs, lossless, side
        self.count = min(limit or len(pairs), len(pairs))
        # a test set of clean pictures is its own partner
        self.sigma = 0.0 if pairs.noisy.path == pairs.clean.path else nan

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[str, Pair]:
        noisy, clean = (np.ascontiguousarray(self._central(image)) for image in self._whole(i))
        pair = Pair(noisy=to_tensor(noisy)[None], clean=to_tensor(clean)[None], sigma=torch.tensor([self.sigma]))
        if self.lossless is not None:
            rates = {"bpp_noisy": self.lossless.bpp(noisy), "bpp_clean": self.lossless.bpp(clean)}
            pair = Pair(
                noisy=pair.noisy, clean=pair.clean, sigma=pair.sigma,
                **{name: torch.tensor([rate]) for name, rate in rates.items()},
            )  # fmt: skip
        return self.pairs.noisy.names[i], pair

    def _whole(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pairs.noisy[i], self.pairs.clean[self.pairs.partner[i]]

    def _central(self, image: np.ndarray) -> np.ndarray:
        if self.side is None:
            return image
        top, left = ((s - min(s, self.side)) // 2 for s in image.shape[:2])
        return image[top : top + self.side, left : left + self.side]


class PairFolders(Photographs):
    """``root``: data folder; None = pairs made of the embedded photographs. A root that holds ``noisy/`` and
    ``clean/`` itself is one data set, whose last scenes are held out as test.
    ``train``, ``test``: folders in ``root``, by name or as `data.pairs.Source`'s fields; a test folder without pairs
    is a set of clean pictures. ``clean``: folder of the clean pictures that are mixed in (None: the clean halves of
    the training pairs); ``clean_share``: of every batch, rounded, at least one place where it is not 0.
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
        if not 0 <= clean_share < 1:
            raise UserError(f"data.clean_share={clean_share} is not usable: give 0 or more, under 1")
        if min_ms_ssim is not None and not 0 <= min_ms_ssim < 1:
            raise UserError(f"min_ms_ssim={min_ms_ssim} is not usable: give 0 or more, under 1")
        if predenoised and root is None:
            raise UserError(
                "this method learns from predenoised pictures: make a folder with `jdc predenoise`, then give "
                "data.root=ROOT and data.train=[FOLDER]"
            )
        self.whole = root is not None and (Path(root).expanduser() / "noisy").is_dir()
        self.train_sources = [Source.read(said) for said in _list(train)]
        self.test_sources = [Source.read(said) for said in _list(test)]
        self.clean_name, self.levels, self.synthetic = clean, levels, synthetic
        self.cell, self.min_ms_ssim, self.sampling = max(cell, crop), min_ms_ssim, sampling
        self.clean_share, self.allow_unpaired, self.predenoised = clean_share, allow_unpaired, predenoised
        self._plain_scenes: set[str] = set()
        self._pairs: dict[str, PairCache] = {}
        self._at = np.zeros((0, 3), dtype=np.int64)

    @property
    def train_set(self) -> str:
        if self.root is None:
            return MADE
        return Path(self.root).name if self.whole else "+".join(source.name for source in self.train_sources)

    @property
    def test_sets(self) -> list[str]:
        if self.root is None:
            return [MADE, MADE_CLEAN]
        return [f"{Path(self.root).name}-held-out"] if self.whole else [source.name for source in self.test_sources]

    @property
    def train_scenes(self) -> list[str]:
        """Scenes that training or the choice of a checkpoint has seen."""
        return sorted({scene for part in ("train", "val") for scene in self._pairs[part].scenes} | self._plain_scenes)

    @property
    def test_scenes(self) -> list[str]:
        return sorted({scene for name in self.test_sets for scene in self._pairs[name].scenes})

    @property
    def cleans(self) -> int:
        """Places of a batch that hold a clean picture."""
        return max(1, round(self.clean_share * self.batch)) if self.clean_share else 0

    def prepare(self) -> None:
        """Decodes all pictures, finds bad ones and scores the cells, before anything is trained."""
        if self._pairs:
            return
        train, test = self._made() if self.root is None else self._found()
        self._pairs = {"train": train["train"], "val": train["val"], **test}
        plain = train["plain"]
        for cache in (self._pairs["train"].noisy, plain):
            cache.require(self.cell if cache is not plain else self.crop)
        self._caches = {"train": self._pairs["train"].noisy, "plain": plain}
        self._at = self._kept()

    def _kept(self) -> np.ndarray:
        at = quality.cells(self._pairs["train"].noisy, side=self.cell)
        self.facts |= {"crops": len(at), "crops_kept": len(at)}
        if self.min_ms_ssim is None:
            return at
        score = quality.scores(self._pairs["train"], at, side=self.cell)
        at = at[quality.above(self.min_ms_ssim, score)]
        self.facts["crops_kept"] = len(at)
        _tell(f"MS-SSIM(noisy, clean) > {self.min_ms_ssim:g}: {len(at)} of {len(score)} crops kept")
        return at

    def _found(self) -> tuple[dict, dict[str, PairCache]]:
        root = Path(self.root).expanduser()
        tests: dict[str, list[Shot]] = {}
        if self.whole:
            every = shots(root, Source(folder=root.name), allow_unpaired=self.allow_unpaired)
            train, tests[self.test_sets[0]] = _hold_out_scenes(every, salt="test")
        else:
            if not self.train_sources or not self.test_sources:
                raise UserError("data.train and data.test must name folders in data.root, as data.train=[polyu_crops]")
            train = [shot for source in self.train_sources for shot in self._shots(root, source)]
            for source in self.test_sources:
                found = self._shots(root, source, plain=True)
                tests[source.name] = found
        tested = [shot for found in tests.values() for shot in found]
        self._ask_teachers(root, [shot.scene for shot in tested])
        refuse_shared_scenes(train, tested)
        train, val = _hold_out_scenes(train, salt="val")
        parts = {"train": self._cached(train), "val": self._cached(val)}
        if self.clean_name and not self.whole:
            plain = images(folder(root, self.clean_name))
            if self.clean_name in self.test_sets:
                raise UserError(f"{self.clean_name} is in data.clean and in data.test: leave it out of one")
            parts["plain"] = ImageCache.build(plain, cache_dir=self.cache_dir)
            self._plain_scenes = {scene_and_iso(path)[0] for path in plain} if self.cleans else set()
        else:
            parts["plain"] = parts["train"].clean
        return parts, {name: self._cached(found) for name, found in tests.items()}

    def _ask_teachers(self, root: Path, tested: list[str]) -> None:
        """What made the targets of predenoised folders: never a scene of the test, never a test's clean pictures."""
        for name in [""] if self.whole else [source.folder for source in self.test_sources]:
            if provenance.read(root / name):
                raise UserError(
                    f"the clean pictures of {root / name} are a teacher's, which no result is judged by: give "
                    "data.root=ROOT, that folder as data.train=[NAME] and real pairs as data.test=[NAME]"
                )
        teachers = {}
        for source in self.train_sources if not self.whole else []:
            made = provenance.read(root / source.folder)
            if made is None:
                if self.predenoised:
                    raise UserError(f"{root / source.folder} is no predenoised folder: make one with `jdc predenoise`")
                continue
            teachers[made.teacher.label] = None
            if made.teacher.train_scenes is None:
                _tell(f"{source.folder}: the weights of {made.teacher.name} do not say which scenes they learned from, "
                      "so it is not known whether they have seen those of data.test")  # fmt: skip
            provenance.refuse_learned_scenes(made.teacher, source.folder, tested)
        if teachers:
            self.facts["teacher"] = "+".join(teachers)

    def _shots(self, root: Path, source: Source, *, plain: bool = False) -> list[Shot]:
        """A folder's pairs; with ``plain``, pictures that have no pairs are clean ones, their own partners."""
        path = folder(root, source.folder)
        found = shots(path, source, allow_unpaired=self.allow_unpaired)
        if not found and plain:
            pictures = [p for p in images(path) if source.takes(p)]
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

    def _made(self) -> tuple[dict, dict[str, PairCache]]:
        """The embedded photographs at each level of noise, a picture a scene."""
        train, val = _hold_out(embedded("train"), salt="val")
        test = embedded("test")
        plain = ImageCache.build(train, cache_dir=self.cache_dir)
        clean = ImageCache.build(test, cache_dir=self.cache_dir)
        alone = PairCache(noisy=clean, clean=clean, partner=list(range(len(test))), scenes=clean.names)
        parts = {"train": self._noised(train), "val": self._noised(val), "plain": plain}
        return parts, {MADE: self._noised(test), MADE_CLEAN: alone}

    def _noised(self, photographs: list[tuple[str, np.ndarray]]) -> PairCache:
        noisy, partner = [], []
        for number, (name, image) in enumerate(photographs):
            for level in self.levels:
                made = to_bytes(level.fixed(image, seed=self.noise_seed))
                noisy.append((f"{Path(name).stem}_a{level.a[0]:g}_b{level.b[0]:g}.png", made))
                partner.append(number)
        return PairCache(
            noisy=ImageCache.build(noisy, cache_dir=self.cache_dir),
            clean=ImageCache.build(photographs, cache_dir=self.cache_dir),
            partner=partner,
            scenes=[photographs[number][0] for number in partner],
        )

    def crops(self) -> PairCrops:
        """The training samples by number."""
        return PairCrops(
            self._pairs["train"], self._caches["plain"], at=self._at, cell=self.cell, crop=self.crop,
            batch=self.batch, cleans=self.cleans, sampling=self.sampling, seed=self.seed, lossless=self.lossless,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        steps = Steps(
            steps=self.steps, batch=self.batch, rank=trainer.global_rank, world=trainer.world_size,
            start=trainer.global_step,
        )  # fmt: skip
        return self._loader(self.crops(), steps)

    def _pictures(self, name: str, *, side: int | None = None, limit: int | None = None) -> PairPictures:
        return PairPictures(self._pairs[name], lossless=self.lossless, side=side, limit=limit)

    def pair(self, batch: Sample) -> Pair:
        """A training batch of samples, on its device -> Pair."""
        clean, noisy, sigma = batch["clean"].float() / 255, batch["noisy"].float() / 255, batch["sigma"].float()
        if self.synthetic is not None:
            noisy = self.synthetic(clean, batch["noise_seed"].tolist())
            sigma = torch.full_like(sigma, self.synthetic.sigma)
        return Pair(
            noisy=noisy,
            clean=clean,
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


def _list(said: list[str | dict] | str | dict | None) -> list[str | dict]:
    return [said] if isinstance(said, str | dict) else list(said or [])


def _hold_out_scenes(found: list[Shot], *, salt: str) -> tuple[list[Shot], list[Shot]]:
    """Whole scenes, one in ten, chosen by the hash of their names."""
    names = sorted({shot.scene for shot in found})
    if len(names) < 2:
        raise UserError("at least 2 scenes are needed to train on one and hold out another: add pairs of other scenes")
    _, held = _hold_out([(name, None) for name in names], salt=salt)
    out = {name for name, _ in held}
    return [s for s in found if s.scene not in out], [s for s in found if s.scene in out]
