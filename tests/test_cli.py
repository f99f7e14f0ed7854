"""`jdc fetch | evaluate | report`, and usage errors of all verbs, in this process."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from jdcsuite import cli
from jdcsuite.artifacts import weights
from jdcsuite.baselines.standards import LADDERS
from jdcsuite.models.fllic import FLLIC


@pytest.fixture
def jdc(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jdc", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    root.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(coarse).rotate(90 * i).resize((70, 66), Image.Resampling.BICUBIC).save(root / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = {"widths": [8, 8, 16], "num_latents": 32, "prior_width": 8}
    model = FLLIC(**shape).eval()
    model.update()
    path = tmp_path_factory.mktemp("run")
    about = {"run": "r1", "curve": "fllic", "method": "fllic", "sigma": 10, "lmbda": 8192, "budget": "demo", "seed": 0}
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", **shape}
    weights.save(model, config, path / "weights.safetensors", about=about)
    return path


def test_evaluate_measures_runs_and_standard_codecs(jdc, folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    words = ["evaluate", run, "jpegxl", "--data", folder, "--sigma", 5, "--sigma", 10, "--out", out]
    status, printed, err = jdc(*words)
    assert status == 0, printed + err
    rows = pd.read_csv(out)
    assert len(rows) == (1 + len(LADDERS["jpegxl"])) * 2 * 2
    assert set(rows["method"]) == {"fllic", "noisy + jpegxl"} and set(rows["sigma"]) == {5, 10}
    noisy = rows.groupby(["image", "sigma"])["psnr_noisy"].nunique()
    assert (noisy == 1).all(), "every codec gets the same noisy image"
    before = out.read_bytes()
    status, printed, _ = jdc(*words)
    assert status == 0 and f"{len(rows)} of {len(rows)} rows are in {out} already" in printed
    assert out.read_bytes() == before
    status, printed, err = jdc("report", out, "-o", tmp_path / "report")
    assert status == 0, printed + err
    assert (tmp_path / "report" / "rd.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["evaluate", "nope", "--data", "DATA", "--sigma", "1", "--out", "OUT"],
            "neither a run, a weights file, flagship nor",
        ),
        (["evaluate", "png", "--data", "NOWHERE", "--sigma", "1", "--out", "OUT"], "does not exist"),
        (["evaluate", "png", "--data", "DATA", "--sigma", "-1", "--out", "OUT"], "is not a noise level"),
        (["evaluate", "png", "--data", "DATA", "--sigma", "1", "--out", "NOWHERE/x.csv"], "make it first"),
        (["report", "NOWHERE", "-o", "OUT"], "NOWHERE does not exist"),
        (["report", "DATA", "-o", "OUT"], "There is no results.csv in"),
        (["fetch", "nope", "--root", "OUT"], "nope"),
    ],
)
def test_a_mistake_is_one_sentence(jdc, folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    given = [w.replace("DATA", str(folder)).replace("OUT", str(tmp_path / "out.csv")) for w in words]
    status, _, err = jdc(*given)
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_names_that_are_no_utf8_are_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["jdc", "cache"])
    monkeypatch.setenv("JDCSUITE_CACHE", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code and b"caf\\udce9" in out.buffer.getvalue()


def test_fetch_lists_the_catalogue(jdc) -> None:
    status, out, _ = jdc("fetch", "--list")
    assert status == 0 and all(name in out for name in ("kodak24", "div2k", "urban100", "sidd", "nind"))


def test_weights_that_name_other_code_are_refused(jdc, folder: Path, run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(run / "weights.safetensors")
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad, metadata={"format": weights.FORMAT, "about": "{}", "model": '{"_target_": "os.system"}'})
    status, _, err = jdc("evaluate", bad, "--data", folder, "--sigma", 1, "--out", tmp_path / "o.csv")
    assert status == 2 and "os.system, which is no model of jdcsuite" in err


def test_weights_without_metadata_are_named_by_their_file(jdc, folder: Path, run: Path, tmp_path: Path) -> None:
    """`jdc evaluate` used to end in a KeyError."""
    bare = tmp_path / "bare.safetensors"
    config, _, _ = weights.read(run / "weights.safetensors")
    weights.save(weights.load(run), config, bare, about={})
    status, printed, err = jdc("evaluate", bare, "--data", folder, "--sigma", 5, "--out", tmp_path / "rows.csv")
    assert status == 0, printed + err
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert set(rows["run"]) == set(rows["method"]) == set(rows["curve"]) == {"bare"}
    assert rows[["lmbda", "seed", "budget", "sigma_train"]].isna().all(axis=None) and rows["psnr"].notna().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["compress"],
            "jdc: compress needs IN... (images, folders of images, or glob patterns): see jdc compress --help",
        ),
        (["compress", "a.png"], "jdc: compress needs -o/--out (file for one image, folder for several)"),
        (["decompress"], "jdc: decompress needs IN... (.jdc files"),
        (["decompress", "a.jdc"], "jdc: decompress needs -o/--out"),
        (["noise"], "jdc: noise needs IN..."),
        (["predenoise", "a.png", "-o", "out"], "jdc: predenoise needs --weights (the denoiser: a run or weights file"),
        (["evaluate", "avif", "--out", "x.csv"], "jdc: evaluate needs --data (folder of clean images"),
        (["evaluate"], "jdc: evaluate needs CODEC..."),
        (["report", "runs"], "jdc: report needs -o/--out (folder to write to)"),
        (["export", "run"], "jdc: export needs -o/--out"),
        (["compress", "a.png", "-o", "x.jdc", "--qualty", "5"], "jdc: compress has no option --qualty: did you mean"),
        (["info", "--colour"], "jdc: info has no option --colour: see jdc info --help"),
        (["compress", "a.png", "-o"], "-o needs a value: see jdc"),
        (["compress", "a.png", "-o", "x.jdc", "--tile", "big"], "--tile cannot be used ("),
        (["compress", "a.png", "-o", "x.jdc", "--jobs", "0"], "--jobs cannot be used ("),
        (["evaluate", "avif", "--data", ".", "-o", "x.csv", "--sigma", "much"], "--sigma cannot be used ("),
        (["bench", "--repeats", "0"], "--repeats cannot be used ("),
        (["bench", "loop"], "loop is not a benchmark: choose code, train or ddp"),
        (["fetch", "kodak24", "more"], "more"),
        (["compres", "a.png"], "there is no verb compres: choose one of compress, decompress, info"),
    ],
)
def test_a_usage_error_is_one_sentence_that_says_what_to_do(jdc, words: list[str], message: str) -> None:
    """Such errors used to be a usage text in a box."""
    status, out, err = jdc(*words)
    assert status == 2 and out == "" and len(err.strip().splitlines()) == 1, err
    assert err.startswith("jdc: ") and message in err, err


def test_without_a_verb_the_help_is_shown(jdc) -> None:
    status, out, err = jdc()
    assert status == 0 and err == "" and "predenoise" in out


def test_a_device_that_is_not_there_is_reported_for_standard_codecs_too(jdc, folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", "png", "--data", folder, "--sigma", 1, "--out", tmp_path / "x.csv", "--device", "nope"]
    status, _, err = jdc(*words)
    assert status == 2 and "device nope cannot be used here" in err and len(err.strip().splitlines()) == 1
