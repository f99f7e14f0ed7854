"""The image cache returns the pixels that were read, also after damage and with several processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import noise

from jdcsuite.data import cache as store
from jdcsuite.data.cache import ImageCache
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.read import read
from jdcsuite.types import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, (name, size) in enumerate({"a.png": (40, 50), "b.png": (33, 21), "sub/c.bmp": (64, 32)}.items()):
        Image.fromarray(noise(*size, 3, seed=i)).save(folder / name)
    return folder


def no_decoding(monkeypatch) -> None:
    monkeypatch.setattr(store, "read", lambda path: pytest.fail(f"{path} was decoded again"))


def test_cached_pixels_are_those_of_read(folder, tmp_path, monkeypatch):
    paths = image_files(folder)
    cache = ImageCache.build(paths, cache_dir=tmp_path / "cache")
    assert cache.names == ["a.png", "b.png", "sub/c.bmp"] and len(cache) == 3
    for i, path in enumerate(paths):
        np.testing.assert_array_equal(cache[i], read(path))
        assert cache.shape(i) == read(path).shape[:2]
    np.testing.assert_array_equal(cache[-1], cache[2])
    crop = cache.crop(2, 30, 5, 20)
    np.testing.assert_array_equal(crop, read(paths[2])[30:50, 5:25])
    crop[:] = 0  # a copy: does not change the cache
    assert cache.crop(2, 30, 5, 20).any()
    np.testing.assert_array_equal(cache.crop(2, 32, 0, 32), cache[2][32:])
    for i, top, left, size in [(0, 1, 0, 40), (0, -1, 0, 8), (0, 0, 43, 8), (3, 0, 0, 1)]:
        with pytest.raises(IndexError):
            cache.crop(i, top, left, size)
    with pytest.raises(IndexError):
        cache[3]
    no_decoding(monkeypatch)
    again = ImageCache.build(paths, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again[0], cache[0])
    assert sorted(p.suffix for p in (tmp_path / "cache" / "images").iterdir()) == [".json", ".lock", ".u8"]


def test_cache_of_arrays(tmp_path, monkeypatch):
    pairs = [("x", noise(9, 8, 3)), ("y", noise(8, 9, 3, seed=1)[:, ::-1])]
    cache = ImageCache.build(pairs, cache_dir=tmp_path)
    no_decoding(monkeypatch)
    assert cache.names == ["x", "y"]
    for i, (_, pixels) in enumerate(pairs):
        np.testing.assert_array_equal(cache[i], pixels)
    other = ImageCache.build([pairs[0], ("y", 255 - pairs[1][1])], cache_dir=tmp_path)
    assert other.path != cache.path
    np.testing.assert_array_equal(other[1], 255 - pairs[1][1])


def test_cache_is_rebuilt_for_changed_files_and_reused_for_moved_ones(folder, tmp_path):
    first = ImageCache.build(image_files(folder), cache_dir=tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "moved")  # keeps times
    assert ImageCache.build(image_files(tmp_path / "moved"), cache_dir=tmp_path / "cache").path == first.path
    # same name, size and time but other pixels, as in an archive of uncompressed images
    before = (folder / "sub/c.bmp").stat()
    Image.fromarray(255 - first[2]).save(folder / "sub/c.bmp")
    os.utime(folder / "sub/c.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "sub/c.bmp").stat().st_size == before.st_size
    changed = ImageCache.build(image_files(folder), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(changed[2], 255 - first[2])
    os.utime(folder / "a.png", (1, 1))
    assert ImageCache.build(image_files(folder), cache_dir=tmp_path / "cache").path != changed.path


@pytest.mark.parametrize("harm", ["cut", "longer", "byte", "zeros", "no index", "bad index", "half index"])
def test_a_damaged_cache_is_rebuilt(folder, tmp_path, harm):
    cache = ImageCache.build(image_files(folder), cache_dir=tmp_path)
    whole, index = bytearray(cache.path.read_bytes()), cache.path.with_suffix(".json")
    match harm:
        case "cut":
            cache.path.write_bytes(whole[:-1])
        case "longer":
            cache.path.write_bytes(whole + b"\0")
        case "byte":
            whole[len(whole) // 2] ^= 1
            cache.path.write_bytes(whole)
        case "zeros":
            cache.path.write_bytes(bytes(len(whole)))
        case "no index":
            index.unlink()
        case "bad index":
            index.write_text("{}")
        case "half index":
            index.write_text(index.read_text()[:-9])
    assert ImageCache._open(cache.path) is None
    again = ImageCache.build(image_files(folder), cache_dir=tmp_path)
    for i, path in enumerate(image_files(folder)):
        np.testing.assert_array_equal(again[i], read(path))
    assert json.loads(index.read_text())["names"] == cache.names


def test_cache_pickles_without_its_pixels(folder, tmp_path):
    cache = ImageCache.build(image_files(folder), cache_dir=tmp_path)
    cache[0]
    data = pickle.dumps(cache)
    assert len(data) < 2000 < cache.path.stat().st_size
    np.testing.assert_array_equal(pickle.loads(data)[2], cache[2])


def _build(paths: list[Path], cache_dir: Path, start, results) -> None:
    start.wait()
    results.put(int(ImageCache.build(paths, cache_dir=cache_dir)[1].sum()))


def test_processes_may_build_at_once(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    arguments = (image_files(folder), tmp_path / "cache", start, results)
    workers = [context.Process(target=_build, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    sums = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert set(sums) == {int(read(folder / "b.png").sum())}
    assert sorted(p.suffix for p in (tmp_path / "cache" / "images").iterdir()) == [".json", ".lock", ".u8"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*JDCSUITE_CACHE"):
        ImageCache.build(image_files(folder), cache_dir=tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache" / "images").iterdir()] == [".lock"]
    monkeypatch.undo()
    assert len(ImageCache.build(image_files(folder), cache_dir=tmp_path / "cache")) == 3


def test_build_refuses_what_read_refuses(folder, tmp_path):
    with pytest.raises(UserError, match="no pictures"):
        ImageCache.build([], cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"absent\.png"):
        ImageCache.build([*image_files(folder), folder / "absent.png"], cache_dir=tmp_path)
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:500])
    with pytest.raises(UserError, match=r"bad\.png is damaged"):
        ImageCache.build(image_files(folder), cache_dir=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="JDCSUITE_CACHE"):
        ImageCache.build([folder / "a.png"], cache_dir=tmp_path / "file")


def test_a_refused_image_may_keep_its_place(folder, tmp_path):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:500])
    paths = image_files(folder)
    for _ in range(2):
        cache = pickle.loads(pickle.dumps(ImageCache.build(paths, cache_dir=tmp_path, keep_refused=True)))
        assert cache.refused.keys() == {1} and cache.names == ["a.png", "b.png", "sub/c.bmp"]
        np.testing.assert_array_equal(cache[2], read(folder / "sub/c.bmp"))
        with pytest.raises(UserError, match=r"b\.png is damaged"):
            cache[1]
        with pytest.raises(UserError, match=r"b\.png is damaged"):  # training takes no such cache
            ImageCache.build(paths, cache_dir=tmp_path)
    for path in paths:
        path.write_bytes(b"")
    assert ImageCache.build(paths, cache_dir=tmp_path, keep_refused=True).refused.keys() == {0, 1, 2}


def test_what_a_killed_process_left_is_removed(folder, tmp_path):
    first = store.ImageCache.build(image_files(folder), cache_dir=tmp_path)
    left = first.path.with_name(f".{first.path.name}.0badc0de.part")
    left.write_bytes(b"half")
    first.path.unlink()
    store.ImageCache.build(image_files(folder), cache_dir=tmp_path)
    assert not left.exists() and first.path.is_file()


def test_jdc_cache_shows_and_clears_the_cache(folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from jdcsuite.cli.app import app

    monkeypatch.setenv("JDCSUITE_CACHE", str(tmp_path / "cache"))
    cache = store.ImageCache.build(image_files(folder))
    size = cache.path.stat().st_size
    shown = CliRunner().invoke(app, ["cache"])
    assert shown.exit_code == 0 and f"{store.folder()}: 2 files, " in shown.output and cache.path.is_file()
    with store.FileLock(cache.path.with_suffix(".lock")):
        assert store.clear() == [], "another process writes them"
    cleared = CliRunner().invoke(app, ["cache", "--clear"])
    assert cleared.exit_code == 0 and "2 files, " in cleared.output and "deleted" in cleared.output
    assert not store.files() and size > 0
    assert len(store.ImageCache.build(image_files(folder))) == len(cache)
    assert CliRunner().invoke(app, ["cache"]).output.count("2 files") == 1


def test_cache_folder_from_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JDCSUITE_CACHE", str(tmp_path / "mine"))
    assert tmp_path / "mine" in ImageCache.build(image_files(folder)).path.parents
    monkeypatch.delenv("JDCSUITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert "jdcsuite" in store.folder(None).parts


def test_require_names_the_small_pictures(folder, tmp_path):
    cache = ImageCache.build(image_files(folder), cache_dir=tmp_path)
    cache.require(21)
    with pytest.raises(UserError, match=r"^1 of 3 .* the 22 pixels of data.crop: b\.png \(33 x 21\);"):
        cache.require(22)
    many = ImageCache.build([(f"n{i}", noise(4, 4, 3)) for i in range(5)], cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"5 of 5 .* n0 \(4 x 4\), n1 .*, n2 \(4 x 4\), \.\.\.;"):
        many.require(8)


def test_progress_bar_appears_after_its_delay(folder, capsys):
    list(store._decoded(image_files(folder)))
    assert capsys.readouterr().err == ""
    list(store._decoded(image_files(folder), patience=0.0))
    err = capsys.readouterr().err
    assert "decoding pictures" in err and "3/3" in err and "/s" in err


def test_look_ahead_is_bounded():
    decoded = []

    def reader(path: Path) -> np.ndarray:
        decoded.append(path)
        return np.zeros((1, 1, 3), np.uint8)

    stream = store._decoded([Path(str(i)) for i in range(500)], reader)
    next(stream)
    assert len(decoded) < 50
    stream.close()
    assert len(decoded) < 50
