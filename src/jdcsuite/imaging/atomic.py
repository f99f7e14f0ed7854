"""Bytes, or a library that writes files itself -> a complete file under its name, or no file: the one atomic writer.

A reader never sees a partial file, and writers of the same file at the same time do not share a temporary one. Where
two writers must not work at the same time at all, `alone` refuses the second.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from jdcsuite.types import UserError

CURE = "make room or choose another place"


def write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``. UserError as `replacing`."""
    with replacing(path) as part:
        part.write_bytes(data)


def check(path: Path) -> None:
    """UserError unless ``path`` is free or a regular file: a device, a pipe or the target of a link is not replaced."""
    try:
        is_link, exists, is_file = path.is_symlink(), path.exists(), path.is_file()
    except OSError:  # writing reports it
        return
    if is_link or (exists and not is_file):
        kind = "a link" if is_link else "a folder" if path.is_dir() else "a device or pipe"
        raise UserError(f"{path} is {kind}, which is not replaced: choose another place")


@contextmanager
def replacing(path: Path, *, cure: str = CURE) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the body succeeds, sync that file to disk and rename it to
    ``path``, otherwise remove it.

    The temporary name is hidden and ends in ".part", so numpy and Pillow, which go by the suffix, need an open file or
    a format. UserError: ``path`` as in `check`; an OSError of the body or of the renaming, with ``cure`` as advice.
    """
    check(path)
    stem = path.name.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")  # file systems count bytes, up to 255
    part = path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.part")
    with writing(path, cure=cure):
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            with suppress(OSError):  # if the disk is gone, the first error is the one to report
                part.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a name is one of `replacing`'s temporary files."""
    return path.name.startswith(".") and path.suffix == ".part"


def clean(folder: Path) -> None:
    """Remove the temporary files of killed processes, anywhere in ``folder``, to which nobody else writes now."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, cure: str = CURE) -> Iterator[None]:
    """Report an OSError of the body as a UserError that names ``path`` and ends in ``cure``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {cure}.") from error


@contextmanager
def alone(lock_file: Path, *, busy: str) -> Iterator[None]:
    """Hold a lock during the body, without waiting for it. UserError ``busy``: another process holds it.

    On a file system without locks (some network mounts) the body runs without one: there, two writers at once are the
    rarer harm than a command that never works.
    """
    lock = FileLock(lock_file)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(busy) from None
    try:
        yield
    finally:
        lock.release()
