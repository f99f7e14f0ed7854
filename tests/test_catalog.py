"""Names of datasets and folders, and the entries of the catalogue."""

from __future__ import annotations

import re

import pytest
from dataset_server import fetch, png

from jdcsuite.data import catalog
from jdcsuite.data import fetch as fetching
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.data.unpack import ARCHIVES
from jdcsuite.types import UserError

pytest_plugins = ("dataset_server",)


def test_datasets_without_download_say_what_to_do(tmp_path):
    for name in ("nind", "featured_pictures"):
        with pytest.raises(UserError, match=rf"commons\.wikimedia\.org.*{tmp_path / name}/"):
            fetch(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_names_and_missing_folders_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'kodak' is no known dataset: choose one of .*kodak24"):
        fetch("kodak", tmp_path)
    root = tmp_path / "my data"
    with pytest.raises(UserError, match="does not exist"):
        catalog.folder(root, "mine")
    for name in ("mine", "empty"):
        (root / name).mkdir(parents=True)
    (root / "mine" / "a.PNG").write_bytes(png(1))
    assert catalog.folder(root, "mine") == root / "mine"
    with pytest.raises(UserError, match=rf"no folder {root}/their: .*has empty, mine;"):
        catalog.folder(root, "their")
    with pytest.raises(UserError, match=r"empty holds no pictures"):
        catalog.folder(root, "empty")
    with pytest.raises(UserError, match=rf"`jdc fetch bsd68 --root '{root}'`"):
        catalog.folder(root, "bsd68")
    (root / "kodak24").mkdir()
    with pytest.raises(UserError, match="`jdc fetch kodak24"):
        catalog.folder(root, "kodak24")


def test_alias_finds_the_folder(tmp_path):
    (tmp_path / "cbsd68").mkdir()
    (tmp_path / "cbsd68" / "a.png").write_bytes(png(1))
    assert catalog.folder(tmp_path, "bsd68") == catalog.folder(tmp_path, "cbsd68") == tmp_path / "cbsd68"


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("mine", ["noisy/a.png", "clean/a.png", "b.png"], [("noisy/a.png", "clean/a.png")]),
        (
            "sidd",
            ["s/NOISY_SRGB_010.PNG", "s/GT_SRGB_010.PNG"],
            [("s/NOISY_SRGB_010.PNG", "s/GT_SRGB_010.PNG")],
        ),
        ("sidd", ["noisy/a.png", "clean/a.png"], [("noisy/a.png", "clean/a.png")]),
        (
            "nind",
            [f"s/NIND_s_ISO{iso}.jpg" for iso in ("200", "200-2", "1600", "H1")] + ["t/NIND_t_ISO100.png"],
            [("s/NIND_s_ISO1600.jpg", "s/NIND_s_ISO200.jpg"), ("s/NIND_s_ISOH1.jpg", "s/NIND_s_ISO200.jpg")],
        ),
    ],
)
def test_pairs(name, files, expected, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    pairs = [(shot.noisy, shot.clean) for shot in find_shots(tmp_path, Source(folder=name))]
    assert [tuple(str(p.relative_to(tmp_path)) for p in pair) for pair in pairs] == expected


def test_catalogue_is_well_formed():
    names = {"flickr2k", "div2k", "kodak24", "cbsd68", "urban100", "sidd", "sidd_val", "nind", "clic_pro"}
    assert names | {"featured_pictures"} <= set(catalog.CATALOG)
    lengths = {"sha256": 64, "md5": 32}
    for name, entry in catalog.CATALOG.items():
        assert name == entry.name and bool(entry.files) != bool(entry.by_hand) and entry.licence
        assert bool(entry.evidence) == bool(entry.files), f"{name}: no source of its addresses"
        assert len({f.name for f in entry.files}) == len(entry.files)
        assert sum(f.name.endswith(ARCHIVES) for f in entry.files) <= 1, "one archive, one folder"
        for file in entry.files:
            assert re.fullmatch(r"https?://[^?#\s]+\.(zip|tar\.gz|tar|mat|png)", file.url), file.url
            kind, _, value = (file.checksum or "none:").partition(":")
            assert kind == "none" or re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", value), file
    rows = {row[0]: row for row in fetching.listing()}
    assert rows["kodak24"][2] == "15.4 MB, sha256" and rows["nind"][2] == "by hand"
    assert rows["sidd_val"][2] == "461.8 MB, checksum kept from the first download"
    assert all(len(row) == 4 and all(row) for row in rows.values())
