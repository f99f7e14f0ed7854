"""Folder of real noise -> its shots: a noisy image, its clean image, and the scene that both show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jdcsuite.data import catalog, provenance
from jdcsuite.data.layouts import LAYOUTS, NOISY_CLEAN, Layout, scene_and_iso
from jdcsuite.data.listing import images
from jdcsuite.data.sources import Source, listed
from jdcsuite.types import UserError


@dataclass(frozen=True, kw_only=True)
class Shot:
    """``iso``: as written in the name, "" if it has none. ``source``: index of the training source."""

    noisy: Path
    clean: Path
    scene: str
    iso: str = ""
    source: int = 0


def find_shots(folder: Path, source: Source, *, allow_unpaired: bool = False) -> list[Shot]:
    """The pairs of a folder that ``source`` takes, sorted; [] if it holds plain images only.

    UserError lists images without a partner; with ``allow_unpaired`` they are skipped.
    """
    paths = images(folder)
    layout = _layout(folder, source.folder, paths)
    taken = [path for path in paths if source.takes(path)]
    partners = {path: clean for path in taken if (clean := layout.partner(path))}
    if not partners:
        return []
    cleans = set(partners.values())
    alone = [path for path, clean in partners.items() if not clean.is_file()]
    alone += [path for path in taken if layout.is_clean(path) and path not in cleans]
    if alone and not allow_unpaired:
        raise UserError(
            f"{folder} has {len(alone)} image{'s' * (len(alone) > 1)} without a partner of the same name: "
            f"{listed([path.relative_to(folder).as_posix() for path in alone])}; "
            "add the partners, or remove these images (in a training, data.allow_unpaired=true leaves them out)"
        )
    predenoised = provenance.read(folder)
    origins = predenoised.pictures if predenoised else {}
    shots = []
    for noisy, clean in partners.items():
        if clean.is_file():
            scene, iso = scene_and_iso(noisy)
            if origin := origins.get(noisy.name):  # of the original, since `jdc predenoise` renames folder and file
                scene, iso = origin["scene"], origin["iso"]
            shots.append(Shot(noisy=noisy, clean=clean, scene=scene, iso=iso))
    return shots


def _layout(folder: Path, name: str, paths: list[Path]) -> Layout:
    if (folder / "noisy").is_dir():
        return NOISY_CLEAN
    dataset = catalog.lookup(name)
    if dataset is not None and dataset.layout is not None:
        return dataset.layout
    return next((layout for layout in LAYOUTS if any(layout.partner(path) for path in paths)), NOISY_CLEAN)
