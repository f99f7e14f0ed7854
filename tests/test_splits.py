"""Which scenes train, validate and test."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_pairs import (
    NIND_TEST,
    NIND_VAL,
    SIDE,
    module,
    noised,
    photo,
    save,
    scenes_of,
)

from jdcsuite.data import provenance
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.types import UserError

pytest_plugins = ("real_pairs",)


def test_patterns_choose_images_and_a_scene_is_never_trained_and_tested(root: Path) -> None:
    early = Source.parse({"folder": "real", "only": ["*_00[1-4]_*"], "without": ["*_00800_*"]})
    shots = find_shots(root / "real", early)
    assert [shot.scene for shot in shots] == [f"sidd_00{i}" for i in range(1, 5)]
    with pytest.raises(UserError, match="4 scenes"):
        module(root, test=[{"folder": "real", "only": ["*_00[1-4]_*"], "name": "part"}])
    with pytest.raises(UserError, match="names no pictures"):
        Source.parse({"folders": "real"})


def test_training_validation_and_test_share_no_scene(root: Path) -> None:
    data = module(root)
    scenes = {name: set(pairs.scenes) for name, pairs in data._parts.items()}
    assert len(scenes["train"]) == 7 and len(scenes["val"]) == 1 and not scenes["train"] & scenes["val"]
    whole = module(root / "real", train=None, test=None)
    parts = [set(pairs.scenes) for pairs in (*whole._parts.values(), *whole._tests.values())]
    assert sum(map(len, parts)) == 8 == len(set.union(*parts)) and whole.test_sets == ["real-held-out"]


def test_nind_is_split_as_published(nind: Path) -> None:
    data = module(nind, train=["nind"], test=["nind"], cell=64)
    assert scenes_of(data, "nind") == set(NIND_TEST) and len(data.pictures("nind")) == 12
    assert scenes_of(data, "val") == set(NIND_VAL)
    assert scenes_of(data, "train") == {"7D-3", "droid", "soap", "Pen-piles"}
    part = {"folder": "nind", "only": ["*_droid_*", "*_soap_*"], "name": "part"}
    with pytest.raises(UserError, match=r"data\.train holds 2 scenes of data\.test"):
        module(nind, train=["nind"], test=[part], cell=64)


def test_a_test_folder_may_be_called_train_or_val(root: Path, tmp_path: Path) -> None:
    """`data.test=[train]` used to be trained on, and [val] used to replace the validation pairs."""
    (tmp_path / "real").symlink_to(root / "real")
    for name in ("train", "val"):
        (tmp_path / name).symlink_to(root / "other")
        data, usual = module(tmp_path, test=[name]), module(root)
        for part in ("train", "val"):
            assert data._parts[part].scenes == usual._parts[part].scenes
        assert set(data.test_scenes) == {"sidd_020", "sidd_021"} and not {"sidd_020"} & set(data.train_scenes)
        shown = {name for name, _ in (data.pictures(name)[i] for i in range(4))}
        assert shown == set(usual._tests["other"].noisy.names)


def test_mixed_in_clean_images_exclude_validation_scenes_and_teachers_outputs(root: Path, tmp_path: Path) -> None:
    data = module(root, clean="real/clean")
    (held,) = set(data._parts["val"].scenes)
    plain = {scene_and_iso(Path(name))[0] for name in data._caches["plain"].names}
    assert len(plain) == 7 and held not in plain
    for name in ("real", "other", "plain"):
        (tmp_path / name).symlink_to(root / name)
    save(tmp_path / "taught" / "clean" / "x.png", photo(200))
    teacher = provenance.Teacher(name="unet-1", id="a" * 64, train_scenes=["sidd_020"])
    (tmp_path / "taught" / provenance.FILE).write_bytes(provenance.Predenoised(teacher=teacher).dump())
    for clean in ("taught", "taught/clean"):
        with pytest.raises(UserError, match=r"are a teacher's, which are not clean"):
            module(tmp_path, clean=clean)


def test_validation_images_too_small_for_ms_ssim_are_named(root: Path) -> None:
    data = module(root)
    data.require_val(SIDE)
    with pytest.raises(UserError, match=rf"2 of 2 images are smaller than the {SIDE + 1} pixels of MS-SSIM"):
        data.require_val(SIDE + 1)


def test_nind_is_recognised_by_its_scenes_in_any_folder(nind: Path, tmp_path: Path) -> None:
    (tmp_path / "mynind").symlink_to(nind / "nind")
    data = module(tmp_path, train=["mynind"], test=["mynind"], cell=64)
    assert scenes_of(data, "mynind") == set(NIND_TEST) and scenes_of(data, "val") == set(NIND_VAL)
    assert scenes_of(data, "train") == {"7D-3", "droid", "soap", "Pen-piles"}
    for scene in "ab":
        for iso, sigma in (("100", 0), ("800", 30)):
            save(tmp_path / "own" / f"{scene}_ISO{iso}.png", noised(photo(ord(scene), height=64, width=64), sigma))
    data = module(tmp_path, train=["mynind"], test=["own"], cell=64)
    assert data.test_scenes == ["iso_a", "iso_b"], "names like NIND's are not NIND"


def test_published_test_scenes_are_never_trained_on(nind: Path) -> None:
    for source in ("nind", "nind/", {"folder": "nind", "name": "all of it"}):
        data = module(nind, train=[source], test=["mine"], cell=64)
        assert not set(NIND_TEST) & (scenes_of(data, "train") | scenes_of(data, "val"))
    with pytest.raises(UserError, match="nothing but its test scenes"):
        module(nind, train=[{"folder": "nind", "only": ["*ursulines*"]}], test=["mine"], cell=64)


def test_folders_without_published_validation_hold_out_their_own(nind: Path) -> None:
    data = module(nind, train=["mine", "nind"], test=["nind"], cell=64)
    alone = module(nind, train=["mine"], test=["nind"], cell=64)
    assert scenes_of(data, "val") == set(NIND_VAL) | scenes_of(alone, "val") and len(scenes_of(alone, "val")) == 1


def test_parts_of_nind_without_published_scenes(nind: Path) -> None:
    data = module(nind, train=[{"folder": "nind", "only": ["*_droid_*", "*_soap_*"]}], test=["mine"], cell=64)
    assert len(scenes_of(data, "val")) == 1 == len(scenes_of(data, "train")), "by hash"
    without = {"folder": "nind", "without": [f"*_{scene}_*" for scene in NIND_TEST]}
    with pytest.raises(UserError, match="nind holds none of its test scenes"):
        module(nind, train=["mine"], test=[without], cell=64)
    with pytest.raises(UserError, match=r"all scenes of .* are for validation"):
        module(nind, train=[{"folder": "nind", "only": ["*_7D-[27]_*"]}], test=["mine"], cell=64)


def test_one_folder_of_nind_crops_is_split_as_published(nind: Path, tmp_path: Path) -> None:
    for shot in find_shots(nind / "nind", Source(folder="nind")):
        for kind, path in (("noisy", shot.noisy), ("clean", shot.clean)):
            save(tmp_path / "nind" / kind / shot.noisy.name, np.asarray(Image.open(path)))
    data = module(tmp_path / "nind", train=None, test=None, cell=64)
    assert scenes_of(data, "nind-held-out") == set(NIND_TEST) and scenes_of(data, "val") == set(NIND_VAL)


def test_validation_scenes_can_be_named(root: Path, nind: Path) -> None:
    for val in (["sidd_00[23]"], ["0002_*", "0003_003_S6_00800_*"], "*_00[23]*"):
        data = module(root, val=val)
        assert scenes_of(data, "val") == {"sidd_002", "sidd_003"}, "whole scenes"
        assert len(scenes_of(data, "train")) == 6
    data = module(nind, train=["nind"], test=["nind"], val=["*_soap"], cell=64)
    assert scenes_of(data, "val") == {"soap"} and set(NIND_VAL) < scenes_of(data, "train")
    embedded = module(None, val=["rocket*"], cell=256)
    assert scenes_of(embedded, "val") == {"rocket.jpg"}


@pytest.mark.parametrize(
    ("patterns", "message"), [(["sidd_001", "x*"], r"called x\*: they are sidd_001"), (["*"], "takes all 8 scenes")]
)
def test_unusable_validation_patterns_are_refused(root: Path, patterns: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(root, val=patterns)


def test_without_test_folders_every_training_folder_holds_out_scenes(root: Path) -> None:
    data = module(root, train=["real", "other"], test=None)
    assert data.test_sets == ["real-held-out", "other-held-out"]
    assert all(len(data.pictures(name)) == 2 for name in data.test_sets), "one scene of each, at two ISOs"
    assert not set(data.test_scenes) & set(data.train_scenes)
    assert len(data.test_scenes) + len(data.train_scenes) == 10
    again = module(root, train=["other", "real"], test=[])
    assert set(again.test_scenes) == set(data.test_scenes), "the order of folders does not change the split"


def test_parts_of_one_folder_share_a_held_out_set(root: Path) -> None:
    parts = [{"folder": "real", "only": "*_00800_*"}, {"folder": "real", "without": "*_00800_*"}]
    data = module(root, train=parts, test=None)
    assert data.test_sets == ["real-held-out"] and len(data.pictures("real-held-out")) == 2
    assert len(data.test_scenes) == 1 and not set(data.test_scenes) & set(data.train_scenes)
    with pytest.raises(UserError, match=r"name folders of pairs in it, as data\.train=\[NAME\]"):
        module(root, train=None, test=None)


def test_published_test_scenes_are_held_out_without_test_folders(nind: Path) -> None:
    data = module(nind, train=["nind", "mine"], test=None, crop=32, val_crop=32, cell=32)
    assert scenes_of(data, "nind-held-out") == set(NIND_TEST)
    assert len(data._tests["mine-held-out"].scenes) == 1


def test_a_teacher_s_outputs_are_not_held_out_as_test(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "real", tmp_path / "taught")
    teacher = provenance.Teacher(name="nlm", id="none", train_scenes=[])
    (tmp_path / "taught" / provenance.FILE).write_bytes(provenance.Predenoised(teacher=teacher).dump())
    with pytest.raises(UserError, match="which no result is judged by"):
        module(tmp_path, train=["taught"], test=None)
