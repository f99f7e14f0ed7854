"""A file is written completely or not at all, and nothing temporary is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from jdcsuite.imaging import atomic
from jdcsuite.types import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_replaces_or_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"x\.png cannot be written \(No space left on device\): make room"):
        atomic.write(path, b"new")
    assert names(tmp_path) == ["x.png"] and path.read_bytes() == b"old"
    monkeypatch.undo()
    atomic.write(path, b"new")
    assert names(tmp_path) == ["x.png"] and path.read_bytes() == b"new"
    with pytest.raises(UserError, match="cannot be written"):
        atomic.write(tmp_path / "absent" / "x.png", b"new")


def test_a_library_writes_into_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    with atomic.replacing(path) as part, part.open("wb") as out:
        np.savez(out, scores=np.arange(3))
        assert names(tmp_path) == [part.name]
    assert names(tmp_path) == ["scores.npz"] and np.load(path)["scores"].tolist() == [0, 1, 2]


def test_a_body_that_fails_leaves_the_old_file_and_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as part:
        part.write_text("half")
        _ = 1 / 0
    assert names(tmp_path) == ["x.csv"] and path.read_text() == "old"
    with pytest.raises(UserError, match="the advice"), atomic.replacing(path, cure="the advice"):
        raise OSError("gone")


def test_two_writers_of_one_file_share_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic.replacing(path) as first, atomic.replacing(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert names(tmp_path) == ["x"] and path.read_bytes() == b"first", "the last to finish stays"


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    """`--force` used to put a file in the place of /dev/null."""
    path, target = tmp_path / "x", tmp_path / "target"
    match kind:
        case "link":
            target.write_bytes(b"mine")
            path.symlink_to(target)
        case "broken link":
            path.symlink_to(target)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path = Path(os.devnull)
    before = path.lstat()
    with pytest.raises(UserError, match="which is not replaced: choose another place"):
        atomic.write(path, b"new")
    assert os.path.samestat(path.lstat(), before) and not list(tmp_path.glob(".*"))
    assert kind != "link" or target.read_bytes() == b"mine"


def test_names_as_long_as_the_file_system_allows_are_written(tmp_path: Path) -> None:
    for name in ("字" * 81 + ".jdc", "x" * 251 + ".png", "\udcff" * 100 + ".jdc"):  # the last: bytes that are no UTF-8
        atomic.write(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_second_writer_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    first, second = (atomic.alone(tmp_path / "lock", busy="wait") for _ in range(2))
    with first, pytest.raises(UserError, match="wait"), second:
        raise AssertionError("two at once")
    entered = False
    with atomic.alone(tmp_path / "lock", busy="wait"):
        entered = True
    assert entered


@pytest.mark.parametrize("error", [OSError("no locks"), NotImplementedError("no locks")])
def test_a_file_system_without_locks_prevents_no_work(tmp_path: Path, monkeypatch, error: Exception) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(atomic.FileLock, "acquire", fail)
    entered = False
    with atomic.alone(tmp_path / "lock", busy="wait"):
        entered = True
    assert entered
    with pytest.raises(KeyError), atomic.alone(tmp_path / "lock", busy="wait"):  # errors of the work stay its own
        raise KeyError
