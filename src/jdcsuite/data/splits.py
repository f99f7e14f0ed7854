"""Images or shots of the training and test folders -> which of them train, validate and test.

A scene is on one side only. Datasets published with a split keep it (`entries`); others are split by the hash of their
names, so that the split of a picture does not change when others are added.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from jdcsuite.data import catalog
from jdcsuite.data.layouts import REAL_MEAN, SIDD
from jdcsuite.data.listing import images
from jdcsuite.data.shots import Shot
from jdcsuite.data.sources import Source, listed, matches
from jdcsuite.types import UserError

T = TypeVar("T", Path, str, tuple[str, np.ndarray])
_TEST = re.compile(r"(^|[^a-z])(test|tests|testing|valid|validation)([^a-z]|$)", re.I)


def photographs(folder: Path, *, whole_root: bool = False) -> list[Path]:
    """The clean images of a folder. UserError if it holds noisy images of pairs; where it is a ``whole_root``, from
    which no folder was chosen, also if it holds a test set."""
    paths = images(folder, required=True)
    names = {path: path.relative_to(folder).parent.parts for path in paths}
    noisy = [path for path in paths if "noisy" in names[path] or _is_half_of_a_pair(path)]
    tests = [path for path in paths if whole_root and any(_TEST.search(name) or _is_test(name) for name in names[path])]
    for kind, matching in (("noisy images", noisy), ("test images", tests)):
        if matching:
            raise UserError(
                f"{folder} holds {kind} (as {matching[0].relative_to(folder)}) and all its images would pass for clean "
                "ones to train on: name folders of clean images, as data.train=NAME data.test=[NAME]"
            )
    return paths


def _is_half_of_a_pair(path: Path) -> bool:
    """Whether an image has a clean partner, going by the names of SIDD, PolyU and CC."""
    return any((clean := layout.partner(path)) is not None and clean.is_file() for layout in (SIDD, REAL_MEAN))


def _is_test(name: str) -> bool:
    dataset = catalog.lookup(name)
    return dataset is not None and dataset.is_test


def hold_out(items: Sequence[T], *, salt: str) -> tuple[list[T], list[T]]:
    """Files, names or (name, pixels) -> those kept, and those held out: one in ten, at least one and at most 12, chosen
    by the hash of ``salt`` and name. UserError: fewer than 2."""
    if len(items) < 2:
        raise UserError("at least 2 pictures are needed to train on one and hold out another: add some")

    def rank(index: int) -> str:
        item = items[index]
        name = item[0] if isinstance(item, tuple) else item.name if isinstance(item, Path) else item
        return hashlib.sha256(f"{salt} {name}".encode()).hexdigest()

    order = sorted(range(len(items)), key=rank)[: max(1, min(12, len(items) // 10))]
    held = set(order)
    return [item for i, item in enumerate(items) if i not in held], [items[i] for i in order]


def for_training(shots: Sequence[Shot], source: Source) -> list[Shot]:
    """Shots of a training folder, without the published test scenes of its dataset. UserError if none is left."""
    kept = [shot for shot in shots if not _published(shot, "test_scenes")]
    if shots and not kept:
        raise UserError(
            f"{source.name} holds nothing but its test scenes, which are never trained on: add pairs of others"
        )
    return kept


def for_test(shots: Sequence[Shot], source: Source) -> list[Shot]:
    """Shots of a test folder: only the published test scenes where its dataset has some, unless ``only`` chooses the
    images. UserError if none of them is there."""
    published = {shot.scene: dataset.test_scenes for shot in shots if (dataset := catalog.of_scene(shot.scene))}
    if source.only or not any(published.values()):
        return list(shots)
    kept = [shot for shot in shots if _published(shot, "test_scenes") or not published.get(shot.scene)]
    if shots and not kept:
        raise UserError(
            f"{source.folder} holds none of its test scenes ({listed(max(published.values(), key=len))}): add them, or "
            "say which pictures are the test, as data.test=[{folder: NAME, only: [PATTERN]}]"
        )
    return kept


def hold_out_test(shots: Sequence[Shot], source: Source) -> tuple[list[Shot], list[Shot]]:
    """Shots of a single folder -> training and test: its published test scenes, else one scene in ten."""
    train = for_training(shots, source)
    if len(train) == len(shots):
        return _without(shots, _hashed(shots, salt="test"))
    return train, [shot for shot in shots if _published(shot, "test_scenes")]


def hold_out_val(
    shots: Sequence[Shot], sources: Sequence[Source], patterns: Sequence[str] = ()
) -> tuple[list[Shot], list[Shot]]:
    """Training shots -> those that train, and those that validate: whole scenes.

    ``patterns``: of scenes or of names of noisy images, as "*_7D-2" or "Canon*". Without patterns: the published
    validation scenes of datasets that have some, one scene in ten (12 at most) of the others.
    UserError: a pattern that matches nothing, or nothing left to train on.
    """
    if patterns:
        names: dict[str, set[str]] = {}
        for shot in shots:
            names.setdefault(shot.scene, set()).add(shot.noisy.name)
        return _without(shots, _matched(patterns, names))
    held = {shot.scene for shot in shots if _published(shot, "val_scenes")}
    published = {shot.source for shot in shots if shot.scene in held}
    rest = [shot for shot in shots if shot.source not in published]
    if not held or len({shot.scene for shot in rest}) > 1:
        held |= _hashed(rest, salt="val")
    if not {shot.scene for shot in shots} - held:
        raise UserError(f"all scenes of data.train are for validation ({listed(sorted(held))}): add pairs of others")
    return _without(shots, held)


def hold_out_photographs(
    photographs: list[tuple[str, np.ndarray]], patterns: Sequence[str] = ()
) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """(name, pixels) of photographs, each a scene by itself -> those that train, and those that validate."""
    if not patterns:
        return hold_out(photographs, salt="val")
    held = _matched(patterns, {name: set() for name, _ in photographs})
    return [p for p in photographs if p[0] not in held], [p for p in photographs if p[0] in held]


def _published(shot: Shot, part: str) -> bool:
    """Whether a shot is in its dataset's published ``part``: test_scenes or val_scenes."""
    dataset = catalog.of_scene(shot.scene)
    return dataset is not None and matches(shot.scene, getattr(dataset, part))


def _without(shots: Sequence[Shot], scenes: set[str]) -> tuple[list[Shot], list[Shot]]:
    return [s for s in shots if s.scene not in scenes], [s for s in shots if s.scene in scenes]


def _matched(patterns: Sequence[str], names: Mapping[str, set[str]]) -> set[str]:
    """Scenes that a pattern matches, by their own name or by an image's; ``names``: scene -> names of its images."""
    held: set[str] = set()
    for pattern in patterns:
        scenes = {scene for scene, images in names.items() if any(matches(n, [pattern]) for n in (scene, *images))}
        if not scenes:
            raise UserError(
                f"data.val: no training picture or scene is called {pattern}: they are {listed(sorted(names))}"
            )
        held |= scenes
    if len(held) == len(names):
        raise UserError(f"data.val={list(patterns)} takes all {len(names)} scenes and leaves none to train on")
    return held


def _hashed(shots: Sequence[Shot], *, salt: str) -> set[str]:
    """One scene in ten (12 at most, at least one), by the hash of their names."""
    names = sorted({shot.scene for shot in shots})
    if len(names) < 2:
        raise UserError("at least 2 scenes are needed to train on one and hold out another: add pairs of other scenes")
    return set(hold_out(names, salt=salt)[1])
