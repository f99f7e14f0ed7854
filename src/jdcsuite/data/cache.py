"""Image files -> decoded pixels in one flat file, written once, from which all processes cut crops."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jdcsuite.imaging import atomic
from jdcsuite.imaging.read import read
from jdcsuite.types import UserError

_CURE = "make room (decoded pictures may be deleted) or set JDCSUITE_CACHE to another folder"
Reader = Callable[[Path], UInt8[np.ndarray, "_ _ 3"]]


class ImageCache:
    """Decoded images in one memory-mapped file, which processes share through the page cache.

    Created by `build`. Pickled as a path and an index, so loader workers of any start method reopen the map.
    """

    def __init__(self, *, path: Path, names: list[str], shapes: list[tuple[int, int]]) -> None:
        self.path = path
        self.names = names
        self._shapes = shapes
        self._starts = [0, *itertools.accumulate(3 * h * w for h, w in shapes)]
        self.contents: list[tuple[tuple[int, int], int]] = []  # size and CRC-32 of each image's pixels
        self.refused: dict[int, str] = {}  # images that have no pixels here, and why the reader refused them
        self._pixels: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        images: Sequence[Path] | Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]],
        *,
        cache_dir: str | Path | None = None,
        reader: Reader = read,
        keep_refused: bool = False,
    ) -> ImageCache:
        """Open the cache of these files (or named arrays); if it is absent or damaged, decode them first.

        ``reader``: readers may differ in which files they refuse, not in the pixels. ``keep_refused``: a file that the
        reader refuses keeps its place, and its pixels are a UserError; such a cache is decoded each time.
        ``cache_dir``: default $JDCSUITE_CACHE, else the user's cache folder. Several processes may build at once: one
        decodes, the others wait. UserError: no images, one that the reader refuses, a full disk.
        """
        if not images:
            raise UserError("There are no pictures to load: name a folder that holds some.")
        names = _names(images)
        path, refused = folder(cache_dir) / f"{_key(names, images)}.u8", {}
        with atomic.writing(path, cure=_CURE):
            path.parent.mkdir(parents=True, exist_ok=True)
            if (cache := cls._open(path)) is not None:
                return cache
            with FileLock(path.with_suffix(".lock")):
                if (cache := cls._open(path)) is None:
                    for part in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed
                        part.unlink(missing_ok=True)
                    _write(path, names, images, partial(_empty_if_refused, reader, refused) if keep_refused else reader)
                    cache = cls._open(path, {images.index(image): reason for image, reason in refused.items()})
        if cache is None:
            raise UserError(f"{path} is not read back as it was written: set JDCSUITE_CACHE to another disk.")
        return cache

    @classmethod
    def _open(cls, path: Path, refused: dict[int, str] | None = None) -> ImageCache | None:
        """The cache at ``path``, None if it is absent, truncated or damaged, or if other images than ``refused`` are
        empty."""
        try:
            index = json.loads(path.with_suffix(".json").read_text())
            shapes = [(int(h), int(w)) for h, w in index["shapes"]]
            cache = cls(path=path, names=index["names"], shapes=shapes)
            cache.contents, cache.refused = list(zip(shapes, index["crc32"], strict=True)), refused or {}
            empty = {i for i, shape in enumerate(shapes) if shape == (0, 0)}
            if path.stat().st_size != cache._starts[-1] or empty != cache.refused.keys():
                return None
            # Checks all of a file up to 1 GiB, every k-th image of a larger one, which takes about a second.
            every = max(1, math.ceil(cache._starts[-1] / 2**30))
            checked = (i for i in range(0, len(cache), every) if i not in empty)
            intact = all(zlib.crc32(cache._view(i)) == index["crc32"][i] for i in checked)
            return cache if intact else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
            return None

    def _view(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        if i in self.refused:
            raise UserError(self.refused[i])
        if self._pixels is None:  # a plain array: slicing a np.memmap takes several times longer
            self._pixels = np.memmap(self.path, mode="r", dtype=np.uint8).view(np.ndarray)
        return self._pixels[self._starts[i] : self._starts[i + 1]].reshape(*self._shapes[i], 3)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pixels": None}

    def __len__(self) -> int:
        return len(self.names)

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of image ``i``."""
        return self._shapes[i]

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._view(range(len(self))[i]).copy()

    def crop(self, i: int, top: int, left: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """A copy of the square of ``size`` pixels at this corner; IndexError outside the image."""
        height, width = self._shapes[i]
        if not (0 <= top <= height - size and 0 <= left <= width - size):
            raise IndexError(f"{size} pixels at ({top}, {left}) are outside {self.names[i]} of {height} x {width}")
        return self._view(i)[top : top + size, left : left + size].copy()

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return self._starts[-1]

    def pixel(self, i: int, top: int, left: int) -> int:
        """Index of a pixel of image ``i`` among the pixels of all images, row by row."""
        return self._starts[i] // 3 + top * self._shapes[i][1] + left

    def require(self, side: int, *, reason: str = "data.crop") -> None:
        """UserError that names the images with a side of fewer pixels; ``reason``: what needs that many."""
        small = [f"{n} ({h} x {w})" for n, (h, w) in zip(self.names, self._shapes, strict=True) if min(h, w) < side]
        if small:
            names = ", ".join(small[:3]) + (", ..." if len(small) > 3 else "")
            smaller = f"give a smaller {reason}, or " if reason.startswith("data.") else ""
            raise UserError(
                f"{len(small)} of {len(self)} images are smaller than the {side} pixels of {reason}: {names}; "
                f"{smaller}leave these images out"
            )


def folder(given: str | Path | None = None) -> Path:
    """The folder of decoded images: ``given``, else $JDCSUITE_CACHE, else the user's cache folder."""
    if given is None:
        given = os.environ.get("JDCSUITE_CACHE")
    if not given:
        import pooch  # for each system's cache folder; takes a tenth of a second to import

        given = pooch.os_cache("jdcsuite")
    return Path(given).expanduser() / "images"


def files(given: str | Path | None = None) -> list[Path]:
    """What the cache holds: pixels, indices, and what processes left that were killed."""
    return sorted(file for file in folder(given).glob("*") if file.suffix in (".u8", ".json", ".part"))


def clear(given: str | Path | None = None) -> list[Path]:
    """Delete decoded images, but for those that a process is writing -> the deleted files. Processes that have opened
    some go on with them."""
    deleted = []
    for file in files(given):
        lock = FileLock(file.with_name(file.name.lstrip(".").partition(".")[0]).with_suffix(".lock"))
        with suppress(Timeout), lock.acquire(timeout=0):
            file.unlink(missing_ok=True)
            deleted.append(file)
    return deleted


def _empty_if_refused(reader: Reader, refused: dict[Path, str], path: Path) -> UInt8[np.ndarray, "_ _ 3"]:
    try:
        return reader(path)
    except UserError as error:
        refused[path] = str(error)
        return np.empty((0, 0, 3), np.uint8)


def _names(images: Sequence) -> list[str]:
    """Paths relative to their common folder, so that a moved folder keeps its cache; or the given names."""
    if isinstance(images[0], tuple):
        return [name for name, _ in images]
    paths = [Path(path).absolute() for path in images]
    root = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(root).as_posix() for path in paths]


def _key(names: list[str], images: Sequence) -> str:
    """SHA-256 of what decides the pixels: names, sizes, times and decoder of files, or the pixels of arrays.

    Includes 4 KB from the middle of each file, because the noisy and clean halves of an unpacked archive of BMPs may
    agree in all names, sizes and times. A file that cannot be opened is left to the reader.
    """
    digest = sha256(f"jdcsuite 1, Pillow {PIL.__version__}".encode())
    for name, image in zip(names, images, strict=True):
        if isinstance(image, tuple):
            details, content = image[1].shape, np.ascontiguousarray(image[1])
        else:
            details, content = None, b""
            with suppress(OSError), Path(image).open("rb") as file:
                stat = os.fstat(file.fileno())
                file.seek(stat.st_size // 2)
                details, content = (stat.st_size, stat.st_mtime_ns), file.read(4096)
        digest.update(json.dumps([name, details]).encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _write(path: Path, names: list[str], images: Sequence, reader: Reader) -> None:
    """Write the pixels, then the index that declares them complete."""
    shapes, checks = [], []
    with atomic.replacing(path, cure=_CURE) as part, part.open("wb") as out:
        for array in _decoded(images, reader):
            shapes.append(array.shape[:2])
            checks.append(zlib.crc32(array))
            out.write(array)
    atomic.write(path.with_suffix(".json"), json.dumps({"names": names, "shapes": shapes, "crc32": checks}).encode())


def _decoded(images: Sequence, reader: Reader = read, *, patience: float = 2.0) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """The images in order, decoded a few ahead in threads (Pillow releases the interpreter's lock).

    The look-ahead is bounded, so that a disk slower than the decoders does not fill the memory. A progress bar appears
    after ``patience`` seconds.
    """
    workers = min(8, os.cpu_count() or 1)
    bar = Progress(
        TextColumn("decoding pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task, start = bar.add_task("", total=len(images), rate=""), time.monotonic()

    def load(image: Path | tuple) -> np.ndarray:
        return np.ascontiguousarray(image[1] if isinstance(image, tuple) else reader(image))

    try:
        with ThreadPoolExecutor(workers) as pool:
            queue = iter(images)
            pending = deque(pool.submit(load, image) for image in itertools.islice(queue, 2 * workers))
            for done in range(1, len(images) + 1):
                array = pending.popleft().result()
                pending.extend(pool.submit(load, image) for image in itertools.islice(queue, 1))
                yield array
                elapsed = time.monotonic() - start
                bar.update(task, advance=1, rate=f"{done / max(elapsed, 1e-9):.1f}/s")
                if elapsed > patience and not bar.live.is_started:
                    bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()
