"""Name of an image file -> its clean partner, its scene and its ISO: one object for each known arrangement of pairs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from math import inf
from pathlib import Path
from typing import NamedTuple

from jdcsuite.imaging.folders import SUFFIXES


class Scene(NamedTuple):
    """``name``: scene, with the dataset's prefix. ``iso``: as written in the file name. ``setting``: camera and ISO,
    where several scenes are crops of one shot; else ""."""

    name: str
    iso: str
    setting: str = ""


class Layout(ABC):
    """How the pairs of a dataset are arranged, and how its images are named.

    ``names``: (prefix, pattern of a file name without suffix). Groups of a pattern: scene; iso; object, where a scene
    is one camera's view of one of several objects; setting, as in `Scene`.
    """

    names: tuple[tuple[str, re.Pattern[str]], ...] = ()

    @abstractmethod
    def partner(self, path: Path) -> Path | None:
        """Path of the clean version of a noisy image, None for an image that is not noisy."""

    def is_clean(self, path: Path) -> bool:
        """Whether the name alone says that the image is the clean half of a pair."""
        return False

    def scene(self, stem: str) -> Scene | None:
        """What the name says; None if it is not a name of this dataset."""
        for prefix, pattern in self.names:
            if match := pattern.match(stem):
                groups = match.groupdict()
                name = "_".join(filter(None, (prefix, groups["scene"], groups.get("object"))))
                return Scene(name, groups["iso"], groups.get("setting") or "")
        return None


class NoisyClean(Layout):
    """``noisy/`` and ``clean/`` with equal names, whatever they are called: crops of SIDD, PolyU and CC, own pairs."""

    def partner(self, path: Path) -> Path | None:
        return path.parent.parent / "clean" / path.name if path.parent.name == "noisy" else None

    def is_clean(self, path: Path) -> bool:
        return path.parent.name == "clean"


class Sidd(Layout):
    """SIDD's own folders: NOISY_SRGB_010.PNG beside GT_SRGB_010.PNG."""

    names = (("sidd", re.compile(r"^\d{4}_(?P<scene>\d{3})_[A-Z0-9]{2}_(?P<iso>\d{5})_\d{5}_\d{4}_[NLH]")),)

    def partner(self, path: Path) -> Path | None:
        return path.with_name(path.name.replace("NOISY_", "GT_")) if "NOISY_" in path.name else None

    def is_clean(self, path: Path) -> bool:
        return "GT_" in path.name


class RealMean(Layout):
    """PolyU and CC: ``..._real`` beside ``..._mean``. PolyU's objects were taken by several cameras; a scene is one
    camera's view. CC's images are crops of few shots."""

    names = (
        (
            "polyu",
            re.compile(r"^(?P<scene>(?:Canon|Nikon|Sony)\w*?)_[\d-]+_\d+_(?P<iso>\d+)_(?P<object>[a-z]+)_\d+$", re.I),
        ),
        ("cc", re.compile(r"^(?P<scene>(?P<setting>(?:5dmark3|d600|d800)_iso(?P<iso>\d+))_\d+)$")),
    )

    def partner(self, path: Path) -> Path | None:
        half = re.search(r"_real$", path.stem, re.I)
        return path.with_name(f"{path.stem[: half.start()]}_mean{path.suffix}") if half else None

    def is_clean(self, path: Path) -> bool:
        return path.stem.lower().endswith("_mean")


class Nind(Layout):
    """NIND, and own images named alike: SCENE_ISO200.png, SCENE_ISO6400.png, ... in one folder.

    The clean image is the scene's lowest ISO, as in the JDC paper; its repeats ("ISO200-2") are not noisy images.
    ISOH1, ISOH2, ... are above the camera's highest numbered ISO.
    """

    names = (
        ("nind", re.compile(r"^(?P<scene>NIND_.+)_ISO(?P<iso>H?\d+)")),
        ("iso", re.compile(r"^(?P<scene>.+)_ISO(?P<iso>H?\d+)")),
    )

    def partner(self, path: Path) -> Path | None:
        scene, marker, _ = path.name.partition("_ISO")
        if not marker:
            return None
        shots = (p for p in path.parent.iterdir() if p.name.startswith(f"{scene}_ISO"))
        base = min(sorted(p for p in shots if p.suffix.lower() in SUFFIXES), key=lambda p: (self._iso(p), len(p.name)))
        return base if self._iso(path) > self._iso(base) else None

    @staticmethod
    def _iso(path: Path) -> float:
        number = re.search(r"_ISO(\d+)", path.name)
        return float(number[1]) if number else inf


NOISY_CLEAN, SIDD, REAL_MEAN, NIND = NoisyClean(), Sidd(), RealMean(), Nind()
LAYOUTS = (SIDD, REAL_MEAN, NIND, NOISY_CLEAN)  # in the order in which an unknown folder is tried


def scene_of(stem: str) -> Scene | None:
    """What the name of an image, with or without the suffix of a half of a pair, says in any layout."""
    stem = re.sub("_(real|mean)$", "", stem, flags=re.I)
    return next((scene for layout in LAYOUTS if (scene := layout.scene(stem))), None)


def scene_and_iso(path: Path) -> tuple[str, str]:
    """Scene and ISO according to the name of an image or of its folder. An image of unknown naming is a scene by
    itself, called FOLDER/NAME, with ISO ""."""
    path = path.absolute()
    if scene := scene_of(path.stem) or scene_of(path.parent.name):
        return scene.name, scene.iso
    folder = path.parent.parent if path.parent.name in ("noisy", "clean") else path.parent
    return f"{folder.name}/{path.stem}", ""


def one_draw(dataset: str, image: str) -> str:
    """Name of the independent draw that an image of a dataset belongs to, for confidence intervals: its scene, or for
    CC, whose images are crops of few shots, the camera and ISO."""
    path = Path(dataset) / image
    scene = scene_of(path.stem)
    return scene.setting if scene and scene.setting else scene_and_iso(path)[0]
