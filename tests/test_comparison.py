"""Comparison of curves: BD-PSNR against integration by numpy, interval, verdict, table."""

from __future__ import annotations

from pathlib import Path

import bjontegaard
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from jdcsuite.cli.app import app
from jdcsuite.judging import curves, results
from jdcsuite.judging.comparison import bd_matrix, compare, functionally_lossless, pareto, psnr_at
from jdcsuite.reports import report
from jdcsuite.types import UserError

IMAGES = [f"{i:02}.png" for i in range(12)]


def rows(method: str, points: dict[float, tuple[float, float]], *, seed: float = 0, spread: float = 0.1) -> list[dict]:
    """One row per image and rung; rates of the images differ by the same factors in all methods, PSNR randomly."""
    random = np.random.default_rng([len(method), int(np.nan_to_num(seed))])
    common = {"method": method, "curve": method, "seed": seed, "budget": "lab", "dataset": "set", "sigma": np.nan}
    table = []
    for lmbda, (bpp, psnr) in points.items():
        for i, image in enumerate(IMAGES):
            at = {"lmbda": lmbda, "image": image, "bpp": bpp * (1 + i / 20), "psnr": psnr + spread * random.normal()}
            table.append(common | at | {"run": f"{method}-{lmbda}-{seed}", "noise_seed": 0, "psnr_noisy": 28.0})
    return table


def compared(*parts: list[dict], anchor: str = "codec") -> pd.DataFrame:
    every = pd.DataFrame([row for part in parts for row in part]).reindex(columns=results.COLUMNS)
    every[results.TEXT] = every[results.TEXT].fillna("").astype(str)
    points = curves.points(every)
    return compare(curves.labelled(every, points), anchor).set_index("label")


CODEC = {512: (0.4, 28.0), 2048: (1.0, 31.0)}
AHEAD = {512: (0.3, 28.0), 2048: (0.8, 31.5)}


def straight(anchor: list[dict], other: list[dict], image: str) -> float:
    """Mean PSNR difference over the common rates of two curves of two points, linear in log bpp."""
    curves = []
    for part in (anchor, other):
        mine = sorted((row["bpp"], row["psnr"]) for row in part if row["image"] == image)
        curves.append((np.log([b for b, _ in mine]), [p for _, p in mine]))
    at = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), 2001)
    return float(np.mean(np.interp(at, *curves[1]) - np.interp(at, *curves[0])))


def test_bd_psnr_is_the_mean_difference_over_common_rates() -> None:
    anchor, other = rows("codec", CODEC), rows("jdc_n", AHEAD)
    (result,) = compared(anchor, other).to_dict("records")
    expected = [straight(anchor, other, image) for image in IMAGES]
    assert result["bd_psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    draws = np.random.default_rng(1).choice(expected, (20_000, len(expected))).mean(1)
    assert [result["low"], result["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)
    assert result["verdict"] == "holds" and result["pictures"] == 12 and result["seeds"] == 1


def renamed(part: list[dict], dataset: str, names: list[str]) -> list[dict]:
    images = sorted({row["image"] for row in part})
    return [row | {"image": names[images.index(row["image"])], "dataset": dataset} for row in part]


def test_images_of_one_scene_are_resampled_together() -> None:
    """Twelve images of six scenes give the interval of six independent values."""
    polyu = [
        f"Canon600D_3-5_125_1600_{scene}_{i}.jpg" for scene in ("toy", "book", "door", "plant", "desk") for i in (1, 2)
    ]
    polyu += ["Sony_3-5_125_1600_toy_1.jpg", "Sony_3-5_125_1600_toy_2.jpg"]
    anchor, other = rows("codec", CODEC, spread=0.3), rows("jdc_n", AHEAD, spread=0.3)
    (alone,) = compared(anchor, other).to_dict("records")
    (grouped,) = compared(*(renamed(part, "polyu_test", polyu) for part in (anchor, other))).to_dict("records")
    assert alone["groups"] == 12 and grouped["groups"] == 6 and grouped["pictures"] == 12
    assert grouped["bd_psnr"] == pytest.approx(alone["bd_psnr"])
    means = np.array([straight(anchor, other, image) for image in sorted(IMAGES)]).reshape(6, 2).mean(1)
    draws = np.random.default_rng(1).choice(means, (20_000, 6)).mean(1)
    assert [grouped["low"], grouped["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)
    cc = [
        f"{camera}_{i}.png"
        for camera in ("d600_iso3200", "d800_iso1600", "d800_iso3200", "5dmark3_iso3200")
        for i in (1, 2, 3)
    ]
    (few,) = compared(*(renamed(part, "cc15", cc) for part in (anchor, other))).to_dict("records")
    assert few["groups"] == 4 and np.isnan(few["low"]) and few["verdict"] == "few scenes"
    assert few["bd_psnr"] == pytest.approx(alone["bd_psnr"])


def test_images_whose_curves_share_few_rates_are_left_out_and_counted() -> None:
    """An overlap of one per cent used to be enough."""
    near, far = {512: (0.5, 28.0), 2048: (1.2, 31.0)}, {512: (0.9, 30.0), 2048: (9.0, 35.0)}
    (result,) = compared(rows("codec", CODEC, spread=0), rows("jdc_n", near, spread=0)).to_dict("records")
    assert result["apart"] == 0 and result["rungs"] == 2
    (result,) = compared(rows("codec", CODEC, spread=0), rows("jdc_n", far, spread=0)).to_dict("records")
    assert result["apart"] == 12 and result["verdict"] == "no overlap"


def test_bd_rate_recovers_a_known_factor() -> None:
    saved = {lmbda: (0.8 * bpp, psnr) for lmbda, (bpp, psnr) in CODEC.items()}
    (result,) = compared(rows("codec", CODEC, spread=0), rows("jdc_n", saved, spread=0)).to_dict("records")
    assert result["bd_rate"] == pytest.approx(-20) and result["overlap"] == pytest.approx(1) and result["cut"] == 0


def test_curves_are_compared_on_their_common_images() -> None:
    """A curve of fewer images with lower rates used to have a better BD-rate."""
    other = [row for row in rows("jdc_n", CODEC, spread=0) if row["image"] in IMAGES[:3]]
    (result,) = compared(rows("codec", CODEC, spread=0), other).to_dict("records")
    assert result["pictures"] == 3 and result["bd_rate"] == pytest.approx(0, abs=1e-6)


def test_infinite_psnr_gives_no_bd_rate() -> None:
    endless = {512: (0.4, np.inf), 2048: (1.0, np.inf)}
    result = compared(rows("codec", endless, spread=0), rows("jdc_n", endless, spread=0)).loc["jdc_n"]
    assert np.isnan(result["bd_rate"]) and result["overlap"] == 0 and result["verdict"] == "no overlap"
    assert result["reason"] == "no point" and result["exact"] == 12


def test_points_below_the_pareto_front_are_left_out_of_the_bd_rate() -> None:
    falling = CODEC | {4096: (1.5, 30.0)}
    result = compared(rows("codec", CODEC, spread=0), rows("jdc_n", falling, spread=0)).loc["jdc_n"]
    assert result["cut"] == 1 and result["bd_rate"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (AHEAD, "holds"),
        ({512: (0.5, 28.0), 2048: (1.2, 31.0)}, "fails"),
        (CODEC, "undecided"),
        ({512: (3.0, 35.0), 2048: (6.0, 37.0)}, "no overlap"),
        ({512: (0.5, 28.0)}, "no overlap"),
    ],
)
def test_verdicts(points: dict, verdict: str) -> None:
    result = compared(rows("codec", CODEC, spread=0.3), rows("jdc_n", points, spread=0.3)).loc["jdc_n"]
    assert result["verdict"] == verdict
    assert np.isnan(result["bd_psnr"]) == (verdict == "no overlap")


def test_seeds_are_averaged_and_must_agree() -> None:
    slightly = {lmbda: (bpp, psnr - 0.2) for lmbda, (bpp, psnr) in CODEC.items()}
    anchor = rows("codec", CODEC, seed=0, spread=0.02) + rows("codec", CODEC, seed=1, spread=0.02)
    agreed = compared(anchor, rows("jdc_n", AHEAD, seed=0) + rows("jdc_n", AHEAD, seed=1)).loc["jdc_n"]
    assert agreed["verdict"] == "holds" and agreed["seeds"] == 2
    split = compared(anchor, rows("jdc_n", AHEAD, seed=0) + rows("jdc_n", slightly, seed=1)).loc["jdc_n"]
    assert split["low"] > 0, "the mean over seeds is ahead"
    assert split["verdict"] == "undecided" and split["seeds"] == 2


def test_the_verdict_names_what_curves_do_not_share() -> None:
    """Both used to be reported as "no overlap" of rates."""
    codec = rows("codec", CODEC, seed=0)
    seeds = compared(codec, rows("jdc_n", AHEAD, seed=1)).loc["jdc_n"]
    assert seeds["verdict"] == "no common seed" and np.isnan(seeds["bd_psnr"]) and seeds["seeds"] == 0
    renamed = [row | {"image": f"other {row['image']}"} for row in rows("jdc_n", AHEAD, seed=0)]
    assert compared(codec, renamed).loc["jdc_n", "verdict"] == "no common picture"


def test_a_curve_without_seeds_is_compared_with_every_seed() -> None:
    standard = [row | {"lmbda": np.nan, "quality": str(row["lmbda"])} for row in rows("avif", CODEC, seed=np.nan)]
    result = compared(rows("jdc_n", AHEAD, seed=0) + rows("jdc_n", AHEAD, seed=1), standard, anchor="jdc_n").loc["avif"]
    assert result["seeds"] == 2 and result["verdict"] == "fails"


def test_pareto_keeps_increasing_points_only() -> None:
    curve = pd.DataFrame({"bpp": [3.0, 0.5, 1.0, 2.0, 1.0, 4.0], "psnr": [30.0, 27.0, 28.0, 31.0, 28.5, 30.5]})
    kept, cut = pareto(curve)
    assert kept["psnr"].tolist() == [27.0, 28.5, 31.0]
    assert kept["bpp"].tolist() == [0.5, 1.0, 2.0]
    assert cut == 3
    assert pareto(kept)[1] == 0


def test_a_comparison_is_written_and_printed(tmp_path: Path) -> None:
    pd.DataFrame(rows("codec", CODEC) + rows("jdc_n", AHEAD)).to_csv(tmp_path / "rows.csv", index=False)
    console = Console(width=80)
    with console.capture() as capture:
        files = report.make([tmp_path / "rows.csv"], tmp_path / "out", console, against="codec")
    assert "Against codec at equal rate" in capture.get() and "holds, 1 seed" in capture.get()
    (row,) = pd.read_csv(files["compared"]).to_dict("records")
    assert row["label"] == "jdc_n" and row["low"] < row["bd_psnr"] < row["high"]


def test_a_missing_curve_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no curve jdc_cn to compare with: choose one of codec, jdc_n"):
        compared(rows("codec", CODEC), rows("jdc_n", AHEAD), anchor="jdc_cn")
    with pytest.raises(UserError, match="codec is the only curve"):
        compared(rows("codec", CODEC))
    pd.DataFrame(rows("codec", CODEC)).to_csv(tmp_path / "rows.csv", index=False)
    words = ["report", str(tmp_path / "rows.csv"), "-o", str(tmp_path / "out"), "--against", "nothing"]
    assert CliRunner().invoke(app, words).exit_code != 0
    assert not (tmp_path / "out").exists(), "nothing is written"


def points(**curves: list[tuple[float, float]]) -> pd.DataFrame:
    """Points of curves as `curves.points` gives them; the names are methods, with _ for " + "."""
    table = [
        {"dataset": "set", "sigma": 10.0, "label": name, "method": name.replace("_", " + "), "bpp": bpp, "psnr": psnr}
        for name, curve in curves.items()
        for bpp, psnr in curve
    ]
    return pd.DataFrame(table).assign(images=24)


def cell(matrix: pd.DataFrame, anchor: str, label: str) -> dict:
    return matrix.set_index(["anchor", "label"]).loc[(anchor, label)].to_dict()


def test_the_bd_matrix_has_the_package_s_numbers_on_its_own_example() -> None:
    anchor = [9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851]
    other = [9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987]
    matrix = bd_matrix(points(a=list(zip(*anchor, strict=True)), b=list(zip(*other, strict=True))))
    own = cell(matrix, "a", "b")
    ascending = [part[::-1] for part in (*anchor, *other)]
    assert own["bd_rate"] == pytest.approx(bjontegaard.bd_rate(*ascending, "pchip"), abs=1e-9)
    assert own["bd_psnr"] == pytest.approx(bjontegaard.bd_psnr(*ascending, "pchip"), abs=1e-9)
    assert own["method"] == "pchip" and own["note"] == own["reason"] == "" and own["overlap"] > 0.9
    for same in "ab":
        assert f"{cell(matrix, same, same)['bd_rate']:+.2f}" == "+0.00" and cell(matrix, same, same)["bd_psnr"] == 0


def test_bd_figures_of_straight_lines_are_those_by_hand() -> None:
    """6 dB an octave, one curve a dB higher: a sixth of an octave, 2^(-1/6) - 1 = -10.910 per cent."""
    own = cell(bd_matrix(points(a=[(1, 30), (2, 36)], b=[(1, 31), (2, 37)])), "a", "b")
    assert own["bd_rate"] == pytest.approx(100 * (2 ** (-1 / 6) - 1)) and own["bd_psnr"] == pytest.approx(1)
    assert own["overlap"] == pytest.approx(5 / 7) and own["overlap_rate"] == 1 and own["note"] == "2 points"


def test_undefined_bd_figures_have_their_reason() -> None:
    line = [(0.5, 28.0), (1.0, 31.0), (2.0, 33.0), (4.0, 35.0)]
    far = [(64.0, 50.0), (128.0, 51.0), (256.0, 52.0), (300.0, 53.0)]
    falling = [(0.5, 29.0), (1.0, 32.0), (2.0, 30.0), (4.0, 29.5)]
    matrix = bd_matrix(points(line=line, far=far, falling=falling, single=line[:1], denoiser=[(np.nan, 36.0)]))
    assert set(matrix["label"]) == {"line", "far", "falling", "single"}, "a denoiser has no rate"
    assert cell(matrix, "line", "far")["reason"] == cell(matrix, "line", "far")["reason_psnr"] == "no overlap"
    assert cell(matrix, "line", "single")["reason"] == cell(matrix, "line", "single")["reason_psnr"] == "one point"
    worse = [(0.5, 33.0), (1.0, 32.0), (2.0, 30.0), (4.0, 29.5)]
    assert cell(bd_matrix(points(line=line, worse=worse)), "line", "worse")["reason"] == "not monotone"
    notes = cell(matrix, "line", "falling")
    assert "2 points cut, not monotone" in notes["note"] and np.isfinite([notes["bd_rate"], notes["bd_psnr"]]).all()
    assert (matrix["bd_rate"].isna() == (matrix["reason"] != "")).all()
    assert (matrix["bd_psnr"].isna() == (matrix["reason_psnr"] != "")).all()
    unlike = points(line=line, other=line)
    unlike.loc[unlike["label"] == "other", "images"] = 4
    assert cell(bd_matrix(unlike), "line", "other")["reason"] == "of 4 and 24 images"


def test_psnr_at_fixed_rates_is_interpolated_and_never_extrapolated() -> None:
    table = psnr_at(points(a=[(1, 30), (4, 34)]), [0.5, 1.0, 2.0, 4.0])
    assert table["psnr"].tolist()[1:] == pytest.approx([30, 32, 34])
    assert np.isnan(table["psnr"][0]) and table["reason"].tolist() == ["1.00 to 4.00 bpp only", "", "", ""]


def test_the_functionally_lossless_rate_is_relative_to_the_best_uncoded_denoiser() -> None:
    known = {"bm3d_png": [(9.0, 36.0)], "noisy_png": [(18.0, 28.0)], "fllic": [(1, 33), (2, 35.75)], "low": [(1, 30)]}
    table = functionally_lossless(points(**known)).set_index(["label", "margin"])
    assert table.loc[("fllic", 0.5), "bpp"] == pytest.approx(2 ** (2.5 / 2.75)) and table["psnr"].max() == 35.75
    assert table.loc[("fllic", 0.25), "bpp"] == 2 and set(table["denoiser"]) == {"bm3d_png"}
    assert table.loc["low", "reason"].tolist() == ["not reached"] * 3 and table.loc["low", "bpp"].isna().all()
    assert "bm3d_png" not in table.index and not table["at_most"].any()
    high = (
        functionally_lossless(points(**known, high=[(0.8, 35.9), (2, 36)])).set_index(["label", "margin"]).loc["high"]
    )
    assert high["bpp"].tolist() == [0.8] * 3 and high["at_most"].all(), "lower rates were not tried"
    del known["bm3d_png"]
    assert set(functionally_lossless(points(**known))["reason"]) == {"no uncoded denoiser"}


def test_an_image_that_failed_at_one_rung_is_left_out_of_the_bd_rate() -> None:
    """The mean of that rung was over the other images, and the curves were compared as if it were not."""
    saved = {lmbda: (0.8 * bpp, psnr) for lmbda, (bpp, psnr) in CODEC.items()}
    codec, other = rows("codec", CODEC, spread=0), rows("jdc_n", saved, spread=0)
    del other[len(IMAGES) - 1]  # the one of the highest rate, at the first rung
    result = compared(codec, other).loc["jdc_n"]
    assert result["bd_rate"] == pytest.approx(-20) and result["reason"] == ""


def test_exact_images_are_left_out_of_the_bd_rate() -> None:
    """One of them used to take the BD-rate of its curve."""
    saved = {lmbda: (0.8 * bpp, psnr) for lmbda, (bpp, psnr) in CODEC.items()}
    other = rows("jdc_n", saved, spread=0)
    for row in other[:: len(IMAGES)]:
        row["psnr"] = np.inf
    result = compared(rows("codec", CODEC, spread=0), other).loc["jdc_n"]
    assert result["bd_rate"] == pytest.approx(-20) and result["exact"] == 1 and result["reason"] == ""
