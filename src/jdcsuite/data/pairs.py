"""A folder of real noise -> its shots: each a noisy picture, its clean one, and the scene that both show.

Layouts, known by their names: ``noisy/`` and ``clean/`` with equal names (as SIDD-small, PolyU and CC lie here),
SIDD's own folders, ``..._real`` with ``..._mean`` (PolyU, CC), and NIND, whose clean picture is a scene's lowest ISO.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path

from jdcsuite.data import catalog, provenance
from jdcsuite.imaging.folders import walk
from jdcsuite.types import UserError

SHOWN = 5  # names that a message lists

# What a name says of the scene, so that no scene is in training and in test. The objects of PolyU come before
# several cameras; a scene is one camera's view.
_NAMES = (
    ("sidd", re.compile(r"^\d{4}_(?P<scene>\d{3})_[A-Z0-9]{2}_(?P<iso>\d{5})_\d{5}_\d{4}_[NLH]")),
    (
        "polyu",
        re.compile(r"^(?P<scene>(?:Canon|Nikon|Sony)\w*?)_[\d-]+_\d+_(?P<iso>\d+)_(?P<object>[a-z]+)_\d+$", re.I),
    ),
    ("cc", re.compile(r"^(?P<scene>(?P<setting>(?:5dmark3|d600|d800)_iso(?P<iso>\d+))_\d+)$")),
    ("nind", re.compile(r"^(?P<scene>NIND_.+)_ISO(?P<iso>H?\d+)")),
    ("iso", re.compile(r"^(?P<scene>.+)_ISO(?P<iso>H?\d+)")),  # one's own pictures, named as NIND's are
)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """``iso``: as the name says it, "" where it says none. ``source``: number of the training source."""

    noisy: Path
    clean: Path
    scene: str
    iso: str = ""
    source: int = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder below the data root, and which of its pictures. ``only``, ``without``: patterns of file names, as
    "Canon*". ``name``: what it is called in results. ``weight``: of a training source, the relative chance that a pair
    comes from it."""

    folder: str
    only: Sequence[str] = ()
    without: Sequence[str] = ()
    name: str = ""
    weight: float | None = None

    @classmethod
    def read(cls, said: str | dict) -> Source:
        """A folder's name, or a mapping of the fields above."""
        if isinstance(said, str):
            return cls(folder=said, name=said)
        known = {f.name for f in fields(cls)}
        if not isinstance(said, dict) or not isinstance(said.get("folder"), str) or not set(said) <= known:
            raise UserError(f"{said} names no pictures: give a folder, with {', '.join(sorted(known))} as you need")
        if not isinstance(said.get("name", ""), str):
            raise UserError(f"name={said['name']} of {said['folder']} is no name: give letters, or leave it out")
        said = said | {kind: patterns(kind, said[kind]) for kind in ("only", "without") if kind in said}
        weight = said.get("weight")
        if weight is not None and not (is_number(weight) and 0 <= weight < inf):
            raise UserError(f"weight={weight} of {said['folder']} is not usable: give a number, 0 or more")
        made = cls(**said)
        return made if made.name else cls(**{**said, "name": made.folder})

    def takes(self, path: Path) -> bool:
        def among(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)

        return (not self.only or among(self.only)) and not among(self.without)


def several(name: str, said: object) -> list:
    """What a configuration says under ``name``, one thing or a list of them, as a list."""
    if said is None or isinstance(said, str | dict):
        return [] if said is None else [said]
    if not isinstance(said, Sequence):
        raise UserError(f"{name}={said} is not usable: give names in brackets, as {name}=[NAME,...]")
    return list(said)


def patterns(name: str, said: object) -> list[str]:
    """Patterns of names, one or a list of them. UserError for anything else."""
    found = several(name, said)
    if not all(isinstance(pattern, str) for pattern in found):
        raise UserError(f'{name}={said} is not usable: give patterns of names, as {name}=["Canon*"]')
    return found


def weights(train: Sequence[Source], test: Sequence[Source]) -> list[float] | None:
    """Of each training source, 1 where only others say one; None where none does: all pairs alike. UserError: all are
    0, or a test source has one."""
    for source in test:
        if source.weight is not None:
            raise UserError(f"{source.name} of data.test has a weight, which only a folder of data.train can have")
    if all(source.weight is None for source in train):
        return None
    found = [1.0 if source.weight is None else float(source.weight) for source in train]
    if not any(found):
        raise UserError("every weight of data.train is 0: give at least one folder a weight above 0")
    return found


def is_number(said: object) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool)


def scene_and_iso(path: Path) -> tuple[str, str]:
    """What the name (or its folder's) says; a name that says nothing is a scene of its own, called FOLDER/NAME."""
    path = path.absolute()
    for name in (path.stem, path.parent.name):
        word = re.sub("_(real|mean)$", "", name, flags=re.I)  # halves of a pair
        for layout, pattern in _NAMES:
            if found := pattern.match(word):
                parts = found.groupdict()
                return "_".join(filter(None, (layout, parts["scene"], parts.get("object")))), parts["iso"]
    folder = path.parent.parent if path.parent.name in ("noisy", "clean") else path.parent
    return f"{folder.name}/{path.stem}", ""


def one_draw(dataset: str, image: str) -> str:
    """A name that pictures share which are one draw from what a data set could have held: those of one scene, and of
    CC, whose pictures are crops of few shots, those of one camera at one ISO. A picture of unknown kind is alone."""
    path = Path(dataset) / image
    for _, pattern in _NAMES:
        if (
            found := pattern.match(re.sub("_(real|mean)$", "", path.stem, flags=re.I))
        ) and "setting" in found.groupdict():
            return found["setting"]
    return scene_and_iso(path)[0]


def _noisy_and_clean(path: Path) -> Path | None:
    return path.parent.parent / "clean" / path.name if path.parent.name == "noisy" else None


def _real_and_mean(path: Path) -> Path | None:
    word = re.search(r"_real$", path.stem, re.I)
    return path.with_name(f"{path.stem[: word.start()]}_mean{path.suffix}") if word else None


def _is_clean(path: Path, clean_of: Callable[[Path], Path | None]) -> bool:
    """Whether a name says that the picture is the clean half of a pair. NIND's do not: its lowest ISO is."""
    if clean_of is _noisy_and_clean:
        return path.parent.name == "clean"
    if clean_of is _real_and_mean:
        return path.stem.lower().endswith("_mean")
    return clean_of is catalog.CATALOG["sidd"].clean_of and "GT_" in path.name


def _rule(folder: Path, name: str) -> Callable[[Path], Path | None]:
    if (folder / "noisy").is_dir():
        return _noisy_and_clean
    known = catalog.known(name)
    if known is not None and known.clean_of is not None:
        return known.clean_of
    own = [catalog.CATALOG[layout].clean_of for layout in ("sidd", "nind")]
    rules = [rule for rule in (own[0], _real_and_mean, own[1]) if rule is not None]
    pictures = sorted(walk(folder))
    return next((rule for rule in rules if any(rule(path) for path in pictures)), _noisy_and_clean)


def shots(folder: Path, source: Source, *, allow_unpaired: bool = False) -> list[Shot]:
    """The pairs of a folder that ``source`` takes, sorted; [] where it holds none, only plain pictures.

    UserError lists pictures without a partner; with ``allow_unpaired`` they are left out.
    """
    clean_of = _rule(folder, source.folder)
    found = [(path, clean) for path in sorted(walk(folder)) if (clean := clean_of(path)) and source.takes(path)]
    alone = [path for path, clean in found if not clean.is_file()]
    partners = {clean for _, clean in found}
    if found:
        cleans = [path for path in sorted(walk(folder)) if _is_clean(path, clean_of) and source.takes(path)]
        alone += [path for path in cleans if path not in partners]
    if alone and not allow_unpaired:
        raise UserError(
            f"{len(alone)} pictures of {folder} have no partner of the same name: "
            f"{listed([p.relative_to(folder).as_posix() for p in alone])}; "
            "add the partners, or say data.allow_unpaired=true to leave them out"
        )
    known = predenoised.pictures if (predenoised := provenance.read(folder)) else {}
    made = []
    for noisy, clean in found:
        if clean.is_file():
            scene, iso = scene_and_iso(noisy)
            if said := known.get(noisy.name):  # its source's: the folder and the name are others here
                scene, iso = said["scene"], said["iso"]
            made.append(Shot(noisy=noisy, clean=clean, scene=scene, iso=iso))
    return made


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def refuse_shared_scenes(train: Sequence[Shot], test: Sequence[Shot]) -> None:
    """UserError when a scene is in both: the test would be on what was learned."""
    shared = sorted({shot.scene for shot in train} & {shot.scene for shot in test})
    if shared:
        raise UserError(
            f"{len(shared)} scenes are in data.train and in data.test ({listed(shared)}): leave them out of one, "
            "as data.train=[{folder: NAME, without: [PATTERN]}]"
        )
