"""One walk finds all images of a folder and says which files it leaves out, and why."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_images import RGB

from jdcsuite.data import listing
from jdcsuite.imaging import folders
from jdcsuite.imaging.folders import scan
from jdcsuite.imaging.picture import Picture
from jdcsuite.types import UserError


def touched(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in scan(folder).images]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touched(tmp_path, "real/a.png", "real/deep/b.png", "set/c.png")
    (tmp_path / "set/noisy").symlink_to("../real")  # two links to one folder are two folders
    (tmp_path / "set/clean").symlink_to("../real")
    (tmp_path / "set/d.png").symlink_to("../real/a.png")
    expected = ["c.png", "clean/a.png", "clean/deep/b.png", "d.png", "noisy/a.png", "noisy/deep/b.png"]
    assert names(tmp_path / "set") == expected
    (tmp_path / "whole").symlink_to("set")
    assert names(tmp_path / "whole") == expected and folders.has_images(tmp_path / "whole")


def test_loops_of_links_end(tmp_path: Path) -> None:
    touched(tmp_path, "set/a.png", "set/deep/b.png", "other/c.png")
    (tmp_path / "set/deep/up").symlink_to("..")
    (tmp_path / "set/deep/self").symlink_to("self")
    (tmp_path / "set/other").symlink_to("../other")
    (tmp_path / "other/back").symlink_to("../set")
    assert names(tmp_path / "set") == ["a.png", "deep/b.png", "other/c.png"]


def test_every_jpeg_suffix_is_taken_and_read(tmp_path: Path) -> None:
    for suffix in ("jpe", "JFIF", "jpeg"):
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", "JPEG")
    assert [Picture.read(path).pixels.shape for path in scan(tmp_path).images] == [RGB.shape] * 3


def test_files_that_are_left_out_are_counted_by_reason(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "b.GIF", "sub/c.gif", "d.heic", "e.dng", "notes.txt", "README", ".f.png", "._g.png")
    (tmp_path / "h.png").symlink_to("absent.png")
    os.mkfifo(tmp_path / "i.png")
    result = scan(tmp_path)
    assert [path.name for path in result.images] == ["a.png"]
    assert {item.path.name: item.reason for item in result.left_out} == {
        ".f.png": "hidden", "README": "without suffix", "b.GIF": ".gif", "c.gif": ".gif", "d.heic": ".heic",
        "e.dng": ".dng", "h.png": "broken link", "i.png": "not a regular file", "notes.txt": ".txt",
    }  # fmt: skip
    assert result.summary().startswith("9 files left out: 2 .gif, 1 ")
    assert result.summary(images_only=True).startswith("7 files left out: 2 .gif, 1 ")
    assert scan(tmp_path, suffixes=(".gif",)).images == [tmp_path / "b.GIF", tmp_path / "sub/c.gif"]


def test_nothing_left_out_gives_no_summary(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    assert scan(tmp_path).summary() == ""


def test_unreadable_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path, "a.png", "locked/b.png")
    opened = os.scandir

    def refusing(path: Path):
        if Path(path).name == "locked":  # as root, permissions would not be enough
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = scan(tmp_path)
    assert [path.name for path in result.images] == ["a.png"]
    assert result.summary(images_only=True) == "1 file left out: 1 unreadable folder"


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path: Path) -> None:
    touched(tmp_path, "a.gif", "b.gif")
    with pytest.raises(UserError, match=r"2 files left out: 2 \.gif"):
        scan(tmp_path)
    assert scan(tmp_path, required=False).images == []


def test_data_folders_report_images_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touched(tmp_path, "a.png", "b.gif", "notes.txt")
    assert listing.images(tmp_path) == [tmp_path / "a.png"]
    assert "1 file left out: 1 .gif" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(tmp_path)
    touched(tmp_path, "c.png", "notes.txt")
    assert listing.images(tmp_path) == [tmp_path / "c.png"] and not capsys.readouterr().out
