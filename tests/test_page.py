"""The report's page: what it shows, that names cannot inject markup, and that a real browser draws it offline."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rich.console import Console
from test_report import IMAGES, row, run_folder, standard

from jdcsuite.artifacts import weights
from jdcsuite.baselines.standards import Standard
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.judging import curves, results
from jdcsuite.judging.metrics import quality
from jdcsuite.models.fllic import FLLIC
from jdcsuite.reports import complexity, crops, figures, provenance, report, tables

HOSTILE = (
    '<img src="http://example.invalid/x" onerror="document.title=1">&"\'</script><script>document.title=2</script>'
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The elements of a page. ``tags``: (tag, attributes) pairs; ``text``: of what is shown."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.inside = "", ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.all("section")]


def made(paths: list[Path], out: Path) -> Page:
    files = report.make(paths, out, Console(quiet=True))
    return Page(files["page"].read_text())


def trained(folder: Path) -> Path:
    """Add what a training leaves in a run folder."""
    config = {"key": "k", "method": "fllic", "needs": {}, "overrides": ["+experiment=fllic", "name=it's"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text('{"key": "k", "finished": true, "needs": {}, "hardware": "a machine"}')
    steps = pd.DataFrame({"step": range(9, 1000, 10), "train/loss": np.linspace(5, 1, 100)})
    steps.assign(**{"val/loss": np.where(steps.index % 10 == 9, 2.0, np.nan), "test/k/psnr": 30.0}).to_csv(
        folder / "metrics.csv", index=False
    )
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for lmbda in (512.0, 2048.0, 8192.0):
        trained(run_folder(tmp_path / "sweep", "fllic", lmbda, bpp_y=0.3, bpp_z=0.1, bpp_header=0.01, enc_ms=5.0))
    return tmp_path / "sweep"


@pytest.fixture
def avif(tmp_path: Path) -> Path:
    return standard(tmp_path / "avif.csv", "noisy + avif", [(30, 0.5, 27.0), (60, 1.3, 31.5), (90, 3.7, 29.0)])


def test_the_page_has_a_section_for_everything_that_is_there_and_none_for_the_rest(
    sweep: Path, avif: Path, tmp_path: Path
) -> None:
    page = made([sweep, avif], tmp_path / "all")
    everything = ["curves", "crops", "bd", "fixed", "points", "rate", "complexity", "training", "provenance"]
    assert page.sections == everything
    for word in (
        "λ 2048",
        "PSNR in dB",
        "python -m jdcsuite +experiment=fllic",
        "jdc evaluate avif@30,60,90",
        "a machine",
    ):
        assert word in page.text
    assert all(image["alt"] for image in page.all("img"))
    assert {header["scope"] for header in page.all("th")} == {"col", "row", "rowgroup"}
    plain = pd.DataFrame([row("m", image, 1.0, 30.0, ms_ssim="") for image in IMAGES])
    plain.to_csv(tmp_path / "plain.csv", index=False)
    few = made([tmp_path / "plain.csv"], tmp_path / "few")
    assert not {"rate", "complexity", "crops", "training"} & set(few.sections)
    assert {"curves", "points", "provenance"} <= set(few.sections)


def test_names_cannot_inject_markup_into_page_charts_or_tables(tmp_path: Path) -> None:
    """A name that holds HTML is shown as it is; the page loads nothing and runs no script but its own."""
    names = {"train_set": HOSTILE, "codec_version": HOSTILE, "budget": HOSTILE}
    rows = [
        row(HOSTILE, image, bpp, 30 + bpp, dataset=HOSTILE, quality=bpp, **names) for image in IMAGES for bpp in (1, 2)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    page = made([tmp_path / "rows.csv"], tmp_path / "out")
    assert page.text.count(HOSTILE) >= 5
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "document.title" not in "".join(str(attributes.get("src")) for attributes in page.all("script"))
    links = [attributes.get(name) or "" for _, attributes in page.tags for name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in filter(None, links))
    source = (tmp_path / "out" / report.PAGE).read_text()
    assert '<img src="http' not in source and "<script>document.title" not in source
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert str(policy).startswith("default-src 'none'") and "http" not in str(policy)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_draws_the_page_without_a_network(sweep: Path, avif: Path, tmp_path: Path) -> None:
    hostile = standard(tmp_path / "hostile.csv", HOSTILE, [(1, 0.5, 27.0), (2, 1.3, 31.5)])
    made([sweep, avif, hostile], tmp_path / "out")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    options += " --disable-component-update --disable-quic --virtual-time-budget=20000 --dump-dom"
    done = subprocess.run(
        [str(CHROMIUM), *options.split(), f"--user-data-dir={tmp_path / 'profile'}",
         (tmp_path / "out" / report.PAGE).as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    page = Page(done.stdout)
    classes = [str(attributes.get("class")) for _, attributes in page.tags]
    assert sum("main-svg" in name for name in classes) >= 4, "both charts are drawn"
    assert all(label in page.text for label in ("MS-SSIM", "linear rate", "log rate")), "buttons of the axes"
    assert sum(name == "js-line" for name in classes) >= 4, "three curves, the noisy input, and trainings"
    assert HOSTILE in page.text and page.all("title") and "document.title" not in str(page.all("script"))
    loaded = [str(attributes.get("src") or attributes.get("href") or "") for _, attributes in page.tags]
    assert not [link for link in loaded if link.startswith(("http", "//"))]
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title == "Results of out", "no script of a name has run"


def test_tables_are_files_for_spreadsheets_markdown_and_latex(tmp_path: Path) -> None:
    table = tables.Table("t", "A & B", "100 %", ["name", "λ_x"], [["a|b_c*", "1.5 ± 0.1"], ["<b>\\{x}", "-"]])
    tables.write([table], tmp_path)
    assert pd.read_csv(tmp_path / "t.csv").to_numpy().tolist() == table.rows
    markdown = (tmp_path / "t.md").read_text().splitlines()
    assert markdown[:3] == ["| name | λ\\_x |", "| --- | ---: |", "| a\\|b\\_c\\* | 1.5 ± 0.1 |"]
    latex = (tmp_path / "t.tex").read_text()
    assert r"a\textbar{}b\_c* & 1.5 $\pm$ 0.1 \\" in latex and r"A \& B" in latex and r"100 \%" in latex
    assert r"\textless{}b\textgreater{}\textbackslash{}\{x\} & - \\" in latex
    assert r"\begin{tabular}{lr}" in latex and r"$\lambda$\_x" in latex


def test_the_report_writes_its_tables_and_vector_figures(sweep: Path, avif: Path, tmp_path: Path) -> None:
    made([sweep, avif], tmp_path / "out")
    names = {f"{name}.{ending}" for name in ("points", "rate", "complexity") for ending in ("csv", "md", "tex")}
    assert names <= {path.name for path in (tmp_path / "out" / report.TABLES).iterdir()}
    points = pd.read_csv(tmp_path / "out" / report.TABLES / "points.csv")
    assert len(points) == 6 and set(points["curve"]) == {"fllic", "noisy + avif"}
    assert (tmp_path / "out" / "rd.svg").read_text().count("<svg") == 1


def test_a_curve_without_a_finite_psnr_has_no_nan_in_the_table_of_fixed_rates(tmp_path: Path) -> None:
    rows = [row("noisy + png", image, 9.0, np.inf) for image in IMAGES]
    rows += [row("noisy + avif", i, bpp, psnr, quality=bpp) for i in IMAGES for bpp, psnr in ((0.4, 30.0), (1.2, 33.0))]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    table = tables.fixed_rate_table(curves.points(results.read([tmp_path / "rows.csv"])))
    assert {line[1]: line[2] for line in table.rows} == {"noisy + png": "exact", "noisy + avif": "0.40 .. 1.20"}
    assert "nan" not in table.csv()


def test_a_comparison_is_a_table_of_the_page(sweep: Path, avif: Path, tmp_path: Path) -> None:
    files = report.make([sweep, avif], tmp_path / "out", Console(quiet=True), against="fllic")
    shown = pd.read_csv(tmp_path / "out" / report.TABLES / "compared.csv").iloc[0]
    compared = pd.read_csv(files["compared"]).iloc[0]
    assert (shown["curve"], shown["beats it?"]) == ("noisy + avif", compared["verdict"])
    assert shown["BD-PSNR"] == round(compared["bd_psnr"], 2)
    assert "Against fllic" in Page(files["page"].read_text()).text


def test_legend_and_titles_stay_inside_the_figure(tmp_path: Path) -> None:
    """With five curves and more, and long names, they used to run out of it."""
    for number in range(12):
        curve = f"fllic criterion.supervision._target_=jdcsuite.training.supervision.Number{number} width=0.{number}"
        run_folder(
            tmp_path / str(number), "fllic", 512.0, run=str(number), curve=curve, dataset="a set of a long name" * 5
        )
    points = curves.points(results.read([tmp_path]))
    fig = figures.figure(points, [tmp_path / "rd.png"])
    fig.canvas.draw()
    drawn = [fig.legends[0], fig._suptitle, *(title for ax in fig.axes for title in (ax.title, ax._left_title))]
    boxes = [artist.get_window_extent() for artist in drawn]
    width, height = fig.bbox.size
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not any(fig.legends[0].get_window_extent().overlaps(ax.get_window_extent()) for ax in fig.axes)
    assert len({text.get_text() for text in fig.legends[0].get_texts()}) == 13


def test_a_codec_behind_a_denoiser_is_dashed_and_seeds_have_error_bars(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", "fllic", 512.0)
    run_folder(tmp_path / "b", "fllic", 512.0, run="b", seed=1, ms_ssim=0.9)
    cascade = standard(tmp_path / "c.csv", "bm3d + avif", [(30, 0.5, 27.0), (60, 1.3, 31.5)])
    points = curves.points(results.read([tmp_path / "a", tmp_path / "b", cascade]))
    fig = figures.figure(points, [tmp_path / "rd.svg"])
    lines = {line.get_label(): line.get_linestyle() for line in fig.axes[0].get_lines()}
    assert (lines["bm3d + avif"], lines["fllic"]) == ("--", "-")
    assert [len(ax.containers) for ax in fig.axes] == [1, 1], "error bars of the curve with two seeds alone"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A run whose images are real: a gradient, noisy and clean."""
    folder = run_folder(tmp_path / "real", "fllic", 2048.0)
    y, x = np.mgrid[:96, :112]
    clean = np.stack([(2 * x + y) % 256, 40 + y, 255 - x], -1).astype(np.uint8)
    noisy = to_bytes(GaussianNoise(sigma=10).fixed(clean, seed=0))
    for kind, image in (("noisy", noisy), ("decoded", clean), ("clean", clean)):
        Image.fromarray(image).save(folder / "pictures" / f"kodak24_kodim03_{kind}.png")
    return folder


def coded(pictures: Path, codec: Standard, **values: object) -> dict[str, object]:
    """The row of a standard codec on the noisy image, and nothing kept."""
    noisy, clean = (
        np.asarray(Image.open(pictures / "pictures" / f"kodak24_kodim03_{kind}.png")) for kind in ("noisy", "clean")
    )
    data = codec.compress(to_tensor(noisy)[None])
    psnr = quality(codec.decompress(data), to_tensor(clean)[None])["psnr"]
    name = f"noisy + {codec.name}"
    return row(
        name, "kodim03.png", 8 * len(data) / noisy[..., 0].size, float(psnr or 0), quality=codec.quality, **values
    )


def test_crops_of_standard_codecs_are_decoded_again(pictures: Path, tmp_path: Path) -> None:
    """The strip never showed AVIF and JPEG XL, which keep no images."""
    rows = [coded(pictures, Standard(codec=name, quality=q)) for name, q in (("avif", 40), ("avif", 80), ("jpegxl", 2))]
    other_version = coded(pictures, Standard(codec="webp", quality=50)) | {"bpp": 9.0}
    pd.DataFrame([*rows, other_version]).to_csv(tmp_path / "standards.csv", index=False)
    shown = crops.example(results.read([pictures, tmp_path / "standards.csv"], with_folder=True))
    titles = [caption.split("\n")[0] for caption, _ in shown]
    assert titles[0].startswith("noisy, sigma 10") and titles[-1] == "clean"
    assert sorted(title.split(",")[0] for title in titles[1:-1]) == ["fllic", "noisy + avif", "noisy + jpegxl"]
    clean = shown[-1][1].astype(float)
    for caption, image in shown[1:-1]:
        if "noisy +" in caption:
            psnr = 10 * np.log10(255**2 / ((image - clean) ** 2).mean())
            assert f"{psnr:.2f} dB" in caption


def test_the_image_of_a_codec_of_any_rate_has_the_figures_of_its_own_quality(pictures: Path, tmp_path: Path) -> None:
    """One image is kept of a run's four qualities; it had the rate and PSNR of the row nearest to the others' rate."""
    run = run_folder(tmp_path / "any", "flagship", 2048.0)
    for kind in ("noisy", "clean"):
        shutil.copy(pictures / "pictures" / f"kodak24_kodim03_{kind}.png", run / "pictures")
    clean = np.asarray(Image.open(run / "pictures" / "kodak24_kodim03_clean.png")).astype(int)
    decoded = np.clip(clean + 8 * (-1) ** np.arange(clean.shape[1])[:, None], 0, 255).astype(np.uint8)
    Image.fromarray(decoded).save(run / "pictures" / "kodak24_kodim03_decoded.png")
    psnr = float(20 * np.log10(255 / np.sqrt(np.square(decoded.astype(float) - clean).mean())))
    rows = [row("flagship", "kodim03.png", bpp, psnr + more, quality=q, lmbda=np.nan)
            for q, bpp, more in ((20, 0.2, -4), (40, 0.5, -2), (60, 0.9, 0), (80, 1.6, 2))]  # fmt: skip
    pd.DataFrame(rows).to_csv(run / "results.csv", index=False)
    others = [
        row("fllic", "kodim03.png", bpp, 30, lmbda=rung, run=f"r{rung}")
        for rung, bpp in ((512, 1.0), (1024, 1.5), (2048, 2.0))
    ]
    pd.DataFrame(others).to_csv(pictures / "results.csv", index=False)
    shown = dict(crops.example(results.read([pictures, run], with_folder=True)))
    (caption,) = (caption for caption in shown if caption.startswith("flagship"))
    assert "0.900 bpp" in caption and f"{psnr:.2f} dB" in caption, caption


def test_images_of_a_set_without_noise_are_not_shown_where_there_is_another(pictures: Path, tmp_path: Path) -> None:
    for run in ("p", "q"):  # more curves have the clean image
        clean = run_folder(tmp_path / "clean", run, 512.0, dataset="a", sigma=0, psnr_noisy="")
        for kind in ("noisy", "decoded", "clean"):
            shutil.copy(
                clean / "pictures" / f"kodak24_kodim03_{kind}.png", clean / "pictures" / f"a_kodim03_{kind}.png"
            )
    both = crops.example(results.read([tmp_path / "clean", pictures], with_folder=True))
    assert both[-1][0] == "clean\nkodak24, kodim03.png"
    alone = crops.example(results.read([tmp_path / "clean"], with_folder=True))
    assert alone[-1][0] == "clean\na, kodim03.png"


def test_damaged_images_and_weights_do_not_stop_a_report(pictures: Path, tmp_path: Path) -> None:
    decoded = pictures / "pictures" / "kodak24_kodim03_decoded.png"
    decoded.write_bytes(decoded.read_bytes()[:200])
    trained(pictures)
    (pictures / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    page = made([pictures], tmp_path / "one")
    assert not [image for image in page.all("img") if str(image["alt"]).startswith("Crop: fllic")]
    decoded.with_name("kodak24_kodim03_clean.png").write_bytes(b"")
    assert "crops" not in made([pictures], tmp_path / "two").sections


def test_complexity_counts_the_model_of_a_run_and_its_measured_times(tmp_path: Path) -> None:
    run = trained(run_folder(tmp_path, "fllic", 512.0, enc_ms=40.0, dec_ms=10.0, device="cpu"))
    config = {"_target_": "jdcsuite.models.fllic.FLLIC", "widths": [8, 8, 8], "num_latents": 8, "prior_width": 8}
    model = FLLIC(widths=[8, 8, 8], num_latents=8, prior_width=8).eval()
    model.update()
    weights.save(model, config, run / "weights.safetensors", about={})
    page = made([run], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / report.TABLES / "complexity.csv").iloc[0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert table["parameters, M"] == round(parameters / 1e6, 2)
    assert table["kMAC/px"] == pytest.approx(complexity.kmac(model), abs=0.1) and table["kMAC/px"] > 1
    assert table["encode, ms"] == "40 (40 .. 40)" and table["decode, ms/MP"] == round(10 / (64 * 48 / 1e6))
    assert "kMAC/px" in page.text


def test_an_error_map_is_white_at_32_grey_levels() -> None:
    clean = np.zeros((1, 3, 3), np.uint8)
    image = np.array([[[0, 0, 0], [16, 16, 16], [90, 3, 3]]], np.uint8)
    assert crops.error_map(image, clean).tolist() == [[0, 128, 255]]


def test_metrics_of_a_training_are_thinned_and_damaged_files_are_left_out(sweep: Path, tmp_path: Path) -> None:
    metrics = provenance.read_metrics(sweep / "fllic-l512" / "metrics.csv")
    assert list(metrics) == ["val/loss", "train/loss"], "no test metrics, validation first"
    assert len(metrics["val/loss"][0]) == 10 and metrics["val/loss"][0][0] == 99
    long = pd.DataFrame({"step": range(3000), "train/loss": range(3000)})
    long.to_csv(tmp_path / "long.csv", index=False)
    steps, values = provenance.read_metrics(tmp_path / "long.csv")["train/loss"]
    assert len(steps) == provenance.MAX_POINTS and steps[0] == 4.5 and values[-1] == 2994.5
    for damaged in (b"", b"\0\xff", b"a,b\n1,2\n", b"step,train/loss\n1,x\n"):
        (tmp_path / "bad.csv").write_bytes(damaged)
        assert provenance.read_metrics(tmp_path / "bad.csv") == {}


def test_commands_make_the_rows_of_each_curve(sweep: Path, avif: Path, tmp_path: Path) -> None:
    cascade = standard(tmp_path / "c.csv", "bm3d + jpegxl", [(2.0, 0.5, 27.0), (1.0, 1.3, 31.5)])
    rows = results.read([sweep, avif, cascade], with_folder=True)
    drawn = {curve.label: curve for curve in provenance.curves(curves.labelled(rows, curves.points(rows)))}
    assert drawn["fllic"].commands == ["python -m jdcsuite +experiment=fllic 'name=it'\"'\"'s'"]
    assert [run.name for run in drawn["fllic"].runs] == [f"fllic, λ {lmbda}, seed 0" for lmbda in (512, 2048, 8192)]
    assert drawn["noisy + avif"].commands == ["jdc evaluate avif@30,60,90 --data kodak24 --sigma 10 -o rows.csv"]
    assert drawn["bm3d + jpegxl"].commands == ["jdc evaluate bm3d+jpegxl@2,1 --data kodak24 --sigma 10 -o rows.csv"]
