"""Downloaded archives become folders of images; unsafe archives are refused."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from dataset_server import fetch, png, tarred, zipped
from PIL import Image

from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.imaging.folders import walk
from jdcsuite.types import UserError

pytest_plugins = ("dataset_server",)


@pytest.mark.parametrize("pack", ["toy.zip", "toy.tar", "toy.tar.gz"])
def test_archive_gives_the_inner_folder(pack, server, known, tmp_path):
    members = {"top/hr/a.png": png(1), "top/hr/b.png": png(2), "top/noisy/a.png": png(3), "README": b"text"}
    body = zipped(members) if pack.endswith("zip") else tarred(members, mode="w" if pack.endswith("r") else "w:gz")
    known("toy", {pack: body}, inside="top/hr")
    path = fetch("toy", tmp_path)
    assert {p.name: p.read_bytes() for p in path.rglob("*")} == {"a.png": png(1), "b.png": png(2)}
    assert not (tmp_path / ".fetch" / "toy").exists(), "the archive was not removed"


def test_macos_metadata_is_skipped(known, tmp_path):
    known("toy", {"toy.zip": zipped({"a.png": png(1), "__MACOSX/a.png": b"junk", "._a.png": b"junk"})})
    assert [p.name for p in walk(fetch("toy", tmp_path))] == ["a.png"]


UNSAFE = {
    "up.zip": zipped({"../evil.png": png(1)}),
    "deep.zip": zipped({"a/../../evil.png": png(1)}),
    "root.zip": zipped({"/evil.png": png(1)}),
    "dos.zip": zipped({"..\\evil.png": png(1)}),
    "drive.zip": zipped({"C:evil.png": png(1)}),
    "up.tar": tarred({"../evil.png": png(1)}, mode="w"),
    "up.tar.gz": tarred({"../evil.png": png(1)}),
    "link.tar.gz": tarred({"a.png": png(1)}, link=("out", "/etc")),
}


@pytest.mark.parametrize("pack", UNSAFE)
def test_unsafe_archive_is_refused(pack, known, tmp_path):
    root = tmp_path / "deep" / "er" / "data"
    known("toy", {pack: UNSAFE[pack]})
    with pytest.raises(UserError, match=f"{pack} is unsafe to unpack"):
        fetch("toy", root)
    assert not list(tmp_path.rglob("*.png")) and not (root / "toy").exists()
    assert not (root / ".fetch" / "toy" / pack).exists()


def test_symbolic_link_in_a_zip_is_refused(known, tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("out")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    known("toy", {"link.zip": out.getvalue()})
    with pytest.raises(UserError, match="unsafe to unpack because of 'out'"):
        fetch("toy", tmp_path)


def matlab(array: np.ndarray) -> bytes:
    scipy_io = pytest.importorskip("scipy.io")
    out = io.BytesIO()
    scipy_io.savemat(out, {"blocks": array}, do_compression=True)
    return out.getvalue()


def large_header() -> bytes:
    """An archive whose member has no contents, but 60 MB of attributes, which tarfile reads at once."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "a" * 60_000_000}
        archive.addfile(info)
    return out.getvalue()


BOMBS = {
    "bomb.zip": lambda: zipped({"a.png": bytes(60 << 20)}),
    "bomb.tar.gz": lambda: tarred({"a.png": bytes(60 << 20)}),
    "header.tgz": large_header,
    "ValidationNoisyBlocksSrgb.mat": lambda: matlab(np.zeros((4, 4, 1024, 1280, 3), np.uint8)),
}


@pytest.mark.parametrize("pack", BOMBS)
def test_bomb_is_refused_before_it_takes_memory_or_disk(pack, known, tmp_path):
    known("toy", {pack: BOMBS[pack]()})
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"{pack} would grow to \d+\.\d MB or more"):
            fetch("toy", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob(pack))


def test_changed_layout_names_the_missing_folder(known, tmp_path):
    known("toy", {"toy.zip": zipped({"else/a.png": png(1)})}, inside="top")
    with pytest.raises(UserError, match=r"toy\.zip has no folder top"):
        fetch("toy", tmp_path)
    assert not (tmp_path / "toy").exists()


def test_sidd_blocks_become_pairs(known, monkeypatch, tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    blocks = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 8, 8, 3), dtype=np.uint8)
    bodies = {}
    for side, value in zip(("Noisy", "Gt"), blocks, strict=True):
        out = io.BytesIO()
        scipy_io.savemat(out, {f"Validation{side}BlocksSrgb": value}, do_compression=True)
        bodies[f"Validation{side}BlocksSrgb.mat"] = out.getvalue()
    known("toy", bodies, checksum=False)
    shots = find_shots(fetch("toy", tmp_path), Source(folder="toy"))
    assert len(shots) == 6
    assert shots[4].noisy.name == shots[4].clean.name == "01_01.png"
    for path, side in zip((shots[4].noisy, shots[4].clean), blocks, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), side[1, 1])
