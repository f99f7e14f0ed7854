"""The identity of a run's data is their pixels and how they are used, not what folders and files are called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_pairs import module, noised, photo, save
from test_datamodule import photographs

from jdcsuite.data.noise import PoissonGaussian


def edit(path: Path) -> None:
    """Invert one pixel, keeping size, time and name."""
    pixels, before = np.array(Image.open(path)), path.stat()
    pixels[0, 0] = 255 - pixels[0, 0]
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    for name, count in (("a", 5), ("b", 3)):
        for i in range(count):
            save(tmp_path / "photos" / name / f"{i}.png", random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four scenes at two ISOs in ``real``, one other scene in ``other``, two clean pictures in ``plain``."""
    for folder, scenes in (("real", "abcd"), ("other", "z")):
        for scene in scenes:
            for iso, sigma in (("100", 5), ("800", 40)):
                clean = photo(ord(scene), height=64, width=64)
                save(tmp_path / "pairs" / folder / "clean" / f"{scene}_ISO{iso}.png", clean)
                save(tmp_path / "pairs" / folder / "noisy" / f"{scene}_ISO{iso}.png", noised(clean, sigma))
    for i in range(2):
        save(tmp_path / "pairs" / "plain" / f"{i}.png", photo(100 + i, height=64, width=64))
    return tmp_path / "pairs"


def of_photos(root: Path | None, **other: object) -> str:
    return photographs(root, **other).identity()


def of_pairs(root: Path | None, **other: object) -> str:
    return module(root, **{"cell": 64, "test": ["other"], "clean": "plain"} | other).identity()


def test_photographs_under_other_names_are_the_same_data(photos: Path) -> None:
    known = of_photos(photos)
    assert known == of_photos(photos) and len(known) == 16 and int(known, 16) >= 0
    renamed = photos.with_name("elsewhere") / "photos"
    shutil.copytree(photos / "a", renamed / "other train")
    shutil.copytree(photos / "b", renamed / "other test")
    assert of_photos(renamed, train="other train", test=["other test"]) == known
    assert of_photos(None) == of_photos(None) != known, "the embedded photographs"


def test_two_roots_of_one_last_name_differ_when_their_photographs_do(photos: Path) -> None:
    other = photos.with_name("elsewhere") / "photos"
    shutil.copytree(photos, other)
    edit(other / "a" / "2.png")
    assert of_photos(other) != of_photos(photos)


@pytest.mark.parametrize("folder", ["a", "b"])
def test_a_photograph_added_or_edited_changes_the_data(photos: Path, folder: str) -> None:
    before = of_photos(photos)
    edit(photos / folder / "1.png")
    edited = of_photos(photos)
    save(photos / folder / "9.png", np.zeros((64, 64, 3), np.uint8))
    assert len({before, edited, of_photos(photos)}) == 3


def test_which_photographs_train_and_which_test_is_part_of_the_data(photos: Path) -> None:
    shutil.copytree(photos / "b", photos / "c")
    edit(photos / "c" / "0.png")
    split = [of_photos(photos, train="a", test=test) for test in (["b"], ["c"], ["b", "c"], ["c", "b"])]
    assert len({*split, of_photos(photos, train="b", test=["a"])}) == 5


def test_pairs_under_other_names_are_the_same_data(pairs: Path) -> None:
    known = of_pairs(pairs)
    renamed = pairs.with_name("elsewhere")
    for name in ("real", "other", "plain"):
        shutil.copytree(pairs / name, renamed / f"my {name}")
    sources = {"train": [{"folder": "my real", "name": "x"}], "test": ["my other"], "clean": "my plain"}
    assert of_pairs(renamed, **sources) == known
    apart = [{"folder": "real", "only": ["[ab]*"]}, {"folder": "real", "only": ["[cd]*"]}]
    assert of_pairs(pairs, train=apart) == known, "without weights, sources do not matter"


@pytest.mark.parametrize("picture", ["real/noisy/a_ISO100", "real/clean/a_ISO100", "other/noisy/z_ISO800", "plain/1"])
def test_an_edited_picture_of_a_pair_changes_the_data(pairs: Path, picture: str) -> None:
    before = of_pairs(pairs)
    edit(pairs / f"{picture}.png")
    assert of_pairs(pairs) != before


def test_an_added_pair_or_clean_picture_changes_the_data(pairs: Path) -> None:
    identities = {of_pairs(pairs)}
    save(pairs / "plain" / "9.png", photo(9, height=64, width=64))
    identities.add(of_pairs(pairs))
    for kind in ("noisy", "clean"):
        save(pairs / "real" / kind / "a_ISO200.png", photo(9, height=64, width=64))
    assert len(identities | {of_pairs(pairs)}) == 3


def test_reference_codecs_are_identified_by_the_test_images_alone(photos: Path, pairs: Path) -> None:
    def tested() -> set[str]:
        of_pairs = module(pairs, cell=64, test=["other"], clean="plain", val=["b*"])
        return {photographs(photos).test_identity(), of_pairs.test_identity()}

    before = tested()
    for path in (photos / "a" / "1.png", pairs / "real" / "noisy" / "a_ISO100.png", pairs / "plain" / "1.png"):
        edit(path)
    assert tested() == before, "only training images differ"
    for path in (photos / "b" / "1.png", pairs / "other" / "noisy" / "z_ISO800.png"):
        edit(path)
    assert len(tested() | before) == 4


def test_scenes_weights_validation_and_noise_levels_are_part_of_the_data(pairs: Path) -> None:
    apart = [{"folder": "real", "only": ["[ab]*"]}, {"folder": "real", "only": ["[cd]*"]}]
    known = [of_pairs(pairs)]
    known += [of_pairs(pairs, train=[apart[0] | {"weight": weight}, apart[1]]) for weight in (1, 2)]
    known.append(of_pairs(pairs, clean=None))
    assert of_pairs(pairs, val=["a*"]) != of_pairs(pairs, val=["b*"])
    own = [of_pairs(None, clean=None, levels=[PoissonGaussian(a=a, b=0.01)], cell=256) for a in (0.01, 0.02)]
    assert len({*known, *own}) == len(known) + 2
    before = module(pairs, cell=64, test=["other"], val=["a*"])
    for name in ("b", "c"):  # one scene becomes two, in the same order
        for path in (pairs / "real").glob(f"*/{name}_ISO800.png"):
            path.rename(path.with_name(f"{name}{name}_ISO800.png"))
    after = module(pairs, cell=64, test=["other"], val=["a*"])
    assert after._parts["train"].noisy.contents == before._parts["train"].noisy.contents
    assert after.identity() != before.identity()
