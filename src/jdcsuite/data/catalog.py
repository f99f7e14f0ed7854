"""Name of a dataset -> its entry, or its folder below a data root.

A folder that is no known dataset is used as it is: images, or pairs as ``noisy/`` and ``clean/`` with equal names.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from jdcsuite.data.entries import ENTRIES, Dataset
from jdcsuite.imaging.folders import SUFFIXES, has_images
from jdcsuite.types import UserError

CATALOG = {entry.name: entry for entry in ENTRIES}
ALIASES = {"bsd68": "cbsd68"}


def lookup(name: str) -> Dataset | None:
    """The entry whose name a folder has, wherever it lies; None for other folders."""
    last = Path(name).name
    return CATALOG.get(ALIASES.get(last, last))


def of_scene(scene: str) -> Dataset | None:
    """The entry that a scene (`layouts.scene_and_iso`) belongs to, whatever its folder is called; None if unknown."""
    return CATALOG.get(scene.partition("_")[0])


def entry(name: str) -> Dataset:
    """UserError for an unknown name."""
    try:
        return CATALOG[ALIASES.get(name, name)]
    except KeyError:
        names = ", ".join(sorted([*CATALOG, *ALIASES]))
        raise UserError(f"{name!r} is no known dataset: choose one of {names}.") from None


def folder(root: Path | str, name: str) -> Path:
    """Folder of a known dataset, or of other images, below a data root.

    UserError if it is missing or empty, with the command that downloads it or the folders that exist.
    """
    root = Path(root).expanduser()
    path = root / name
    if has_images(path):
        return path
    if (own := ALIASES.get(name, name)) in CATALOG:
        if has_images(root / own):
            return root / own
        command = f"jdc fetch {name} --root {shlex.quote(str(root))}"
        raise UserError(f"no pictures in {path}: get them with `{command}`.")
    if path.is_dir():
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)}): put some there.")
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []
    there = f"has {', '.join(names)}" if names else "has no folders" if root.is_dir() else "does not exist"
    raise UserError(f"there is no folder {path}: {root} {there}; `jdc fetch --list` lists known datasets.")
