"""Shots of the training and test folders -> which of their scenes train, validate and test.

A scene is on one side only. A data set's published split is in its entry of the `catalog`; what has none is split by
the hash of the scenes' names, so that it does not change when others come.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jdcsuite.data import catalog
from jdcsuite.data.datamodule import _hold_out
from jdcsuite.data.pairs import Shot, Source, listed
from jdcsuite.types import UserError


def for_training(found: Sequence[Shot], source: Source) -> list[Shot]:
    """A training folder's shots without the test scenes of its data set as published. UserError when all are."""
    kept = [shot for shot in found if not _published(shot, "test_scenes")]
    if found and not kept:
        raise UserError(
            f"{source.name} holds nothing but its test scenes, which are never trained on: add pairs of others"
        )
    return kept


def for_test(found: Sequence[Shot], source: Source) -> list[Shot]:
    """A test folder's shots: of a data set that was published with test scenes those alone, unless ``only`` says which
    pictures are meant. UserError when none of them is there."""
    splits = {shot.scene: shown.test_scenes for shot in found if (shown := catalog.shown(shot.scene))}
    if source.only or not any(splits.values()):
        return list(found)
    kept = [shot for shot in found if _published(shot, "test_scenes") or not splits.get(shot.scene)]
    if found and not kept:
        raise UserError(
            f"{source.folder} holds none of its test scenes ({listed(max(splits.values(), key=len))}): add them, or "
            "say which pictures are the test, as data.test=[{folder: NAME, only: [PATTERN]}]"
        )
    return kept


def hold_out_test(found: Sequence[Shot], source: Source) -> tuple[list[Shot], list[Shot]]:
    """One folder's shots -> those that are not the test, and the test: its published scenes, else one scene in ten."""
    train = for_training(found, source)
    if len(train) == len(found):
        return _without(found, _hashed(found, salt="test"))
    return train, [shot for shot in found if _published(shot, "test_scenes")]


def hold_out_val(
    found: Sequence[Shot], sources: Sequence[Source], patterns: Sequence[str] = ()
) -> tuple[list[Shot], list[Shot]]:
    """Training shots -> those that train, and those that validate: whole scenes.

    ``patterns``: of scenes or of names of noisy pictures, as "*_7D-2" or "Canon*". Without any, of a data set
    published with validation scenes those, of all others one scene in ten (12 at most).
    UserError: a pattern that matches nothing, or nothing left to train on.
    """
    if patterns:
        names: dict[str, set[str]] = {}
        for shot in found:
            names.setdefault(shot.scene, set()).add(shot.noisy.name)
        return _without(found, _matched(patterns, names))
    out = {shot.scene for shot in found if _published(shot, "val_scenes")}
    settled = {shot.source for shot in found if shot.scene in out}
    rest = [shot for shot in found if shot.source not in settled]
    if not out or len({shot.scene for shot in rest}) > 1:
        out |= _hashed(rest, salt="val")
    if not {shot.scene for shot in found} - out:
        raise UserError(f"all scenes of data.train are for validation ({listed(sorted(out))}): add pairs of others")
    return _without(found, out)


def hold_out_pictures(
    pictures: list[tuple[str, np.ndarray]], patterns: Sequence[str] = ()
) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """(name, pixels) of pictures that show a scene each -> those that train, and those that validate."""
    if not patterns:
        return _hold_out(pictures, salt="val")
    out = _matched(patterns, {name: set() for name, _ in pictures})
    return [p for p in pictures if p[0] not in out], [p for p in pictures if p[0] in out]


def _published(shot: Shot, part: str) -> bool:
    """Whether a shot is of its data set's published ``part``: test_scenes or val_scenes."""
    shown = catalog.shown(shot.scene)
    return shown is not None and _among(shot.scene, getattr(shown, part))


def _among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _without(found: Sequence[Shot], scenes: set[str]) -> tuple[list[Shot], list[Shot]]:
    return [s for s in found if s.scene not in scenes], [s for s in found if s.scene in scenes]


def _matched(patterns: Sequence[str], names: Mapping[str, set[str]]) -> set[str]:
    """Scenes that a pattern matches, by their own name or by one of their pictures'; ``names``: scene -> those."""
    matched = {p: {scene for scene in names if any(_among(n, [p]) for n in (scene, *names[scene]))} for p in patterns}
    for pattern, scenes in matched.items():
        if not scenes:
            raise UserError(
                f"data.val: no training picture or scene is called {pattern}: they are {listed(sorted(names))}"
            )
    out = set().union(*matched.values())
    if len(out) == len(names):
        raise UserError(f"data.val={list(patterns)} takes all {len(names)} scenes and leaves none to train on")
    return out


def _hashed(found: Sequence[Shot], *, salt: str) -> set[str]:
    """One scene in ten (12 at most, at least one), by the hash of their names."""
    names = sorted({shot.scene for shot in found})
    if len(names) < 2:
        raise UserError("at least 2 scenes are needed to train on one and hold out another: add pairs of other scenes")
    _, held = _hold_out([(name, None) for name in names], salt=salt)
    return {name for name, _ in held}
