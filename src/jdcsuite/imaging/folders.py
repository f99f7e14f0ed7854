"""A folder -> the image files in it and its subfolders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jdcsuite.types import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def walk(folder: Path) -> Iterator[Path]:
    """Image files at or below a folder, in no particular order; none where the folder does not exist.

    Hidden files and folders are skipped: they are temporary files, or copies of names that macOS leaves behind.
    """
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def has_images(folder: Path) -> bool:
    return folder.is_dir() and next(walk(folder), None) is not None


def image_files(folder: str | Path) -> list[Path]:
    """Image files at or below a folder, sorted. UserError: no such folder, or no image in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"The image folder {folder} does not exist: check the path, or fetch the data first.")
    paths = sorted(walk(folder))
    if not paths:
        suffixes = " ".join(SUFFIXES)
        raise UserError(f"The image folder {folder} holds no image ({suffixes}): fill it or name another one.")
    return paths
