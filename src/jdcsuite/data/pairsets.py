"""Folders of real pairs, or the embedded photographs with synthetic noise -> training, validation and test pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jdcsuite.data import provenance, splits
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.catalog import folder
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.listing import images, report
from jdcsuite.data.noise import PoissonGaussian
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.shots import Shot, find_shots
from jdcsuite.data.sources import Source, weights
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.imaging.read import embedded, exif_iso
from jdcsuite.types import UserError

EMBEDDED, EMBEDDED_CLEAN = "embedded-poisson-gaussian", "embedded-clean"


@dataclass(frozen=True, kw_only=True)
class PairSets:
    """``clean``: the clean images that are mixed in; ``clean_scenes``: what they show beyond the training pairs.
    ``teacher``: label of the models that made the targets, "" for recorded ones."""

    train: PairCache
    val: PairCache
    tests: dict[str, PairCache]
    clean: ImageCache
    clean_scenes: frozenset[str] = frozenset()
    teacher: str = ""


@dataclass(frozen=True, kw_only=True)
class EmbeddedPairs:
    """Pairs that need no download: the embedded photographs with noise of several levels, each in the place of an ISO.

    A photograph is a scene. ``val``: patterns of the photographs that validate; none: one by its hash.
    """

    levels: Sequence[PoissonGaussian]
    noise_seed: int
    val: Sequence[str]
    cache_dir: str | None
    train_set = EMBEDDED
    test_sets = (EMBEDDED, EMBEDDED_CLEAN)
    weights = None

    def load(self) -> PairSets:
        train, val = splits.hold_out_photographs(embedded("train"), self.val)
        test = embedded("test")
        clean = ImageCache.build(test, cache_dir=self.cache_dir)
        pairs = {"train": self._noisy(train), "val": self._noisy(val)}
        tests = {EMBEDDED: self._noisy(test), EMBEDDED_CLEAN: PairCache.of_clean(clean, clean.names)}
        return PairSets(**pairs, tests=tests, clean=pairs["train"].clean)

    def _noisy(self, photographs: list[tuple[str, np.ndarray]]) -> PairCache:
        noisy, partner = [], []
        for number, (name, image) in enumerate(photographs):
            for level in self.levels:
                pixels = to_bytes(level.fixed(image, seed=self.noise_seed))
                noisy.append((f"{Path(name).stem}_a{level.a[0]:g}_b{level.b[0]:g}.png", pixels))
                partner.append(number)
        return PairCache(
            noisy=ImageCache.build(noisy, cache_dir=self.cache_dir),
            clean=ImageCache.build(photographs, cache_dir=self.cache_dir),
            partner=partner,
            scenes=[photographs[number][0] for number in partner],
        )


@dataclass(frozen=True, kw_only=True)
class FolderPairs:
    """Folders of a data root. A root that holds ``noisy/`` and ``clean/`` itself is one dataset, some of whose scenes
    are held out as test; then ``train``, ``test`` and ``clean`` are not used. Without ``test``, some scenes of every
    training folder are held out.

    ``clean``: folder of the clean images that are mixed in (None: the clean halves of the training pairs);
    ``clean_max_iso``: only those with such an ISO or less in their EXIF. ``predenoised``: training folders must have
    been made by `jdc predenoise`.
    """

    root: Path
    train: Sequence[Source]
    test: Sequence[Source]
    val: Sequence[str]
    clean: str | None
    clean_max_iso: int | None
    allow_unpaired: bool
    predenoised: bool
    cache_dir: str | None

    def __post_init__(self) -> None:
        names = [source.name for source in self.test]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{twice[0]} is in data.test twice: leave one out, or give it another name, as "
                            f"{{folder: {twice[0]}, name: NAME}}")  # fmt: skip
        _ = self.weights  # raises what is wrong with them

    @property
    def single(self) -> bool:
        return (self.root / "noisy").is_dir()

    @property
    def weights(self) -> list[float] | None:
        return None if self.single else weights(self.train, self.test)

    @property
    def train_set(self) -> str:
        if self.single:
            return self.root.absolute().name
        # with weights, because curves are told apart by this name, not by data.train
        return "+".join(s.name if s.weight is None else f"{s.weight:g}*{s.name}" for s in self.train)

    @property
    def test_sets(self) -> Sequence[str]:
        if self.single:
            return (f"{self.root.absolute().name}-held-out",)
        names = (source.name for source in self.test) if self.test else (f"{s.name}-held-out" for s in self.train)
        return tuple(dict.fromkeys(names))

    def load(self) -> PairSets:
        train, sources, tests = self._single() if self.single else self._several()
        tested = [shot.scene for shots in tests.values() for shot in shots]
        teacher = self._teacher(tested)
        provenance.refuse_overlap(
            [shot.scene for shot in train], tested, subject="data.train holds",
            cure="leave them out of one, as data.train=[{folder: NAME, without: [PATTERN]}]",
        )  # fmt: skip
        train, val = splits.hold_out_val(train, sources, self.val)
        pairs = {"train": self._decoded(train), "val": self._decoded(val)}
        clean, clean_scenes = pairs["train"].clean, set()
        if self.clean and not self.single:
            paths = self._clean_images(without={shot.scene for shot in val})
            clean = ImageCache.build(paths, cache_dir=self.cache_dir)
            clean_scenes = {scene_and_iso(path)[0] for path in paths}
        tests = {name: self._decoded(shots) for name, shots in tests.items()}
        return PairSets(**pairs, tests=tests, clean=clean, clean_scenes=frozenset(clean_scenes), teacher=teacher)

    def _single(self) -> tuple[list[Shot], Sequence[Source], dict[str, list[Shot]]]:
        source = Source.parse(self.root.absolute().name)
        shots = find_shots(self.root, source, allow_unpaired=self.allow_unpaired)
        train, test = splits.hold_out_test(shots, source)
        return train, [source], {self.test_sets[0]: test}

    def _several(self) -> tuple[list[Shot], Sequence[Source], dict[str, list[Shot]]]:
        if not self.train:
            raise UserError(
                f"{self.root} is not one set of pairs itself (noisy/ and clean/): name folders of pairs in it, as "
                "data.train=[NAME]"
            )
        shots = [
            [replace(shot, source=number) for shot in self._shots(source)] for number, source in enumerate(self.train)
        ]
        if not self.test:
            return self._held_out(shots)
        train = [s for part, source in zip(shots, self.train, strict=True) for s in splits.for_training(part, source)]
        tests = {source.name: splits.for_test(self._shots(source, allow_clean=True), source) for source in self.test}
        return train, self.train, tests

    def _held_out(self, shots: list[list[Shot]]) -> tuple[list[Shot], Sequence[Source], dict[str, list[Shot]]]:
        """Test scenes out of every training folder; ``shots``: of each. A scene in several folders is on one side."""
        parts = [splits.hold_out_test(part, source)[1] for part, source in zip(shots, self.train, strict=True)]
        held = {shot.scene for part in parts for shot in part}
        tests: dict[str, list[Shot]] = {}
        for part, source in zip(shots, self.train, strict=True):
            tests.setdefault(f"{source.name}-held-out", []).extend(shot for shot in part if shot.scene in held)
        return [shot for part in shots for shot in part if shot.scene not in held], self.train, tests

    def _shots(self, source: Source, *, allow_clean: bool = False) -> list[Shot]:
        """Pairs of a folder; with ``allow_clean``, images of a folder without pairs are clean, their own partners."""
        path = folder(self.root, source.folder)
        shots = find_shots(path, source, allow_unpaired=self.allow_unpaired)
        if not shots and allow_clean:
            paths = [p for p in images(path) if source.takes(p)]
            shots = [Shot(noisy=p, clean=p, scene=scene_and_iso(p)[0]) for p in paths]
        if not shots:
            patterns = f" that match only={list(source.only)} without={list(source.without)}"
            raise UserError(
                f"{path} holds no pairs{patterns if source.only or source.without else ''}: it needs noisy/ and "
                "clean/ with equal names, or the layout of SIDD, PolyU or NIND"
            )
        return shots

    def _decoded(self, shots: Sequence[Shot]) -> PairCache:
        return PairCache.of_shots(shots, cache_dir=self.cache_dir, allow_unpaired=self.allow_unpaired)

    def _clean_images(self, *, without: set[str]) -> list[Path]:
        """Clean images to mix in, except those of the scenes that validate."""
        path = folder(self.root, self.clean)
        if any(provenance.read(place) for place in (path, path.parent)):
            raise UserError(
                f"the pictures of {path} are a teacher's, which are not clean: give a folder of clean pictures as "
                "data.clean, or null for the clean halves of the training pairs"
            )
        if find_shots(path, Source.parse(self.clean), allow_unpaired=True):
            raise UserError(
                f"{self.clean} of data.clean holds pairs, half of them noisy: give a folder of clean pictures, as "
                f"{self.clean}/clean, or null for the clean halves of the training pairs"
            )
        paths = [p for p in images(path) if scene_and_iso(p)[0] not in without]
        if not paths:
            raise UserError(f"all pictures of {path} show scenes that validate: give another folder as data.clean")
        if self.clean in self.test_sets:
            raise UserError(f"{self.clean} is in data.clean and in data.test: leave it out of one")
        if self.clean_max_iso is None:
            return paths
        iso, most = {p: exif_iso(p) for p in paths}, self.clean_max_iso
        kept = [p for p, value in iso.items() if value is not None and value <= most]
        unknown = sum(value is None for value in iso.values())
        summary = f"{len(kept)} of {len(paths)} pictures of {self.clean} have an EXIF ISO of {most} or less"
        summary += f" ({unknown} have none)"
        if not kept:
            raise UserError(f"{summary}: raise data.clean_max_iso, or choose them by hand and leave it null")
        report(summary)
        return kept

    def _teacher(self, tested: Sequence[str]) -> str:
        teachers = provenance.teachers(
            self.root,
            train=[] if self.single else [source.folder for source in self.train],
            test=[""] if self.single else [source.folder for source in self.test or self.train],
            tested=tested,
            required=self.predenoised,
        )
        for name, teacher in teachers.items():
            if teacher.train_scenes is None:
                report(f"{name}: the weights of {teacher.name} do not say which scenes they learned from, "
                       "so it is not known whether they have seen those of data.test")  # fmt: skip
        return "+".join(dict.fromkeys(teacher.label for teacher in teachers.values()))
