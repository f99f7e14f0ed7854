"""Downloaded files of a dataset -> its folder, ready to be moved into place."""

from __future__ import annotations

import gzip
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
from rich.filesize import decimal

from jdcsuite.data.download import require_space
from jdcsuite.data.entries import Dataset
from jdcsuite.imaging.folders import has_images
from jdcsuite.types import UserError

# Images are compressed already: an archive or array that grows by more than this factor is a bomb.
INFLATION, ARRAY_INFLATION = 20, 4
CHUNK = 1 << 20  # bytes that are inflated at a time to count them
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)


def assemble(entry: Dataset, stage: Path) -> Path:
    """Make the dataset's folder from its files in ``stage``; a file that cannot be read is removed."""
    ready = stage / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    for path in [stage / file.name for file in entry.files]:
        try:
            if path.name.endswith(ARCHIVES):
                _unpack(path, entry.inside, ready)
            elif path.suffix == ".mat":
                _unpack_blocks(path, ready)
            else:
                ready.mkdir(exist_ok=True)
                shutil.copyfile(path, ready / path.name)
        except UNREADABLE as error:
            path.unlink()
            raise UserError(
                f"{path.name} is not what was expected ({error}) and was removed: look at its address in a "
                "browser, and name a mirror with --base-url if it moved."
            ) from None
        except RuntimeError as error:  # zipfile: unknown compression, or a password
            raise UserError(f"{path} cannot be unpacked here ({error}): unpack it by hand.") from None
    if not has_images(ready):
        raise UserError(f"{entry.name} came without pictures: look at {stage}.")
    return ready


def _unpack(path: Path, inside: str, ready: Path) -> None:
    """Unpack an archive so that the contents of its folder ``inside`` are in ``ready``."""
    try:
        size = _check(path)
    except UserError:
        path.unlink()
        raise
    require_space(path.parent, size, what=f"unpacking {path.name}")
    raw = path.with_name("raw")
    shutil.rmtree(raw, ignore_errors=True)
    unpacker = pooch.Unzip if path.suffix == ".zip" else pooch.Untar
    unpacker(members=[inside] if inside else None, extract_dir=raw.name)(str(path), "download", None)
    shutil.rmtree(raw / "__MACOSX", ignore_errors=True)  # copies of the names, without images
    if not (raw / inside).is_dir():
        raise UserError(f"{path.name} has no folder {inside}, so it changed: unpack {path} by hand.")
    (raw / inside).replace(ready)


def _check(path: Path) -> int:
    """Unpacked size of an archive. UserError if it would write outside its folder, has links or devices, or is a
    bomb; that is decided without unpacking it to memory or disk."""
    if path.suffix in (".gz", ".tgz"):
        with gzip.open(path) as stream:  # also headers of its members may be large
            _inflated(map(len, iter(lambda: stream.read(CHUNK), b"")), path, INFLATION)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            kinds = {0, stat.S_IFREG, stat.S_IFDIR}  # 0: packed without Unix modes
            members = [(m.filename, m.file_size, m.external_attr >> 16) for m in archive.infolist()]
            members = [(name, size, stat.S_IFMT(mode) in kinds) for name, size, mode in members]
    else:
        with tarfile.open(path) as archive:
            members = [(m.name, m.size, m.isfile() or m.isdir()) for m in archive]
    for name, _, plain in members:
        posix = PurePosixPath(name.replace("\\", "/"))
        if not plain or posix.is_absolute() or ".." in posix.parts or PureWindowsPath(name).drive:
            raise UserError(f"{path.name} is unsafe to unpack because of {name!r}: tell its publisher.")
    return _inflated((size for _, size, _ in members), path, INFLATION)


def _inflated(sizes: Iterable[int], path: Path, factor: int) -> int:
    """Sum of the sizes of the parts of a file. UserError once it is more than ``factor`` times the size of the file."""
    most, total = factor * path.stat().st_size + (1 << 20), 0
    for size in sizes:
        total += size
        if total > most:
            raise UserError(
                f"{path.name} would grow to {decimal(total)} or more, which no images do: tell its publisher."
            )
    return total


def _matlab_parts(path: Path) -> Iterator[bytes]:
    """The inflated contents of a MATLAB 5 file, in chunks: after a header of 128 bytes its elements, each with a tag of
    its type (15: zlib) and length."""
    with path.open("rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            inflate = zlib.decompressobj()
            while length > 0 and (data := file.read(min(length, CHUNK))):
                length -= len(data)
                while data and kind == 15:
                    yield inflate.decompress(data, CHUNK)
                    data = inflate.unconsumed_tail


def _unpack_blocks(path: Path, ready: Path) -> None:
    """SIDD's blocks, a MATLAB array of uint8 (image, block, height, width, 3) -> ``noisy/`` or ``clean/``
    IMAGE_BLOCK.png."""
    from PIL import Image
    from scipy.io import loadmat  # these files hold plain arrays; nothing in them is executed

    try:
        _inflated(map(len, _matlab_parts(path)), path, ARRAY_INFLATION)
        (blocks,) = (value for key, value in loadmat(path).items() if not key.startswith("__"))
    except UserError:
        path.unlink()
        raise
    except Exception as error:  # loadmat raises nearly any type
        raise ValueError(f"no MATLAB file with one array: {error}") from None
    if blocks.ndim != 5 or blocks.dtype != "uint8":
        raise ValueError(f"blocks are {blocks.dtype} {blocks.shape}")
    folder = ready / ("noisy" if "Noisy" in path.name else "clean")
    folder.mkdir(parents=True)
    for i, image in enumerate(blocks):
        for j, block in enumerate(image):
            Image.fromarray(block).save(folder / f"{i:02d}_{j:02d}.png")
