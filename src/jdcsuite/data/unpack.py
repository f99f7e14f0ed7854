"""Downloaded files of a dataset -> its folder, ready to be moved into place."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
from rich.filesize import decimal

from jdcsuite.data.download import require_space
from jdcsuite.data.entries import Dataset
from jdcsuite.imaging.folders import has_images
from jdcsuite.types import UserError

INFLATION = 20  # images are compressed already: an archive that grows more than this is a bomb
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
    bomb."""
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
    size = sum(size for _, size, _ in members)
    if size > INFLATION * path.stat().st_size + (1 << 20):
        raise UserError(f"{path.name} would grow to {decimal(size)}, which no pictures do: tell its publisher.")
    return size


def _unpack_blocks(path: Path, ready: Path) -> None:
    """SIDD's blocks, a MATLAB array of uint8 (image, block, height, width, 3) -> ``noisy/`` or ``clean/``
    IMAGE_BLOCK.png."""
    from PIL import Image
    from scipy.io import loadmat  # these files hold plain arrays; nothing in them is executed

    try:
        (blocks,) = (value for key, value in loadmat(path).items() if not key.startswith("__"))
    except Exception as error:  # loadmat raises nearly any type
        raise ValueError(f"no MATLAB file with one array: {error}") from None
    if blocks.ndim != 5 or blocks.dtype != "uint8":
        raise ValueError(f"blocks are {blocks.dtype} {blocks.shape}")
    folder = ready / ("noisy" if "Noisy" in path.name else "clean")
    folder.mkdir(parents=True)
    for i, image in enumerate(blocks):
        for j, block in enumerate(image):
            Image.fromarray(block).save(folder / f"{i:02d}_{j:02d}.png")
