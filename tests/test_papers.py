"""experiments/papers and experiments/references: weights and test images -> rows and the report of a paper's figure."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml
from experiment_scripts import EXPERIMENTS, load
from fllic_examples import TINY, ready, tiny
from PIL import Image

from jdcsuite.artifacts import weights
from jdcsuite.judging import candidates, results


@pytest.fixture(scope="module")
def figure() -> ModuleType:
    return load("papers/figure.py")


def test_codecs_of_a_figure_are_all_combinations_of_runs_of_its_noise_level(figure: ModuleType) -> None:
    runs = {
        "fllic": [(Path("a"), 5), (Path("b"), 10)],
        "unet": [(Path("u"), None)],
        "codec": [(Path("c"), None), (Path("d"), None)],
        "lcfdnet": [(Path("l"), 0)],
    }
    assert list(figure.words("{lcfdnet}", runs, 10)) == ["l"], "a codec of clean images is of every level"
    assert list(figure.words("{unet}+{lcfdnet}", runs, 5)) == ["u+l"]
    assert list(figure.words("{fllic}", runs, 10)) == ["b"]
    assert list(figure.words("{fllic}", runs, 0)) == ["a", "b"]
    assert list(figure.words("{unet}+{codec}", runs, None)) == ["u+c", "u+d"]
    assert list(figure.words("bm3d@{sigma}+avif", runs, 5)) == ["bm3d@5+avif"]
    assert list(figure.words("{restormer}+{codec}", runs, 5)) == []
    assert list(figure.words("jpegxl", runs, None)) == ["jpegxl"]


def test_a_figure_compares_with_the_whole_curve_of_a_method(figure: ModuleType) -> None:
    """Not with the one rung that a chain starts from, which bears the method's plain name."""
    labels = ["codec", *["codec +start=codec_chain"] * 5, "jdc_n"]
    points = pd.DataFrame({"label": labels, "method": [*["codec"] * 6, "jdc_n"]})
    assert figure.anchor(points, "codec") == "codec +start=codec_chain"
    assert figure.anchor(points, "jdc_n") == "jdc_n" and figure.anchor(points, "unet") == ""


def test_every_figure_names_known_methods_and_codecs(figure: ModuleType) -> None:
    methods = {path.stem for path in (EXPERIMENTS.parent / "conf" / "experiment").glob("*.yaml")}
    for name, entry in yaml.safe_load(figure.FIGURES.read_text()).items():
        drawn = figure.Figure(**entry)
        for codec in drawn.codecs:
            parts = [part.partition("@")[0] for part in codec.split("+")]
            named = [part for part in parts if not part.startswith("{")]
            assert {part.strip("{}") for part in parts if part.startswith("{")} <= methods, name
            known = {*candidates.LADDERS, *candidates.EXTERNAL, "bm3d", "nlm"}
            assert set(named) <= known, name
        assert drawn.against in methods


def test_a_figure_is_made_from_weights_and_goes_on_where_it_stopped(
    figure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = {"codecs": ["{fllic}", "{fllic_w}", "webp@50", "bpg"], "sigma": [5, 10], "against": "fllic"}
    monkeypatch.setattr(figure, "FIGURES", tmp_path / "figures.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    figure.FIGURES.write_text(yaml.safe_dump({"mine": entry}))
    (tmp_path / "test").mkdir()
    (tmp_path / "runs").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(image).resize((180, 178)).save(tmp_path / "test" / "a.png")
    model = ready(tiny())
    about = {"method": "fllic", "sigma": 10, "lmbda": 2048, "curve": "fllic"}
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", **TINY}
    weights.save(model, config, tmp_path / "runs" / "a.safetensors", about=about)
    command = ["mine", str(tmp_path / "runs"), "--data", str(tmp_path / "test"), "-o", str(tmp_path / "out")]
    assert figure.main(command) == 0
    out = capfd.readouterr().out
    assert "{fllic_w} is left out: no trained run" in out and "bpg is left out: bpg needs the program bpgenc" in out
    rows = results.read([tmp_path / "out" / "results.csv"])
    assert sorted(zip(rows["method"], rows["sigma"], strict=True)) == [
        ("fllic", 10), ("noisy + webp", 5), ("noisy + webp", 10),
    ]  # fmt: skip
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    before = (tmp_path / "out" / "results.csv").read_bytes()
    assert figure.main(command) == 0
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    calls = []
    monkeypatch.setattr(figure, "jdc", lambda *words: calls.append(words) or 0)
    command[-1] = str(tmp_path / "other")
    assert figure.main([*command, "--rows", str(tmp_path / "out" / "results.csv")]) == 0
    assert [words[0] for words in calls] == ["report"], "rows that are at hand are not measured again"
    assert sorted((tmp_path / "other" / "results.csv").read_bytes().splitlines()) == sorted(before.splitlines())


def test_rows_at_hand_are_found_by_method_and_noise_level(figure: ModuleType) -> None:
    methods = ["fllic", "unet + codec", "bm3d@5 + avif", "bm3d@10 + avif", "noisy + webp", "noisy + jpegxl-lossless"]
    rows = pd.DataFrame({"method": methods, "sigma": [10, math.nan, 10, 10, 10, 10]})
    for codec, sigma, found in (
        ("{fllic}", 10, [0]), ("{fllic}", 5, []), ("{unet}+{codec}", None, [1]), ("bm3d@{sigma}+avif", 10, [3]),
        ("webp@50", 10, [4]), ("jpegxl-lossless", 10, [5]), ("{codec}", None, []), ("avif", 10, []),
    ):  # fmt: skip
        assert figure.held(rows, codec, sigma).index.tolist() == found, codec


def test_reference_codecs_are_given_the_noise_level() -> None:
    references = load("references/references.py")
    assert "bm3d@15+avif@40,50,60,70,80,90" in references.words(15, bm3d=True)
    for words in (references.words(0, bm3d=True), references.words(15, bm3d=False)):
        assert not any(word.startswith("bm3d") for word in words)
        assert len(candidates.parse(words)) == len(candidates.parse(references.LOSSY)) + len(references.LOSSLESS)
