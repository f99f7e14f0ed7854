"""`jdc compress | decompress | info`, in this process: files, folders and patterns, and errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import dying
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from test_cli import jdc as jdc  # the fixture
from test_compression import photo, saved
from test_files import ICC, exif, with_chunks

import jdcsuite
from jdcsuite.artifacts import weights as weights_files
from jdcsuite.coding.container import unpack
from jdcsuite.files import batch, compression, paths
from jdcsuite.imaging.picture import Picture
from jdcsuite.types import CorruptFile, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "narrow"
    saved(path)
    return path


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three codecs of decreasing rate, and a network that is not a codec."""
    from jdcsuite.artifacts import weights
    from jdcsuite.models.clean_entropy import CleanEntropy

    root = tmp_path_factory.mktemp("study")
    for i, gain in enumerate((64.0, 8.0, 1.0)):
        saved(root / f"rung{i}", seed=i, latent_gain=gain)
    guide = CleanEntropy(widths=[8, 8])
    (root / "guide").mkdir()
    config = {"_target_": "jdcsuite.models.clean_entropy.CleanEntropy", "widths": [8, 8]}
    weights.save(guide, config, root / "guide" / "weights.safetensors", about={})
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    Image.fromarray(photo(40, 50)).save(root / "a.png")
    Image.fromarray(photo(30, 20, seed=1)).save(root / "b.jpg", quality=95)
    (root / "deep" / "c.png").write_bytes(imagecodecs.png_encode(photo(33, 21, deep=True)))
    return root


def names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_an_image_makes_the_round_trip(jdc, run, tmp_path, folder):
    coded, back = tmp_path / "a.jdc", tmp_path / "a.png"
    status, out, err = jdc("compress", folder / "a.png", "-o", coded, "--weights", run)
    assert status == 0 and err == "", err
    data, size = coded.read_bytes(), (folder / "a.png").stat().st_size
    line = f"1 image, {size} -> {len(data)} bytes, ratio {size / len(data):.2f}, {8 * len(data) / 2000:.3f} bpp"
    assert out.startswith(line) and ("this machine" in out) == unpack(data).same_machine
    assert data == jdcsuite.compress(photo(40, 50), run)
    status, out, err = jdc("decompress", coded, "-o", back, "--weights", run / "weights.safetensors")
    assert status == 0 and err == "", err
    np.testing.assert_array_equal(np.asarray(Image.open(back)), jdcsuite.decompress(data, run))
    assert names(tmp_path) == ["a.jdc", "a.png", "in/a.png", "in/b.jpg", "in/deep/c.png"], "no temporary file is left"


def test_a_folder_makes_the_round_trip_with_its_subfolders(jdc, run, tmp_path, folder):
    assert jdc("compress", folder, "-o", tmp_path / "coded", "--weights", run)[0] == 0
    assert names(tmp_path / "coded") == ["a.jdc", "b.jdc", "deep/c.jdc"]
    words = ["decompress", tmp_path / "coded", "-o", tmp_path / "back", "--weights", run]
    status, out, err = jdc(*words, "--format", "tif")
    assert status == 0 and "3 images" in out, err
    assert names(tmp_path / "back") == ["a.tif", "b.tif", "deep/c.tif"]
    deep = tifffile.imread(tmp_path / "back" / "deep" / "c.tif")
    assert deep.dtype == np.uint16 and deep.shape == (33, 21, 3)


def test_patterns_and_files_go_into_a_folder(jdc, run, tmp_path, folder):
    words = ["compress", f"{folder}/*.png", folder / "b.jpg", folder / "a.png", "-o", tmp_path / "coded"]
    status, out, _ = jdc(*words, "--weights", run)
    assert status == 0 and names(tmp_path / "coded") == ["a.jdc", "b.jdc"] and "2 images" in out
    (tmp_path / "there").mkdir()
    assert jdc("compress", folder / "a.png", "-o", tmp_path / "there", "--weights", run)[0] == 0
    assert jdc("compress", folder / "a.png", "-o", f"{tmp_path}/new/", "--weights", run)[0] == 0
    assert names(tmp_path / "there") == names(tmp_path / "new") == ["a.jdc"]


def test_existing_outputs_are_reported_and_kept_and_the_rest_is_done(jdc, run, tmp_path, folder):
    words = ["compress", folder, "-o", tmp_path / "coded", "--weights", run]
    assert jdc(*words)[0] == 0
    (tmp_path / "coded" / "a.jdc").write_bytes(b"mine")
    (tmp_path / "coded" / "b.jdc").unlink()
    status, out, err = jdc(*words)
    assert status == 1 and len(err.splitlines()) == 2 and err.count("--force") == 2
    assert out.startswith("1 image,") or "\n1 image," in out
    assert "2 failed" in out
    assert (tmp_path / "coded" / "a.jdc").read_bytes() == b"mine" and (tmp_path / "coded" / "b.jdc").exists()
    assert jdc(*words, "--force")[0] == 0
    assert unpack((tmp_path / "coded" / "a.jdc").read_bytes()).height == 40


def test_one_bad_image_does_not_stop_the_others(jdc, run, tmp_path, folder):
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("x")
    tifffile.imwrite(folder / "nan.tif", np.full((9, 9), np.nan, np.float32))
    status, out, err = jdc("compress", folder, "-o", tmp_path / "coded", "--weights", run)
    assert status == 1 and names(tmp_path / "coded") == ["a.jdc", "b.jdc", "deep/c.jdc"]
    lines = err.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith("jdc: ") for line in lines)
    assert "is empty" in lines[0] and "floating-point" in lines[1] and "is not an" in lines[2]
    assert "3 failed" in out


def test_damaged_files_are_reported_and_the_others_opened(jdc, run, tmp_path, folder):
    coded = tmp_path / "coded"
    assert jdc("compress", folder, "-o", coded, "--weights", run)[0] == 0
    data = (coded / "a.jdc").read_bytes()
    (coded / "a.jdc").write_bytes(data[:-1])
    (coded / "b.jdc").write_bytes(b"")
    status, out, err = jdc("decompress", coded, "-o", tmp_path / "back", "--weights", run)
    assert status == 1 and names(tmp_path / "back") == ["deep/c.png"]
    assert "damaged" in err and "b.jdc: not a .jdc file" in err
    status, out, err = jdc("info", coded / "a.jdc", coded / "deep" / "c.jdc")
    assert status == 1 and "damaged" in err and "21" in out


def test_several_processes_write_the_same_files(jdc, run, tmp_path, folder):
    assert jdc("compress", folder, "-o", tmp_path / "one", "--weights", run)[0] == 0
    (folder / "bad.png").write_text("x")
    status, out, err = jdc("compress", folder, "-o", tmp_path / "two", "--weights", run, "--jobs", 2)
    assert status == 1 and "bad.png" in err and "3 images" in out
    assert names(tmp_path / "one") == names(tmp_path / "two")
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_image_that_kills_its_process_fails_alone(tmp_path, run):
    names = ["0", "bad", *"12345678"]
    items = [paths.Item(tmp_path / name, tmp_path / f"{name}.jdc") for name in names]
    ended = list(batch.run(items, batch.BatchOptions(weights=(run,)), decode=False, jobs=2, work=dying.work))
    assert {outcome.item for outcome in ended} == set(items) and len(ended) == len(items)
    assert ["memory" in outcome.error for outcome in ended] == [outcome.item.source.name == "bad" for outcome in ended]


def test_metadata_is_kept_on_request(jdc, run, tmp_path):
    Image.fromarray(photo(20, 20)[..., 0]).save(tmp_path / "in.png", icc_profile=ICC, exif=exif(t274=8))
    for ending in ("png", "tif", "jpg", "webp"):
        for keep in (["--keep-metadata"], []):
            words = ["compress", tmp_path / "in.png", "-o", tmp_path / "x.jdc", "--weights", run, "--force", *keep]
            assert jdc(*words)[0] == 0
            back = tmp_path / f"back.{ending}"
            assert jdc("decompress", tmp_path / "x.jdc", "-o", back, "--weights", run, "--force")[0] == 0
            picture = Picture.read(back)
            assert set(picture.metadata) == ({"icc", "exif"} if keep else set())
            assert picture.grey or ending == "webp"
            if keep:
                assert picture.metadata["icc"] == ICC
                tags = Image.open(back).getexif()
                assert tags[271] == "Maker" and tags.get(274, 1) == 1


def test_info_describes_a_file_without_weights(jdc, run, tmp_path):
    data = jdcsuite.compress(photo(33, 21, deep=True), run, metadata={"icc": b"profile"})
    (tmp_path / "x.jdc").write_bytes(data)
    status, out, _ = jdc("info", tmp_path / "x.jdc")
    assert status == 0
    for value in ("21", "33", compression.load(run).model_id.hex(), "icc (7 bytes)", "16", "same machine"):
        assert value in out, value
    status, out, _ = jdc("info", "--json", tmp_path / "x.jdc")
    (about,) = json.loads(out)
    assert about["bytes"] == len(data) and about["bpp"] == 8 * len(data) / (33 * 21)
    assert (about["width"], about["height"], about["bit_depth"], about["colour"]) == (21, 33, 16, "rgb")
    assert (about["tiles_across"], about["tiles_down"], about["metadata"]) == (1, 1, {"icc": 7})


def test_the_weights_of_a_file_are_chosen_from_several(jdc, ladder, run, tmp_path):
    Image.fromarray(photo(24, 24)).save(tmp_path / "a.png")
    coded, back = tmp_path / "x.jdc", tmp_path / "x.png"
    assert jdc("compress", tmp_path / "a.png", "-o", coded, "--weights", ladder / "rung1")[0] == 0
    exported = tmp_path / "kept"  # a folder of exported weights files
    exported.mkdir()
    for rung in ladder.glob("rung*"):
        shutil.copy(rung / "weights.safetensors", exported / f"{rung.name}.safetensors")
    for given in ([ladder], [f"{ladder}/rung*"], [run, ladder / "rung1"], [exported]):
        words = [word for path in given for word in ("--weights", path)]
        status, _, err = jdc("decompress", coded, "-o", back, *words, "--force")
        assert status == 0, err
        np.testing.assert_array_equal(
            np.asarray(Image.open(back)), jdcsuite.decompress(coded.read_bytes(), ladder / "rung1")
        )
    back.unlink()
    needed = unpack(coded.read_bytes()).model_id.hex()
    status, _, err = jdc("decompress", coded, "-o", back, "--weights", run)
    assert status == 1 and needed in err and compression.load(run).model_id.hex() in err and not back.exists()
    status, _, err = jdc("decompress", coded, "-o", back, "--weights", run, "--weights", ladder / "rung0")
    assert status == 1 and needed in err


def test_a_target_selects_the_rung(jdc, ladder, tmp_path):
    picture = photo(48, 48)
    Image.fromarray(picture).save(tmp_path / "a.png")
    measured = {}
    for rung in sorted(ladder.glob("rung*")):
        data = jdcsuite.compress(picture, rung)
        measured[rung.name] = (8 * len(data) / 48**2, compression.psnr(jdcsuite.decompress(data, rung), picture), data)
    rates = sorted(bpp for bpp, _, _ in measured.values())
    words = ["compress", tmp_path / "a.png", "-o", tmp_path / "x.jdc", "--weights", ladder, "--force"]
    for most in (rates[-1], rates[0] + 1e-6, 100.0):
        status, out, err = jdc(*words, "--target-bpp", most)
        assert status == 0, err
        name, (bpp, db, data) = max(((n, m) for n, m in measured.items() if m[0] <= most), key=lambda pair: pair[1][1])
        assert (tmp_path / "x.jdc").read_bytes() == data
        assert name in out and f"{bpp:.3f} bpp" in out and f"{db:.2f} dB" in out and "noise included" in out
    worst = min(db for _, db, _ in measured.values())
    status, out, _ = jdc(*words, "--target-psnr", worst - 0.1)
    assert status == 0 and (tmp_path / "x.jdc").read_bytes() == min((m[2] for m in measured.values()), key=len)
    status, _, err = jdc(*words, "--target-psnr", 99)
    assert status == 1 and "no rung meets the target" in err and "rung2" in err
    status, _, err = jdc(*words)
    assert status == 2 and "--target-bpp" in err


def test_a_file_that_fails_verification_is_not_written(jdc, run, tmp_path, folder, monkeypatch):
    def wrong(*args: object, **kwargs: object) -> None:
        raise CorruptFile("the symbols do not have their checksum")

    monkeypatch.setattr(compression, "decompress", wrong)
    words = ["compress", folder / "a.png", "-o", tmp_path / "x.jdc", "--weights", run]
    status, _, err = jdc(*words)
    assert status == 1 and "was not written" in err and not (tmp_path / "x.jdc").exists()
    assert jdc(*words, "--no-verify")[0] == 0


@pytest.mark.parametrize(("decoded", "warns"), [(0, True), (1, False)])
def test_a_decoded_image_that_is_far_from_the_input_is_a_warning(
    jdc, run, tmp_path, folder, monkeypatch, decoded, warns
):
    image = photo(40, 50)
    monkeypatch.setattr(compression, "decompress", lambda *args: image * np.uint8(decoded))
    status, _, err = jdc("compress", folder / "a.png", "-o", tmp_path / "x.jdc", "--weights", run)
    assert status == 0 and (tmp_path / "x.jdc").is_file()
    assert ("look at it before you delete the original" in err) == warns, err


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_full_or_read_only_disk_leaves_no_partial_file(jdc, run, tmp_path, folder, monkeypatch, what):
    import errno
    import os

    def refuse(*args: object) -> None:
        number = errno.ENOSPC if what == "full" else errno.EROFS
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    out = tmp_path / "coded"
    status, printed, err = jdc("compress", folder, "-o", out, "--weights", run)
    assert status == 1 and len(err.strip().splitlines()) == 3 and "3 failed" in printed
    assert ("No space left" if what == "full" else "Read-only") in err
    assert names(out) == []


def test_sigma_is_refused_by_codecs_without_a_guide(jdc, run, tmp_path, folder):
    words = ["compress", folder / "a.png", "-o", tmp_path / "x.jdc", "--weights", run, "--force"]
    assert jdc(*words, "--sigma", "auto")[0] == 0
    status, _, err = jdc(*words, "--sigma", "12.5")
    assert status == 2 and "leave sigma out" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress", "NOWHERE.png", "-o", "OUT", "--weights", "RUN"], "does not exist"),
        (["compress", "IN/*.tif", "-o", "OUT", "--weights", "RUN"], "nothing matches"),
        (["compress", "IN", "-o", "IN/a.png", "--weights", "RUN"], "give a folder"),
        (["compress", "IN/a.png", "-o", "NOWHERE/x.jdc", "--weights", "RUN"], "make it first"),
        (["compress", "IN/a.png", "-o", "OUT.png", "--weights", "RUN"], "ends in .jdc"),
        (["compress", "IN/a.png", "-o", "OUT", "--weights", "NOWHERE"], "no weights"),
        (["compress", "IN/a.png", "-o", "OUT", "--weights", "NO*"], "no weights"),
        (["compress", "IN/a.png", "-o", "OUT", "--weights", "RUN", "--sigma", "x"], "is not a noise level"),
        (["compress", "IN/a.png", "-o", "OUT", "--weights", "RUN", "--sigma", "-1"], "is not a noise level"),
        (["decompress", "IN", "-o", "OUT", "--weights", "RUN"], "no .jdc file"),
        (["decompress", "IN/a.png", "-o", "OUT.gif", "--weights", "RUN"], "no known image format"),
        (["decompress", "IN/a.png", "-o", "OUT/", "--weights", "RUN", "--format", "gif"], "no known image format"),
        (["decompress", "IN", "-o", "OUT/", "--weights", "RUN", "--format", "image/png"], "no known image format"),
        (["compress", "NOWHERE" + 300 * "x", "-o", "OUT", "--weights", "RUN"], "cannot be read or written (File name"),
        (["info", "NOWHERE" + 300 * "x"], "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(jdc, run, folder, tmp_path, words, message):
    places = {"IN": str(folder), "OUT": str(tmp_path / "x"), "RUN": str(run), "NOWHERE": str(tmp_path / "no")}
    given = [next((w.replace(k, v, 1) for k, v in places.items() if w.startswith(k)), w) for w in words]
    status, _, err = jdc(*given)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert names(tmp_path) == ["in/a.png", "in/b.jpg", "in/deep/c.png"]


def test_levels_and_rates_in_weights_that_are_no_numbers_are_passed_over(jdc, tmp_path):
    """They ended `jdc info` in a traceback."""
    saved(tmp_path / "run")
    path = tmp_path / "run" / "weights.safetensors"
    config, about, _ = weights_files.read(path)
    weights_files.save(weights_files.load(path), config, path, about=about | {"lmbda": "x", "sigma": [1]})
    status, out, err = jdc("info", path)
    assert status == 0 and "as in its training data" in out, out + err


def test_a_profile_other_than_srgb_is_not_left_out_in_silence(jdc, run, tmp_path):
    """The decoded image looked different, and nobody was told."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = srgb.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")
    for name, icc, more, warned in (
        ("other", other, [], True), ("srgb", srgb, [], False), ("kept", other, ["--keep-metadata"], False)
    ):  # fmt: skip
        Image.fromarray(photo(20, 20)).save(tmp_path / f"{name}.png", icc_profile=icc)
        target = tmp_path / f"{name}.jdc"
        status, _, err = jdc("compress", tmp_path / f"{name}.png", "-o", target, "--weights", run, *more)
        assert status == 0 and ("its ICC profile is not sRGB, keep it by --keep-metadata" in err) == warned, err


def test_sigma_of_a_guessed_depth_is_told(jdc, tmp_path):
    tifffile.imwrite(tmp_path / "dark.tif", photo(20, 20).astype(np.uint16) * 8, photometric="rgb")
    line = ["compress", tmp_path / "dark.tif", "-o", tmp_path / "x.jdc", "--force"]
    assert "largest sample" not in jdc(*line)[2]
    assert "its largest sample suggests 12 bits, and --sigma was taken in" in jdc(*line, "--sigma", 4)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "100"], "give a multiple of 64"),
        (["--device", "nope"], "device nope cannot be used here"),
        (["--weights", "DAMAGED"], "is not a readable weights file"),
        (["--weights", "GUIDE"], "not a codec: give a codec's run"),
    ],
)
@pytest.mark.parametrize("verb", ["compress", "decompress"])
def test_options_that_no_image_can_use_are_reported_once(jdc, run, ladder, folder, tmp_path, verb, options, message):
    """They used to be reported for each image."""
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    coded = tmp_path / "coded"
    assert jdc("compress", folder, "-o", coded, "--weights", run)[0] == 0
    places = {"DAMAGED": tmp_path / "damaged.safetensors", "GUIDE": ladder / "guide"}
    given = [places.get(word, word) for word in options]
    weights = [] if "--weights" in options else ["--weights", run]
    if verb == "decompress" and "--tile" in options:
        return
    source = folder if verb == "compress" else coded
    status, out, err = jdc(verb, source, "-o", tmp_path / "out", *weights, *given)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert out == "" and not (tmp_path / "out").exists()


def test_two_images_with_one_output_are_refused_before_any_is_coded(jdc, run, folder, tmp_path):
    shutil.copy(folder / "a.png", folder / "b.png")
    status, _, err = jdc("compress", folder, "-o", tmp_path / "coded", "--weights", run)
    assert status == 2 and "b.jpg" in err and "b.png" in err and not (tmp_path / "coded").exists()


def test_the_input_is_never_replaced(run, tmp_path):
    (tmp_path / "x.jdc").write_bytes(jdcsuite.compress(photo(8, 8), run))
    before = (tmp_path / "x.jdc").read_bytes()
    item = paths.Item(tmp_path / "x.jdc", tmp_path / "x.jdc")
    (done,) = batch.run([item], batch.BatchOptions(weights=(run,), force=True), decode=True)
    assert "the input itself" in done.error and (tmp_path / "x.jdc").read_bytes() == before


def test_each_weights_file_is_listed_once(ladder, run):
    files = paths.weights_files([str(ladder / "rung0"), str(ladder), f"{ladder}/rung0/weights.safetensors"])
    assert [p.parent.name for p in files] == ["rung0", "guide", "rung1", "rung2"]
    with pytest.raises(UserError, match="no weights"):
        paths.weights_files([str(run), str(ladder / "rung0" / "nothing")])


def test_weights_expanded_by_the_shell_are_not_inputs(jdc, ladder, tmp_path):
    Image.fromarray(photo(20, 20)).save(tmp_path / "a.png")
    rungs = sorted(ladder.glob("rung*"))
    words = ["compress", tmp_path / "a.png", "-o", tmp_path / "x.jdc", "--target-bpp", 99, "--weights", *rungs]
    status, out, err = jdc(*words)
    assert status == 0 and "1 image," in out, err
    status, _, err = jdc("compress", rungs[0], "-o", tmp_path / "y.jdc", "--weights", rungs[1])
    assert status == 2 and "only weights were given" in err


def test_the_help_states_what_the_psnr_is_measured_against(jdc):
    assert "noise" in jdc("compress", "--help")[1]
    assert sys.argv[0] == "jdc"


def test_files_of_a_folder_that_are_left_out_are_reported(jdc, run, tmp_path, folder):
    """Who deletes originals after archiving has to know; and links to folders are followed."""
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(photo(16, 16)).save(tmp_path / "elsewhere" / "d.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    Image.fromarray(photo(16, 16)).save(folder / "e.gif")
    (folder / "notes.txt").write_text("notes")
    status, out, err = jdc("compress", folder, "-o", tmp_path / "coded", "--weights", run)
    assert status == 0 and "4 images" in out
    assert names(tmp_path / "coded") == ["a.jdc", "b.jdc", "deep/c.jdc", "linked/d.jdc"]
    assert err == f"jdc: warning: {folder}: 2 files left out: 1 .gif, 1 .txt\n"
    (tmp_path / "coded" / "a.jdc").rename(tmp_path / "coded" / "A.JDC")
    (tmp_path / "coded" / "thumbs.db").write_text("")
    status, out, err = jdc("decompress", tmp_path / "coded", "-o", tmp_path / "back", "--weights", run)
    assert status == 0 and "4 images" in out
    assert err == f"jdc: warning: {tmp_path / 'coded'}: 1 file left out: 1 .db\n"


def test_memory_of_decoding_can_be_limited(jdc, run, tmp_path, folder):
    assert jdc("compress", folder / "a.png", "-o", tmp_path / "a.jdc", "--weights", run)[0] == 0
    words = ("decompress", tmp_path / "a.jdc", "-o", tmp_path / "a.png", "--weights", run, "--max-memory")
    status, _, err = jdc(*words, "1k")
    assert status == 1 and "to decode" in err and not (tmp_path / "a.png").exists()
    assert jdc(*words, "4G")[0] == 0
    assert "--max-memory x is not a size" in jdc(*words, "x")[2]


def test_twelve_bits_in_16_bit_words_are_as_good_as_a_shifted_file(jdc, tmp_path):
    """With the flagship: the same noise, bytes and PSNR; decoding restores the scale."""
    low = photo(64, 80, deep=True) >> 4
    low[0, 0] = 4095
    results = {}
    for name, image, options in (("low", low, []), ("shifted", low << 4, []), ("given", low, ["--sigma", 10])):
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(image))
        coded, back = tmp_path / f"{name}.jdc", tmp_path / f"{name}.tif"
        status, out, err = jdc("compress", tmp_path / f"{name}.png", "-o", coded, *options, "--target-psnr", 20)
        assert status == 0 and "12 bits in 16-bit words" in out, err
        assert jdc("decompress", coded, "-o", back)[0] == 0
        results[name] = unpack(coded.read_bytes()), tifffile.imread(back), re.search(r"[\d.]+ dB", out)[0]
    assert results["low"][0].side == results["shifted"][0].side and results["low"][2] == results["shifted"][2]
    np.testing.assert_array_equal(results["low"][1], results["shifted"][1] >> 4)
    assert results["low"][1].max() <= 4095 and float(results["low"][2][:-3]) >= 20
    assert results["given"][0].side.request.noise == 160 and abs(results["low"][0].side.request.noise - 160) < 80
    status, out, _ = jdc("info", "--json", tmp_path / "low.jdc", tmp_path / "shifted.jdc")
    assert [(about["bit_depth"], about["used_bits"]) for about in json.loads(out)] == [
        (16, "12"),
        (16, "12 above 4 empty ones"),
    ]
    status, out, _ = jdc("noise", "--json", tmp_path / "low.png", tmp_path / "shifted.png")
    noise = [estimate["noise"] for estimate in json.loads(out)]
    assert noise[0] == noise[1] == results["low"][0].side.request.noise / 16


def test_colour_declarations_that_a_file_does_not_hold_are_a_warning(jdc, run, tmp_path):
    with_chunks(tmp_path / "linear.png", photo(20, 20), (b"gAMA", struct.pack(">I", 100_000)))
    status, _, err = jdc("compress", tmp_path / "linear.png", "-o", tmp_path / "x.jdc", "--weights", run)
    assert status == 0 and "warning" in err and "colours will look different" in err and "gAMA 1" in err


@pytest.mark.parametrize("name", ["all.jdc", "all.PNG"])
def test_a_folder_is_not_written_to_the_name_of_a_file(jdc, run, tmp_path, folder, name):
    status, _, err = jdc("compress", folder, "-o", tmp_path / name, "--weights", run)
    assert status == 2 and "has the name of a file" in err and not (tmp_path / name).exists()
    assert jdc("compress", folder, "-o", f"{tmp_path / name}/", "--weights", run)[0] == 0


def test_info_describes_the_files_of_a_folder(jdc, run, tmp_path, folder):
    assert jdc("compress", folder, "-o", tmp_path / "coded", "--weights", run)[0] == 0
    (tmp_path / "coded" / "damaged.jdc").write_bytes(b"JDC")
    status, out, err = jdc("info", "--json", tmp_path / "coded", run)
    assert status == 1 and "damaged.jdc: not a .jdc file" in err
    assert [Path(about["file"]).name for about in json.loads(out)] == ["a.jdc", "b.jdc", "c.jdc", "weights.safetensors"]
    status, _, err = jdc("info", folder)
    assert status == 2 and "holds neither weights nor a .jdc file" in err and err.count("\n") == 1


def test_names_in_brackets_are_printed_as_they_are(jdc, run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    name = tmp_path / "x[" / "red].png"
    name.parent.mkdir()
    name.write_bytes(imagecodecs.png_encode(photo(20, 20)))
    coded = tmp_path / "[bold].jdc"
    status, _, err = jdc("compress", name.parent, "-o", tmp_path / "[red]", "--weights", run)
    assert status == 0, err
    (tmp_path / "[red]" / "red].jdc").rename(coded)
    assert str(coded) in jdc("info", coded)[1] and str(name) in jdc("noise", name)[1]


def test_a_damaged_weights_file_does_not_block_good_ones(jdc, run, tmp_path, folder):
    both = tmp_path / "weights"
    both.mkdir()
    shutil.copy(run / "weights.safetensors", both / "good.safetensors")
    (both / "bad.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:999])
    words = ("compress", folder / "a.png", "-o", tmp_path / "x.jdc", "--weights", both, "--target-psnr", 1)
    status, _, err = jdc(*words)
    assert status == 0 and "warning: " in err and "bad.safetensors is not a readable" in err
    (both / "good.safetensors").unlink()
    (both / "worse.safetensors").write_bytes(b"x")
    status, _, err = jdc(*words, "--force")
    assert status == 2 and "bad.safetensors is not a readable" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's devices")
def test_devices_as_input_and_output_are_one_sentence(jdc, run, tmp_path, folder):
    for words in (["info", "/dev/zero"], ["decompress", "/dev/zero", "-o", tmp_path / "x.png", "--weights", run]):
        status, _, err = jdc(*words)
        assert status == 1 and err == "jdc: /dev/zero: not a .jdc file\n"
    status, _, err = jdc("compress", folder / "a.png", "-o", "/dev/null", "--weights", run, "--force")
    assert status == 1 and "/dev/null is a device or pipe, which is not replaced" in err
    assert Path("/dev/null").is_char_device()
    (tmp_path / "x.jdc").write_bytes(jdcsuite.compress(photo(9, 9), run))
    code = f"import sys; sys.argv = ['jdc', 'info', '{tmp_path}/x.jdc']; from jdcsuite.cli import main; main()"
    for sink, status, sentence in (
        ("/dev/full", 1, "jdc: the output cannot be written (No space left on device)\n"),
        (os.devnull, 0, ""),
    ):
        with Path(sink).open("w") as out:
            ended = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert (ended.returncode, ended.stderr) == (status, sentence)


def test_a_tilde_is_the_home_folder(jdc, run, tmp_path, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run, tmp_path / "run")
    status, _, err = jdc("compress", "~/in/a.png", "-o", "~/x.jdc", "--weights=~/run")
    assert status == 0, err
    assert jdcsuite.compress(photo(40, 50), "~/run") == (tmp_path / "x.jdc").read_bytes()
