"""A folder -> the image files in it and its subfolders, and the files that are left out with the reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jdcsuite.types import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp")
# Images that a user may expect to be read: other formats of photographs, and camera raw files.
_FORMATS = "gif heic heif avif jxl jp2 j2k mpo psd exr hdr dds tga pbm pgm ppm pnm ico svg apng dib fits czi lsm nd2"
_RAW = "dng nef nrw cr2 cr3 crw arw srf sr2 orf rw2 raf pef raw rwl srw 3fr iiq"
_OTHER_IMAGES = frozenset(f".{name}" for name in f"{_FORMATS} {_RAW}".split())
_SHOWN = 8  # reasons that a summary lists


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """``reason``: suffix or state, as a summary counts it. ``is_image``: by its name, or an unreadable folder."""

    path: Path
    reason: str
    is_image: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    """``images``: files with the wanted suffixes, sorted. ``left_out``: all others that are not hidden, sorted."""

    images: list[Path]
    left_out: list[LeftOut]

    def summary(self, *, images_only: bool = False) -> str:
        """What was left out, as "3 files left out: 2 .gif, 1 unreadable folder"; "" if nothing. ``images_only``: do not
        count files that are no images by their name."""
        reasons = Counter(item.reason for item in self.left_out if item.is_image or not images_only)
        if not (total := reasons.total()):
            return ""
        listed = [f"{count} {reason}" for reason, count in reasons.most_common(_SHOWN)]
        more = ["..."] if len(reasons) > _SHOWN else []
        return f"{total} file{'s' * (total > 1)} left out: {', '.join(listed + more)}"


def scan(folder: str | Path, *, suffixes: Sequence[str] = SUFFIXES, required: bool = True) -> Scan:
    """All files at or below a folder; links to folders are followed. UserError: no such folder, or, where images are
    ``required``, none in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"The image folder {folder} does not exist: check the path, or fetch the data first.")
    files = sorted(_files(folder, suffixes), key=lambda file: file[0])
    left_out = [
        LeftOut(path=path, reason=reason, is_image=is_image) for path, reason, is_image in files if reason is not None
    ]
    result = Scan(images=[path for path, reason, _ in files if reason is None], left_out=left_out)
    if required and not result.images:
        rest = f"; {summary}" if (summary := result.summary()) else ""
        raise UserError(
            f"The image folder {folder} holds no image ({' '.join(suffixes)}{rest}): fill it or name another one."
        )
    return result


def printable(name: str) -> str:
    """A file name as text; bytes that are no UTF-8 are written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def walk(folder: Path) -> Iterator[Path]:
    """Image files at or below a folder, in no particular order; none where the folder does not exist."""
    return (path for path, reason, _ in _files(folder, SUFFIXES) if reason is None)


def has_images(folder: Path) -> bool:
    return folder.is_dir() and next(walk(folder), None) is not None


def image_files(folder: str | Path) -> list[Path]:
    """Image files at or below a folder, sorted. UserError: no such folder, or no image in it."""
    return scan(folder).images


def _files(
    folder: Path, suffixes: Sequence[str], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, str | None, bool]]:
    """(file, why it is left out, whether its name is an image's) of all files; the reason is None for a file that is
    taken. ``above``: device and inode of the folders above, which a link below them does not enter again.

    Hidden folders are skipped, and hidden files but for images: they are temporary files, or copies of names that macOS
    leaves behind.
    """
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            paths = [folder / entry.name for entry in entries]
    except FileNotFoundError:
        return
    except OSError:
        yield folder, "unreadable folder", True
        return
    for path in paths:
        hidden, suffix = path.name.startswith("."), path.suffix.lower()
        is_image = suffix in suffixes or suffix in SUFFIXES or suffix in _OTHER_IMAGES
        if path.is_dir():
            if not hidden:
                yield from _files(path, suffixes, above | {(status.st_dev, status.st_ino)})
        elif hidden:
            if is_image and not path.name.startswith("._"):
                yield path, "hidden", True
        elif not path.is_file():
            yield path, "broken link" if path.is_symlink() else "not a regular file", is_image
        else:
            yield path, None if suffix in suffixes else suffix or "without suffix", is_image
