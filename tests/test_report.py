"""Reports: rows joined and read back, means compared with numpy, labels, tables, figure, strip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from jdcsuite.judging import curves, results
from jdcsuite.reports import crops, figures, report
from jdcsuite.types import UserError

IMAGES = ["001", "NA", "kodim03.png"]
RUNGS = {512.0: (0.4, 26.0), 2048.0: (0.9, 29.0), 8192.0: (1.6, 31.0)}


def row(method: str, image: str, bpp: float, psnr: float, **values: object) -> dict[str, object]:
    common = {"method": method, "dataset": "kodak24", "image": image, "bpp": bpp, "psnr": psnr}
    common |= {"sigma": 10.0, "noise_seed": 0, "noise_protocol": "clip8", "psnr_noisy": 28.25}
    return common | {"ms_ssim_noisy": 0.9, "ms_ssim": 0.95, "height": 64, "width": 48} | values


def run_folder(sweep: Path, method: str, lmbda: float, budget: str = "lab", **values: object) -> Path:
    """A run folder with rows of full-precision numbers, and the images of one test image."""
    folder = sweep / f"{method}-l{lmbda:g}"
    (folder / "pictures").mkdir(parents=True)
    noise = np.random.default_rng(int(lmbda)).uniform(0, 0.1, (len(IMAGES), 2))
    bpp, psnr = RUNGS[lmbda]
    identity = {
        "run": folder.name,
        "curve": method,
        "lmbda": lmbda,
        "seed": 0,
        "budget": budget,
        "code_version": "a1",
    }
    rows = [
        row(method, image, bpp + b, psnr + p, bpp_est=bpp, bpp_payload=bpp, **(identity | values))
        for image, (b, p) in zip(IMAGES, noise, strict=True)
    ]
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    for i, kind in enumerate(("noisy", "decoded", "clean")):
        picture(i, int(lmbda)).save(folder / "pictures" / f"kodak24_kodim03_{kind}.png")
    return folder


def picture(kind: int, seed: int) -> Image.Image:
    seed = seed if kind == 1 else 0  # noisy and clean images are the same for all runs
    pixels = np.random.default_rng([kind, seed]).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def standard(path: Path, method: str, points: list[tuple[object, float, float]]) -> Path:
    rows = [row(method, image, b, p, quality=quality) for quality, b, p in points for image in IMAGES]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for lmbda in RUNGS:
        run_folder(tmp_path / "sweep", "fllic", lmbda)
    return tmp_path / "sweep"


@pytest.fixture
def avif(tmp_path: Path) -> Path:
    return standard(tmp_path / "avif.csv", "noisy + avif", [(30, 0.5, 27.0), (60, 1.3, 31.5), (90, 3.7, 29.0)])


def printed(paths: list[Path], out: Path) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        report.make(paths, out, console)
    return capture.get()


def test_read_keeps_every_value_and_drops_duplicate_rows(sweep: Path, avif: Path, tmp_path: Path) -> None:
    rows = results.read([sweep, avif])
    assert list(rows)[: len(results.COLUMNS)] == results.COLUMNS
    assert len(rows) == 2 * 3 * len(IMAGES)
    assert set(rows["image"]) == set(IMAGES)  # "001" and "NA" stay text
    written = pd.read_csv(sweep / "fllic-l512" / "results.csv", float_precision="round_trip")
    assert rows.loc[rows["run"] == "fllic-l512", "bpp"].tolist() == written["bpp"].tolist()
    assert rows.loc[rows["method"] == "noisy + avif", "quality"].unique().tolist() == ["30", "60", "90"]

    again = standard(tmp_path / "again.csv", "noisy + avif", [("30.0", 0.50001, 27.001)])
    later = results.read([sweep, avif, again, sweep / "fllic-l512"])
    assert len(later) == len(rows)
    assert later.loc[later["quality"] == "30", "bpp"].tolist() == [0.50001] * len(IMAGES)


def test_two_results_for_one_image_are_refused(avif: Path, tmp_path: Path) -> None:
    """The second used to replace the first."""
    again = standard(tmp_path / "again.csv", "noisy + avif", [(30, 0.6, 27.0)])
    with pytest.raises(UserError, match=r"avif\.csv and .*again\.csv give two results for noisy \+ avif on 001"):
        results.read([avif, again])


def test_sets_of_one_name_and_weights_of_one_run_name_are_kept_apart(tmp_path: Path) -> None:
    """The rows of the first used to be dropped."""
    for place, image, weights in (("a", "00aa", "1111"), ("b", "00bb", "1111"), ("c", "00aa", "2222"), ("old", "", "")):
        values = {"image_id": image, "weights_id": weights, "run": "r1", "curve": "fllic", "lmbda": 512}
        rows = [row("fllic", "1.png", 1.0 + (image == "00bb") + 2 * (weights == "2222"), 30.0, **values)]
        pd.DataFrame(rows).to_csv(tmp_path / f"{place}.csv", index=False)
    points = curves.points(results.read([tmp_path / f"{name}.csv" for name in ("a", "b", "c", "old")]))
    got = points.set_index(["dataset", "label"])["bpp"].to_dict()
    assert got == {
        ("kodak24", "fllic"): 1.0, ("kodak24", "fllic (weights 2)"): 3.0, ("kodak24 (2)", "fllic"): 2.0
    }, "rows without ids are those of the only image and weights of their name"  # fmt: skip
    again = results.read([tmp_path / "a.csv", tmp_path / "b.csv"])
    results.write(again, tmp_path / "joined.csv")
    assert len(results.read([tmp_path / "joined.csv", tmp_path / "a.csv"])) == 2, "a joined file is read back"


def test_two_runs_of_one_key_and_different_configurations_are_refused(tmp_path: Path) -> None:
    """The rows of the second used to replace those of the first."""
    for place, width, root in (("a", 1, "x"), ("b", 1, "y"), ("c", 2, "x")):
        folder = run_folder(tmp_path / place, "fllic", 512.0)
        (folder / "config.yaml").write_text(f"key: abcd\nmodel: {{width: {width}}}\ndata: {{root: {root}}}\n")
    assert len(results.read([tmp_path / "a", tmp_path / "b"])) == len(IMAGES), "a copy elsewhere"
    with pytest.raises(UserError, match=r"a/fllic-l512 and .*c/fllic-l512 have one key, abcd, .* \(model\)"):
        results.read([tmp_path])


def test_a_failed_row_gives_way_to_a_result(tmp_path: Path) -> None:
    failed = row("noisy + webp", "1", np.nan, np.nan, quality=50, error="too large")
    for name, rows in {"ok": [row("noisy + webp", "1", 1.0, 30.0, quality=50)], "failed": [failed]}.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    assert results.read([tmp_path / "ok.csv", tmp_path / "failed.csv"])["bpp"].tolist() == [1.0]
    assert results.read([tmp_path / "failed.csv"])["error"].tolist() == ["too large"]


def exact_rows() -> list[dict[str, object]]:
    """Two images; jpeg2000 reproduces the black one at one of its rungs, png both."""
    points = {("jpeg2000", 22): (0.5, 25.0, 60.0), ("jpeg2000", 28): (1.5, 31.0, np.inf)}
    points |= {("avif", 30): (0.4, 26.0, 70.0), ("avif", 50): (1.1, 31.0, 80.0), ("png", 0): (9.0, np.inf, np.inf)}
    return [
        row(f"noisy + {codec}", image, bpp * (1 if image == "c" else 0.01), psnr, quality=quality, psnr_noisy=np.inf)
        for (codec, quality), (bpp, *psnrs) in points.items()
        for image, psnr in zip(("c", "black"), psnrs, strict=True)
    ]


def test_exact_images_are_left_out_of_means_and_counted(tmp_path: Path) -> None:
    """One of them used to make the mean PSNR of its curve infinite."""
    pd.DataFrame(exact_rows()).to_csv(tmp_path / "rows.csv", index=False)
    points = curves.points(results.read([tmp_path / "rows.csv"])).set_index(["method", "quality"])
    lossy = points.drop("noisy + png")
    assert lossy["psnr"].to_dict() == {
        ("noisy + avif", "30"): 26, ("noisy + avif", "50"): 31, ("noisy + jpeg2000", "22"): 25,
        ("noisy + jpeg2000", "28"): 31,
    }  # fmt: skip
    assert lossy["bpp"].max() == 1.5 and set(lossy["images"]) == set(lossy["exact"]) == {1}
    assert np.isnan(points.loc[("noisy + png", "0"), "psnr"]) and points.loc[("noisy + png", "0"), "bpp"] == 9
    assert not np.isinf(points.select_dtypes("number").to_numpy(dtype=float)).any()
    text = printed([tmp_path / "rows.csv"], tmp_path / "out")
    assert "inf" not in text.replace("info", "") and "nan" not in text and "no noise" in text
    assert "1 image that a codec reproduces exactly" in " ".join(text.split())
    assert "exact" in next(line for line in text.splitlines() if "png" in line)


def test_noise_of_two_protocols_in_one_plot_is_refused() -> None:
    rows = pd.DataFrame(
        row("noisy + avif", "1", 1.0, 30.0, quality=30, noise_protocol=protocol) for protocol in ("clip8", "float")
    ).reindex(columns=results.COLUMNS)
    rows[results.TEXT] = rows[results.TEXT].fillna("").astype(str)
    with pytest.raises(UserError, match=r"kodak24, sigma 10.*clip8 \(noisy \+ avif\) and float \(noisy \+ avif\)"):
        curves.points(rows)
    named = curves.labelled(rows.assign(sigma=0.0), curves.points(rows.assign(sigma=0.0)))
    assert named["label"].tolist() == ["noisy + avif"] * 2, "without noise there is no protocol"


def test_rungs_have_their_unit() -> None:
    rungs = [("noisy + jpegxl", "2"), ("nlm + jpegxl-e9", "2"), ("noisy + jpeg2000", "28"), ("bm3d + avif", "50")]
    labels = [curves.rung_label(np.nan, quality, method) for method, quality in rungs]
    assert labels == ["distance 2", "distance 2", "28 dB", "quality 50"]
    assert curves.rung_label(512, "", "unet + fllic") == "λ 512" and curves.rung_label(512, "40", "f") == "quality 40"
    assert curves.rung_label(np.nan, "0", "noisy + jpegxl-lossless") == "lossless"


def test_curves_of_a_threshold_sweep_have_names_of_their_own(tmp_path: Path) -> None:
    for threshold in (0.8, 0.9):
        run_folder(tmp_path / str(threshold), "jdc_cn8", 512.0, run=f"r{threshold}", min_ms_ssim=threshold)
    assert curves.points(results.read([tmp_path]))["label"].tolist() == [
        "jdc_cn8 (MS-SSIM > 0.8)", "jdc_cn8 (MS-SSIM > 0.9)"
    ]  # fmt: skip


@pytest.mark.parametrize("beside", [False, True])
def test_a_lossless_codec_without_a_finite_psnr_has_a_report(tmp_path: Path, avif: Path, beside: bool) -> None:
    """It used to end in a traceback: a figure without axes."""
    exact = {"sigma": 0.0, "psnr_noisy": np.inf, "ms_ssim": np.nan, "ms_ssim_noisy": np.nan}
    rows = [row("lcfdnet", image, 9.0, np.inf, run="r", **exact) for image in IMAGES]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    text = printed([tmp_path / "rows.csv", *[avif] * beside], tmp_path / "out")
    assert "exact" in text and (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "rd.png").is_file() == beside


def test_the_spread_of_seeds_is_beside_their_mean(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_folder(tmp_path / str(seed), "fllic", 512.0, run=f"r{seed}", seed=seed, ms_ssim=0.9 + 0.02 * seed)
    (point,) = curves.points(results.read([tmp_path])).to_dict("records")
    assert point["seeds"] == 2 and point["ms_ssim"] == pytest.approx(0.91)
    assert point["ms_ssim_std"] == pytest.approx(0.02 / 2**0.5) and point["psnr_std"] == 0


def test_a_row_that_is_cut_off_is_reported(tmp_path: Path) -> None:
    file = standard(tmp_path / "avif.csv", "noisy + avif", [(30, 0.5, 30.0), (50, 1.0, 32.0)])
    file.write_bytes(file.read_bytes()[:-30])
    console = Console(record=True, width=200)
    report.make([file], tmp_path / "out", console)
    assert f"The last row of {file} is cut off and left out." in " ".join(console.export_text().split())


def test_files_without_rows_are_refused_in_one_sentence(tmp_path: Path) -> None:
    files = {"empty.csv": "", "header.csv": "method,dataset,image\n", "other.csv": "a,b\n1,2\n"}
    files["word.csv"] = "method,dataset,image,bpp\nfllic,kodak24,1,much\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for rate in (-1, 0, "inf"):
        files[f"rate{rate}.csv"] = f"method,dataset,image,bpp,psnr\nfllic,kodak24,1,{rate},30\n"
        (tmp_path / f"rate{rate}.csv").write_text(files[f"rate{rate}.csv"])
    (tmp_path / "untested").mkdir()
    for name in [*files, "untested", "nowhere"]:
        with pytest.raises(UserError, match=name) as refused:
            results.read([tmp_path / name])
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        results.read([])


def test_points_are_means_over_images(sweep: Path, avif: Path) -> None:
    rows = results.read([avif, sweep])
    points = curves.points(rows)
    assert points["label"].tolist() == ["fllic"] * 3 + ["noisy + avif"] * 3
    assert points["images"].tolist() == [len(IMAGES)] * 6
    for point in points.itertuples():
        mine = rows[(rows["method"] == point.method) & (rows["quality"] == point.quality)]
        mine = mine[(mine["lmbda"] == point.lmbda) | mine["lmbda"].isna()]
        assert len(mine) == len(IMAGES)
        for column in curves.MEANS:
            expected = np.mean(mine[column].to_numpy())
            assert getattr(point, column) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert points["bpp_est"].isna().tolist() == [False] * 3 + [True] * 3
    assert points.groupby("label")["bpp"].apply(lambda b: b.is_monotonic_increasing).all()


def test_seeds_are_averaged_and_curves_are_kept_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_folder(one, "fllic", 512.0)
    run_folder(two, "fllic", 512.0, run="other", seed=1, ms_ssim=0.93)
    rows = results.read([one, two])
    (point,) = curves.points(rows).itertuples()
    assert point.seeds == 2
    assert point.ms_ssim_std == pytest.approx(np.std([0.95, 0.93], ddof=1)) and point.psnr_std == 0
    run_folder(tmp_path / "three", "fllic", 512.0, run="third", curve="fllic rate_scale=.5")
    run_folder(tmp_path / "four", "fllic", 512.0, run="fourth", budget="paper")
    points = curves.points(results.read([tmp_path]))
    assert sorted(points["label"]) == ["fllic (lab)", "fllic (paper)", "fllic rate_scale=.5"]


def test_a_label_has_only_the_words_that_distinguish_curves(tmp_path: Path) -> None:
    """Labels used to repeat the words that all curves of a method share."""
    shared = "budget=lab data.batch=5 init_from=codec-l1024@6488d0b3 width=0.25"
    for number, curve in enumerate((f"codec {shared}", f"codec {shared} model.index_cost=adaptive")):
        run_folder(tmp_path / str(number), "codec", 512.0, run=str(number), curve=curve)
    assert sorted(curves.points(results.read([tmp_path]))["label"]) == ["codec", "codec model.index_cost=adaptive"]
    cascades = [f"unet {shared} + codec width=0.25", f"unet {shared} + codec width=0.5"]
    assert curves._labels("unet + codec", cascades) == {
        cascades[0]: "unet + codec", cascades[1]: "unet + codec width=0.5"
    }  # fmt: skip
    alike = ["codec a=1 b=2", "codec b=2 a=1"]
    assert curves._labels("codec", alike) == {curve: curve for curve in alike}, "two curves never share a label"


def test_runs_with_different_training_sets_are_different_curves(tmp_path: Path) -> None:
    """They used to be averaged like seeds when `jdc evaluate` tested them on the same dataset."""
    run_folder(tmp_path / "one", "jdc_n", 512.0, train_set="sidd")
    run_folder(tmp_path / "two", "jdc_n", 512.0, run="other", train_set="polyu")
    assert curves.points(results.read([tmp_path]))["label"].tolist() == ["jdc_n (polyu)", "jdc_n (sidd)"]


def test_rows_of_both_noise_protocols_are_kept(tmp_path: Path) -> None:
    for protocol in ("clip8", "float"):
        rows = [row("noisy + avif", image, 1.0, 30.0, quality=30, noise_protocol=protocol) for image in IMAGES]
        pd.DataFrame(rows).to_csv(tmp_path / f"{protocol}.csv", index=False)
    rows = results.read([tmp_path / "clip8.csv", tmp_path / "float.csv"])
    assert rows["noise_protocol"].value_counts().to_dict() == {"clip8": len(IMAGES), "float": len(IMAGES)}


def test_written_rows_read_back_unchanged(sweep: Path, avif: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    text = printed([sweep, avif], out)
    rows = results.read([sweep, avif])
    pd.testing.assert_frame_equal(results.read([out / "results.csv"]), rows)
    assert ",64,48," in (out / "results.csv").read_text()  # integers have no decimal point
    names = ["parts", "rd.png", "rd.svg", "report.html", "results.csv", "strip.png", "tables"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert all(str(out / name) in text for name in names if name != "parts")
    # the joined rows of a report inside a study are not read as those of a run
    (sweep / "fllic-l512" / "results.csv").unlink()
    (sweep / "rd.png").touch()
    rows.to_csv(sweep / "results.csv", index=False)
    assert set(results.read([sweep])["run"]) == {"fllic-l2048", "fllic-l8192"}
    # the rows of a run are never replaced
    run = sweep / "fllic-l2048"
    (run / "config.yaml").touch()
    before = (run / "results.csv").read_text()
    with pytest.raises(UserError, match="holds a run"):
        report.make([sweep], run, Console(quiet=True))
    assert (run / "results.csv").read_text() == before


def test_the_table_shows_means_and_the_noisy_input(sweep: Path, avif: Path, tmp_path: Path) -> None:
    text = printed([sweep, avif], tmp_path / "out")
    point = curves.points(results.read([sweep])).iloc[1]
    line = next(line for line in text.splitlines() if "2048" in line).split()
    assert line[1:] == [
        "2048",
        f"{point['bpp']:.3f}",
        "0.900",
        f"{point['psnr']:.2f}",
        f"{point['psnr'] - 28.25:+.2f}",
        "0.9500",
        "3",
    ]
    assert "28.25" in next(line for line in text.splitlines() if "sigma 10" in line)
    assert max(map(len, text.split("results ")[0].splitlines())) <= 80
    assert results.DEMO not in text
    assert "versions" not in text


def test_names_with_markup_characters_are_printed_unchanged(tmp_path: Path) -> None:
    out = tmp_path / "[red]"
    text = printed([run_folder(tmp_path, "[bold]m", 512.0, dataset="[x]")], out)
    assert all(name in text for name in ("[bold]m", "[x]", str(out / "rd.png")))


def test_a_demo_budget_and_mixed_code_versions_are_stated(sweep: Path, tmp_path: Path) -> None:
    run_folder(tmp_path / "demo", "fllic_w", 512.0, budget="demo", code_version="b2")
    text = printed([sweep, tmp_path / "demo"], tmp_path / "out")
    assert next(line for line in text.splitlines() if line.strip()).strip() == results.DEMO
    assert "2 versions of the code: a1, b2" in text


def test_estimators_have_their_own_table(sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "entropy"
    folder.mkdir()
    clean, hat, linear = np.array([2.0, 3.0, 4.0]), np.array([2.1, 3.0, 3.8]), np.array([2.5, 3.5, 3.0])
    table = {"run": "c", "method": "clean_entropy", "dataset": "kodak24", "image": IMAGES, "sigma": 10}
    table |= {"h_hat": hat, "h_clean": clean, "h_linear": linear}
    pd.DataFrame(table).to_csv(folder / "results.csv", index=False)
    assert "clean_entropy" not in set(curves.points(results.read([sweep, folder]))["method"])
    text = printed([sweep, folder], tmp_path / "both")
    line = next(line for line in text.splitlines() if "clean_entropy" in line)
    rmse = [np.sqrt(np.mean((estimate - clean) ** 2)) for estimate in (hat, linear)]
    assert line.split()[-3:] == [f"{rmse[0]:.3f}", f"{rmse[1]:.3f}", "3"]
    assert set(report.make([folder], tmp_path / "alone", Console(quiet=True))) == {"results"}


def test_the_rate_axis_fits_the_learned_curves_not_lossless_codecs(sweep: Path, avif: Path, tmp_path: Path) -> None:
    lossless = standard(tmp_path / "lossless.csv", "noisy + jpegxl-lossless", [("", 18.0, 28.25)])
    points = curves.points(results.read([sweep, avif, lossless]))
    fig = figures.figure(points, [tmp_path / "rd.png"])
    psnr, ms_ssim = fig.axes
    assert (psnr.get_ylabel(), ms_ssim.get_ylabel()) == ("PSNR in dB", "MS-SSIM")
    assert "bpp" in psnr.get_xlabel()
    for word in ("kodak24", "sigma 10", "clip8", "3 images", "28.25 dB"):
        assert word in psnr.get_title(loc="left")
    assert "budget lab" in fig.get_suptitle()
    lines = {line.get_label(): line for line in psnr.get_lines()}
    fllic = points[points["label"] == "fllic"]
    assert lines["fllic"].get_xdata().tolist() == fllic["bpp"].tolist()
    assert lines["fllic"].get_ydata().tolist() == fllic["psnr"].tolist()
    assert lines["fllic"].get_linestyle() == "-"
    assert lines["fllic"].get_marker() not in ("", "None", None)
    assert lines["noisy + avif"].get_linestyle() == "-", "no denoiser comes before this codec"
    assert lines["noisy input"].get_linestyle() == ":"
    assert set(lines["noisy input"].get_ydata()) == {28.25}
    left, right = psnr.get_xlim()
    assert left == 0
    assert fllic["bpp"].max() < right < 3
    low, high = psnr.get_ylim()
    assert low < 26 and 31.5 < high < 33
    assert "jpegxl-lossless: 18.00 bpp" in " ".join(text.get_text() for text in psnr.texts)
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert sorted(names) == sorted(set(lines))
    fig.canvas.draw()
    below = fig.legends[0].get_window_extent()
    assert not any(below.overlaps(ax.get_window_extent()) for ax in fig.axes)
    assert Image.open(tmp_path / "rd.png").size[0] > 800


def test_the_figure_has_a_panel_per_dataset_and_none_without_ms_ssim(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", "fllic", 512.0, ms_ssim="")
    run_folder(tmp_path / "b", "fllic", 512.0, ms_ssim="", dataset="sidd", sigma="")
    fig = figures.figure(curves.points(results.read([tmp_path])), [tmp_path / "rd.png"])
    titles = [ax.get_title(loc="left").split("\n")[0] for ax in fig.axes]
    assert titles == ["kodak24, sigma 10, clip8", "sidd, sigma unknown, clip8"]


def test_a_strip_shows_the_pixels_of_its_images(tmp_path: Path) -> None:
    pictures = [np.asarray(picture(kind, 7)) for kind in range(3)]
    crops.strip([(f"{i}\nbpp", image) for i, image in enumerate(pictures)], tmp_path / "strip.png")
    sheet = np.asarray(Image.open(tmp_path / "strip.png"))
    zoom, gap, head = 6, 8, 48  # 64 x 48 pixels at 384 // 64
    for i, image in enumerate(pictures):
        x = gap + i * (48 * zoom + gap)
        shown = sheet[head : head + 64 * zoom, x : x + 48 * zoom]
        assert (shown == image.repeat(zoom, axis=0).repeat(zoom, axis=1)).all()
        assert (sheet[:head, x : x + 48 * zoom] < 128).any()  # a caption
    large = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    crops.strip([("", large)], tmp_path / "crop.png")
    sheet = np.asarray(Image.open(tmp_path / "crop.png"))
    assert (sheet[head : head + 384 : 2, gap : gap + 384 : 2] == large[54:246, 154:346]).all()
    with pytest.raises(ValueError, match="one size"):
        crops.strip([("", large), ("", pictures[0])], tmp_path / "bad.png")


def test_the_strip_shows_the_middle_rung_of_each_curve(sweep: Path, tmp_path: Path) -> None:
    run_folder(sweep, "fllic_w", 8192.0)
    report.make([sweep], tmp_path / "out", Console(quiet=True))
    shown = [(kind, seed) for kind, seed in ((0, 0), (1, 2048), (1, 8192), (2, 0))]
    expected = tmp_path / "expected.png"
    crops.strip([("", np.asarray(picture(*which))) for which in shown], expected)
    got, expected = (np.asarray(Image.open(path))[48:] for path in (tmp_path / "out" / "strip.png", expected))
    width = expected.shape[1]
    assert got.shape[1] >= width
    cell = (got.shape[1] - 8) // len(shown)
    for i in range(len(shown)):
        small = (width - 8) // len(shown)
        mine, right = got[:, 8 + i * cell :], expected[:, 8 + i * small :]
        assert (mine[:384, :288] == right[:384, :288]).all()


@pytest.mark.parametrize(
    ("bpp", "psnr", "message"),
    [(-1.0, 30.0, "holds a rate of -1 bpp, of b.png"), (1.0, float("nan"), "holds a rate without a PSNR, of b.png")],
)
def test_rates_that_no_codec_has_and_rates_without_quality_are_refused(
    tmp_path: Path, bpp: float, psnr: float, message: str
) -> None:
    results.write(pd.DataFrame([row("m", "a.png", 1.0, 30.0), row("m", "b.png", bpp, psnr)]), tmp_path / "r.csv")
    with pytest.raises(UserError, match=message):
        results.read([tmp_path / "r.csv"])
