"""Names and layouts of pairs: partners, scenes, ISO, and pairs that are incomplete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_pairs import (
    photo,
    save,
)

from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source, as_list, patterns
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.write import encode
from jdcsuite.types import UserError

pytest_plugins = ("real_pairs",)


@pytest.mark.parametrize(
    ("name", "scene", "iso"),
    [
        ("0129_006_GP_00100_00100_4400_N.png", "sidd_006", "00100"),
        ("0001_001_S6_00100_00060_3200_L/0001_NOISY_SRGB_010.PNG", "sidd_001", "00100"),
        ("Canon5D2_5_160_3200_chair_11.jpg", "polyu_Canon5D2_chair", "3200"),
        ("Sony_3-5_200_1600_classroom_10.jpg", "polyu_Sony_classroom", "1600"),
        ("5dmark3_iso3200_1.png", "cc_5dmark3_iso3200_1", "3200"),
        ("NIND_ursulines-red_ISOH2.jpg", "nind_NIND_ursulines-red", "H2"),
        ("Canon5D2_5_160_3200_plug_11_real.JPG", "polyu_Canon5D2_plug", "3200"),
        ("Sony_3-5_200_1600_classroom_10_mean.JPG", "polyu_Sony_classroom", "1600"),
        ("5dmark3_iso3200_1_real.png", "cc_5dmark3_iso3200_1", "3200"),
        ("dog_ISO800.png", "iso_dog", "800"),
        ("holiday_iso800.png", "somewhere/holiday_iso800", ""),
        ("here/noisy/a.png", "here/a", ""),
    ],
)
def test_scene_and_iso_of_file_names(name: str, scene: str, iso: str) -> None:
    assert scene_and_iso(Path("somewhere") / name) == (scene, iso)


def test_nind_s_lowest_iso_is_the_clean_picture(tmp_path: Path) -> None:
    for scene in ("a-b", "c"):
        for iso in ("200", "200-2", "6400", "H1"):
            save(tmp_path / "nind" / scene / f"NIND_{scene}_ISO{iso}.png", photo(1, height=8, width=8))
    shots = find_shots(tmp_path / "nind", Source(folder="nind"))
    assert [shot.noisy.stem for shot in shots] == [f"NIND_{s}_ISO{i}" for s in ("a-b", "c") for i in ("6400", "H1")]
    assert {shot.clean.stem for shot in shots} == {"NIND_a-b_ISO200", "NIND_c_ISO200"}
    assert find_shots(tmp_path / "nind", Source(folder="renamed")) == shots, "the layout is recognised without the name"


def test_real_and_mean_are_partners(tmp_path: Path) -> None:
    for kind in ("real", "mean"):
        save(tmp_path / f"d600_iso3200_1_{kind}.png", photo(1, height=8, width=8))
    (shot,) = find_shots(tmp_path, Source(folder="x"))
    assert shot.noisy.stem.endswith("real") and shot.clean.stem.endswith("mean")


@pytest.mark.parametrize("alone", ["d600_iso3200_2_mean.png", "d600_iso3200_2_real.png"])
def test_half_a_pair_is_reported_in_real_and_mean_layout(tmp_path: Path, alone: str) -> None:
    for name in ("d600_iso3200_1_real.png", "d600_iso3200_1_mean.png", alone):
        save(tmp_path / name, photo(1, height=8, width=8))
    with pytest.raises(UserError, match=f"1 image without .*{alone}"):
        find_shots(tmp_path, Source(folder="x"))
    assert len(find_shots(tmp_path, Source(folder="x"), allow_unpaired=True)) == 1


def test_half_a_pair_is_reported_in_sidd_layout(tmp_path: Path) -> None:
    for number in (1, 2):
        for kind in ("NOISY", "GT"):
            save(tmp_path / f"000{number}_001_S6" / f"000{number}_{kind}_SRGB_010.PNG", photo(1, height=8, width=8))
    (tmp_path / "0002_001_S6" / "0002_NOISY_SRGB_010.PNG").unlink()
    with pytest.raises(UserError, match=r"1 image without .*0002_GT_SRGB_010\.PNG"):
        find_shots(tmp_path, Source(folder="x"))


def test_pictures_without_a_partner_are_listed_and_refused(root: Path, tmp_path: Path) -> None:
    for kind, names in {"noisy": "abcdefg", "clean": "az"}.items():
        for name in names:
            save(tmp_path / kind / f"{name}.png", photo(1, height=8, width=8))
    with pytest.raises(UserError, match=r"7 images without .*noisy/b\.png, .*\.\.\.; .*allow_unpaired"):
        find_shots(tmp_path, Source(folder="x"))
    assert [s.noisy.name for s in find_shots(tmp_path, Source(folder="x"), allow_unpaired=True)] == ["a.png"]


def test_pairs_that_differ_in_size_are_listed_and_refused(tmp_path: Path) -> None:
    for name, side in {"a": 40, "b": 48}.items():
        save(tmp_path / "noisy" / f"{name}.png", photo(1, height=40, width=40))
        save(tmp_path / "clean" / f"{name}.png", photo(1, height=40, width=side))
    shots = find_shots(tmp_path, Source(folder="x"))
    with pytest.raises(UserError, match=r"1 of 2 pairs differ in size: b\.png \(40, 40\) and \(40, 48\)"):
        PairCache.of_shots(shots, cache_dir=None)
    assert PairCache.of_shots(shots, cache_dir=None, allow_unpaired=True).noisy.names == ["a.png"]


def test_pairs_of_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (64, 64, 3), dtype=np.uint16)
    for kind, pixels in (("noisy", deep), ("clean", np.flipud(deep))):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes(encode(Picture(pixels), Path("a.png")))
    pairs = PairCache.of_shots(find_shots(tmp_path, Source(folder="pairs")), cache_dir=str(tmp_path))
    expected = np.rint(deep / 65535 * 255).astype(np.uint8)
    noisy, clean = pairs.crop(0, 0, 0, 64)
    assert np.array_equal(noisy, expected) and np.array_equal(clean, np.flipud(expected))


def test_values_that_are_no_names_are_refused() -> None:
    for call, message in {
        lambda: as_list("data.train", 5): "data.train=5 is not usable",
        lambda: patterns("data.val", 5): "data.val=5 is not usable",
        lambda: patterns("data.val", [["a"]]): "is not usable: give patterns",
    }.items():
        with pytest.raises(UserError, match=message):
            call()
    assert Source.parse({"folder": "a", "only": "Canon*"}).only == ["Canon*"], "it used to be split into letters"
