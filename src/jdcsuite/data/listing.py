"""Data folder -> its image files; files that look like images and are not read are reported."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path

from rich.console import Console

from jdcsuite.imaging import folders


def images(folder: Path, *, required: bool = False) -> list[Path]:
    """As `folders.scan`, which also says what raises; one line about images that are left out."""
    scan = folders.scan(folder, required=required)
    if summary := scan.summary(images_only=True):
        report(f"{folders.printable(str(folder))}: {summary}")
    return scan.images


@once
def report(message: str) -> None:
    """Print a message once per process, however many jobs share the data."""
    Console().print(message, highlight=False, markup=False)
