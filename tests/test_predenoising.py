"""`jdc predenoise`, in this process: the folder that it writes, training on it, and errors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from real_pairs import module, noised, photo, save
from test_cli import jdc as jdc  # the fixture

from jdcsuite.artifacts import weights
from jdcsuite.data import provenance
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.files import predenoising
from jdcsuite.imaging.similarity import ms_ssim
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.unet import UNet
from jdcsuite.types import UserError

SIDE = 180
CANON = "Canon5D2_5_160_3200_{}_1.png"


def unet(path: Path, **about: object) -> Path:
    torch.manual_seed(0)
    config = {"_target_": "jdcsuite.models.unet.UNet", "width": 2}
    weights.save(UNet(width=2), config, path, about={"run": "unet-1", "method": "unet", **about})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of four scenes: three in noisy/, one of them also in clean/, one in a subfolder."""
    root = tmp_path / "in"
    for i in range(3):
        save(root / "noisy" / CANON.format("abc"[i]), noised(photo(i), 12, seed=i))
    save(root / "clean" / CANON.format("a"), photo(0))
    (root / "deep").mkdir()
    deep = photo(7)[..., 0].astype(np.uint16) * 257
    (root / "deep" / "grey.png").write_bytes(imagecodecs.png_encode(deep))
    return root


def names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


NAMES = sorted(["clean_" + CANON.format("a"), "deep_grey.png", *(CANON.format(c) for c in "abc")])


def test_a_folder_becomes_pairs_with_scores_and_a_record_of_the_teacher(jdc, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "taught"
    status, printed, err = jdc("predenoise", folder, "-o", out, "--weights", "nlm")
    assert status == 0 and err == "", err
    assert printed.startswith(f"5 images in {out}, MS-SSIM(target, input) 0.9") and "above 0.8 in 5 of 5" in printed
    pairs = [f"{kind}/{name}" for kind in ("clean", "noisy") for name in NAMES]
    assert names(out) == sorted([*pairs, "predenoised.json", "scores.csv"]), "no temporary file is left"
    source = np.asarray(Image.open(folder / "noisy" / CANON.format("b")))
    noisy, target = (np.asarray(Image.open(out / kind / CANON.format("b"))) for kind in ("noisy", "clean"))
    np.testing.assert_array_equal(noisy, source)
    error = [float(((image.astype(float) - photo(1)) ** 2).mean()) for image in (noisy, target)]
    assert error[1] < error[0] / 2
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "noisy" / "deep_grey.png")), photo(7)[..., :1].repeat(3, 2)
    )
    rows = pd.read_csv(out / "scores.csv", index_col="image")
    both = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 for image in (target, noisy)]
    assert rows.loc[CANON.format("b"), "ms_ssim"] == pytest.approx(float(ms_ssim(*both)), abs=1e-6)
    assert sorted(rows.index) == NAMES and set(rows["height"]) == {SIDE}
    scenes = {shot.noisy.name: shot.scene for shot in find_shots(out, Source(folder="taught"))}
    assert scenes == {
        "clean_" + CANON.format("a"): "polyu_Canon5D2_a",
        "deep_grey.png": "deep/grey",
        **{CANON.format(c): f"polyu_Canon5D2_{c}" for c in "abc"},
    }, "scenes are those of the sources"


def test_a_trained_denoiser_is_recorded_as_the_teacher(jdc, folder: Path, tmp_path: Path) -> None:
    path = unet(tmp_path / "unet.safetensors", train_set="sidd+polyu", train_scenes=["sidd_001"])
    out = tmp_path / "taught"
    words = ["predenoise", folder / "noisy", folder / "deep" / "grey.png", "-o", out, "--weights", path]
    status, _, err = jdc(*words, "--tile", 64)
    assert status == 0 and err == "", err
    teacher = provenance.read(out).teacher
    assert teacher.name == "unet-1" and teacher.train_scenes == ["sidd_001"] and len(teacher.id) == 64
    x = torch.from_numpy(np.asarray(Image.open(out / "noisy" / CANON.format("b"))).copy())
    whole = weights.load(path).denoise(x.permute(2, 0, 1)[None].float() / 255, tile=0)
    target = np.asarray(Image.open(out / "clean" / CANON.format("b")))
    difference = np.abs(target - (whole[0] * 255).round().permute(1, 2, 0).numpy())
    assert difference.max() <= 1 and difference.mean() < 0.001, "targets do not depend on the tile"
    unet(tmp_path / "old.safetensors")
    status, _, err = jdc(
        "predenoise", folder / "noisy", "-o", tmp_path / "b", "--weights", tmp_path / "old.safetensors"
    )
    assert status == 0 and "does not state its training scenes" in err


def test_a_failed_image_is_reported_and_the_others_are_done(jdc, folder: Path, tmp_path: Path) -> None:
    bad = folder / "noisy" / CANON.format("b")
    bad.write_bytes(bad.read_bytes()[:500])
    out = tmp_path / "taught"
    status, printed, err = jdc("predenoise", folder / "noisy", "-o", out, "--weights", "nlm")
    assert (
        status == 1
        and str(bad) in err
        and len(err.splitlines()) == 1
        and "2 images" in printed
        and "1 failed" in printed
    )
    kept = [CANON.format("a"), CANON.format("c")]
    assert (
        sorted(p.name for p in (out / "clean").iterdir()) == sorted(p.name for p in (out / "noisy").iterdir()) == kept
    )
    assert sorted(provenance.read(out).pictures) == kept and sorted(pd.read_csv(out / "scores.csv")["image"]) == kept


def test_inputs_inside_the_output_are_never_deleted(jdc, folder: Path, tmp_path: Path) -> None:
    """With --force they were taken for the files of the earlier run."""
    out = tmp_path / "out"
    assert jdc("predenoise", folder, "-o", out, "--weights", "nlm", "--sigma", 5)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / "link").symlink_to(out / "noisy")
    single = next((out / "noisy").iterdir())
    for word in (out / "noisy", tmp_path / "link", single):
        status, _, err = jdc("predenoise", word, "-o", out, "--weights", "nlm", "--sigma", 5, "--force")
        assert status == 2 and "lies inside" in err, err
    foreign = out / "download.part"
    foreign.write_bytes(b"mine")
    status, _, err = jdc("predenoise", folder, "-o", out, "--weights", "nlm", "--sigma", 5, "--force")
    assert status == 2 and "did not write (as" in err and foreign.read_bytes() == b"mine"
    assert {path: path.read_bytes() for path in before} == before


def test_names_that_are_no_utf8_are_denoised(jdc, folder: Path, tmp_path: Path) -> None:
    """One of them used to lose the scores of all images."""
    data, name = tmp_path / "named", os.fsdecode(b"caf\xe9.png")
    data.mkdir()
    shutil.copy(folder / "noisy" / CANON.format("a"), data / name)
    status, printed, err = jdc("predenoise", data, "-o", tmp_path / "out", "--weights", "nlm", "--sigma", "5")
    assert status == 0 and "1 image" in printed, err
    assert b"caf\xe9.png" in (tmp_path / "out" / "scores.csv").read_bytes()
    assert name in provenance.read(tmp_path / "out").pictures


def test_several_processes_write_the_same_files(jdc, folder: Path, tmp_path: Path) -> None:
    weights_file = unet(tmp_path / "u.safetensors", train_scenes=[])
    (folder / "noisy" / CANON.format("d")).write_bytes(b"no picture")
    for jobs in (1, 2):
        words = ["predenoise", folder, "-o", tmp_path / str(jobs), "--weights", weights_file, "--jobs", jobs]
        status, printed, err = jdc(*words)
        assert status == 1 and "5 images" in printed and CANON.format("d") in err and len(err.splitlines()) == 1, err
    first, second = tmp_path / "1", tmp_path / "2"
    assert names(first) == names(second) and len(names(first)) == 12
    for name in names(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_an_image_that_kills_its_process_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool itself is tested with `jdc compress`."""
    for i in range(4):
        save(tmp_path / "in" / f"{i}.png", photo(i))
    out = tmp_path / "taught"

    def pool(items: list, work: Callable, *, jobs: int, died: Callable) -> Iterator:
        for item in items:
            if item.name == "1.png":
                (out / "clean" / item.name).write_bytes(b"cut off")
            yield died(item) if item.name == "1.png" else work(item)

    monkeypatch.setattr(predenoising.pool, "run", pool)
    images = predenoising.plan([str(tmp_path / "in")], out)
    predenoising.prepare(out, force=False)
    about = provenance.Teacher(name="t", id="1", train_scenes=[])
    ended = list(predenoising.run(images, lambda x: x, about, out, processes=2))
    assert {outcome.image.name: "its process died" in outcome.error for outcome in ended} == {
        "0.png": False, "1.png": True, "2.png": False, "3.png": False
    }  # fmt: skip
    kept = ["0.png", "2.png", "3.png"]
    assert sorted(provenance.read(out).pictures) == kept == pd.read_csv(out / "scores.csv")["image"].tolist()
    assert all(sorted(p.name for p in (out / kind).iterdir()) == kept for kind in ("noisy", "clean"))


def test_existing_pairs_are_replaced_only_with_force_and_teachers_never_mix(jdc, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "taught"
    assert jdc("predenoise", folder, "-o", out, "--weights", "nlm")[0] == 0
    before = (out / "scores.csv").read_bytes()
    again = ["predenoise", folder / "noisy", "-o", out, "--weights", unet(tmp_path / "u.safetensors", train_scenes=[])]
    status, _, err = jdc(*again)
    assert status == 2 and "--force" in err and (out / "scores.csv").read_bytes() == before
    assert jdc(*again, "--force")[0] == 0
    assert sorted(p.name for p in (out / "clean").iterdir()) == [CANON.format(c) for c in "abc"]
    assert provenance.read(out).teacher.name == "unet-1"
    (out / "clean" / "mine.png").write_bytes(b"x")
    status, _, err = jdc(*again, "--force")
    assert status == 2 and "mine.png" in err and (out / "noisy" / CANON.format("a")).is_file()


def test_an_interruption_leaves_complete_pairs_and_their_record(folder: Path, tmp_path: Path) -> None:
    calls = []

    def denoise(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return x

    out = tmp_path / "taught"
    images = predenoising.plan([str(folder / "noisy")], out)
    predenoising.prepare(out, force=False)
    about = provenance.Teacher(name="t", id="1", train_scenes=[])
    with pytest.raises(KeyboardInterrupt):
        list(predenoising.run(images, denoise, about, out))
    assert list(provenance.read(out).pictures) == [CANON.format("a")]
    assert len(find_shots(out, Source(folder="taught"))) == 1


def test_pairs_that_other_processes_finish_after_an_interruption_are_recorded(folder: Path, tmp_path: Path) -> None:
    for i in range(6):
        save(folder / "noisy" / f"{i}.png", photo(i))
    out = tmp_path / "taught"
    images = predenoising.plan([str(folder / "noisy")], out)
    predenoising.prepare(out, force=False)
    ended = predenoising.run(images, *predenoising.load_teacher("nlm"), out, processes=2)
    first = next(ended)
    ended.close()  # as Ctrl-C does
    kept = sorted(provenance.read(out).pictures)
    assert first.image.name in kept and 1 < len(kept) < len(images), (
        "images in progress are finished, no more are started"
    )
    assert all(sorted(p.name for p in (out / kind).iterdir()) == kept for kind in ("noisy", "clean"))
    rows = pd.read_csv(out / "scores.csv", index_col="image")
    assert sorted(rows.index) == kept and rows.loc[first.image.name, "ms_ssim"] == pytest.approx(first.score)
    assert rows["ms_ssim"].between(0.5, 1).all() and set(rows["height"]) == {SIDE}


def test_a_teacher_that_returns_nan_writes_no_image(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "taught"
    images = predenoising.plan([str(folder / "noisy")], out)
    predenoising.prepare(out, force=False)
    about = provenance.Teacher(name="t", id="1", train_scenes=[])
    outcomes = list(predenoising.run(images, lambda x: x * torch.nan, about, out))
    assert all("NaN" in outcome.error for outcome in outcomes) and names(out) == ["predenoised.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["IN", "-o", "IN/out", "--weights", "nlm"], "inside the input"),
        (["IN", "-o", "FILE", "--weights", "nlm"], "is a file"),
        (["NOWHERE", "-o", "OUT", "--weights", "nlm"], "does not exist"),
        (["IN", "-o", "OUT", "--weights", "NOWHERE"], "there are no weights"),
        (["IN", "-o", "OUT", "--weights", "CODEC"], "is a FLLIC, not a denoiser"),
        (["IN", "-o", "OUT", "--weights", "UNET", "--sigma", "5"], "takes no noise level"),
        (["IN", "-o", "OUT", "--weights", "UNET", "--tile", "100"], "multiple of 16"),
        (["IN", "-o", "OUT", "--weights", "nlm", "--tile", "-1"], "not possible"),
        (["IN", "-o", "OUT", "--weights", "nlm", "--sigma", "much"], "is not a noise level"),
        (["IN", "-o", "OUT", "--weights", "bm3d"], "pip install jdcsuite[bm3d]"),
        (["IN", "-o", "OUT", "--weights", "UNET", "--device", "cuda:99"], "give cpu"),
        (["TWO", "-o", "OUT", "--weights", "nlm"], "would both be"),
    ],
)
def test_a_mistake_is_one_sentence(
    jdc, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bm3d", None)
    (tmp_path / "file").write_text("x")
    save(tmp_path / "two" / "noisy" / "x.png", photo(1))
    save(tmp_path / "two" / "x.png", photo(2))
    unet(tmp_path / "u.safetensors")
    shape = {"widths": [8, 8, 16], "num_latents": 32, "prior_width": 8}
    codec = FLLIC(**shape).eval()
    codec.update()
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", **shape}
    weights.save(codec, config, tmp_path / "c.safetensors", about={})
    places = {"IN": folder, "OUT": tmp_path / "out", "FILE": tmp_path / "file", "NOWHERE": tmp_path / "nowhere"}
    places |= {"CODEC": tmp_path / "c.safetensors", "UNET": tmp_path / "u.safetensors", "TWO": tmp_path / "two"}
    for name, place in places.items():
        words = [word.replace(name, str(place)) if word.split("/")[0] == name else word for word in words]
    status, _, err = jdc("predenoise", *words)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "out").exists()


def test_large_images_are_scored_in_parts_and_small_ones_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = photo(1, height=400, width=401)
    noisy = noised(clean, 25)
    whole = predenoising.score(clean, noisy)
    monkeypatch.setattr(predenoising, "MAX_SCORED", 300)
    assert predenoising.score(clean, noisy) == pytest.approx(whole, abs=0.01)
    assert predenoising.score(clean, clean) == pytest.approx(1)
    assert predenoising.score(clean[:100], noisy[:100]) is None


# -- training on the pairs --------------------------------------------------------------------------------------


def taught(root: Path, *, train_scenes: list[str] | None, tested: str = "photos") -> None:
    """A folder `taught`, from four images of a folder `source`, and test sets `photos` and `source`."""
    for i in range(4):
        save(root / "source" / f"{i}.png", noised(photo(i), 10))
        save(root / "photos" / f"{i}.png", photo(10 + i))
    images = predenoising.plan([str(root / "source")], root / "taught")
    predenoising.prepare(root / "taught", force=True)
    about = provenance.Teacher(name="unet-1", id="a" * 64, train_set="x", train_scenes=train_scenes)
    assert len(list(predenoising.run(images, lambda x: x / 2 + 0.2, about, root / "taught"))) == 4


def test_pairs_are_input_and_target_and_rows_name_the_teacher(tmp_path: Path) -> None:
    taught(tmp_path, train_scenes=["sidd_001"])
    data = module(
        tmp_path, train=["taught"], test=["photos"], predenoised=True, clean_share=0.0, min_ms_ssim=0.2, batch=2
    )
    sample = data.crops()[0]
    assert (sample["clean"].float() - (sample["noisy"].float() / 2 + 51)).abs().max() <= 1
    assert data.facts["teacher"] == "unet-1 (aaaaaaaaaaaaaaaa)" and data.facts["crops_kept"] <= data.facts["crops"]
    assert set(data.train_scenes) == {f"source/{i}" for i in range(4)}


def test_training_refuses_to_test_on_scenes_of_the_model_or_its_teacher(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def trained(**other: object) -> None:
        module(tmp_path, train=["taught"], clean_share=0.0, **{"test": ["photos"], "predenoised": True, **other})

    taught(tmp_path, train_scenes=["sidd_001", "photos/2"])
    with pytest.raises(UserError, match=r"unet-1, which learned from 1 scenes of data\.test \(as photos/2\)"):
        trained()
    with pytest.raises(UserError, match="a teacher's"):
        trained(test=["taught"], predenoised=False)
    with pytest.raises(UserError, match=r"data\.train holds 4 scenes"):
        trained(test=["source"])
    trained(test=[{"folder": "photos", "without": ["2.png"]}])
    with pytest.raises(UserError, match="a teacher's"):
        module(tmp_path / "taught", train=None, test=None)
    capfd.readouterr()
    taught(tmp_path, train_scenes=None)
    trained()
    assert "do not say which scenes" in " ".join(capfd.readouterr().out.split())


def test_a_method_trained_on_targets_takes_no_other_folders(tmp_path: Path) -> None:
    for kind in ("noisy", "clean"):
        save(tmp_path / "real" / kind / "1.png", photo(1))
        save(tmp_path / "real" / kind / "2.png", photo(2))
    save(tmp_path / "photos" / "1.png", photo(3))
    with pytest.raises(UserError, match="is no predenoised folder"):
        module(tmp_path, train=["real"], test=["photos"], predenoised=True)
    with pytest.raises(UserError, match=r"data\.root=ROOT"):
        module(None, predenoised=True)


def test_scenes_seen_by_teachers_are_counted_over_all_of_them() -> None:
    def teacher(scenes: list[str] | None) -> provenance.Teacher:
        return provenance.Teacher(name="t", id="1", train_scenes=scenes)

    assert provenance.saw([], ["a"]) == ""
    assert provenance.saw([teacher([])], ["a", "b"]) == "0 of 2"
    assert provenance.saw([teacher(["a", "x"]), teacher(["a", "c"])], ["a", "b", "c"]) == "2 of 3"
    assert provenance.saw([teacher(["a"]), teacher(None)], ["a"]) == provenance.saw([teacher(["a"])], None) == "unknown"


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    taught(tmp_path, train_scenes=[])
    record = tmp_path / "taught" / provenance.FILE
    record.write_text(json.dumps({"format": 2}))
    with pytest.raises(UserError, match="jdc predenoise"):
        find_shots(tmp_path / "taught", Source(folder="taught"))
