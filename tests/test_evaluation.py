"""`jdc evaluate`: rows survive kills, failures and other writers; several processes; progress in a log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rich.console import Console
from test_cli import folder, jdc, run  # noqa: F401

from jdcsuite.artifacts import weights
from jdcsuite.baselines.standards import Standard
from jdcsuite.judging import candidates, curves, evaluation, results, rows_file
from jdcsuite.judging.progress import Progress
from jdcsuite.types import Row, UserError

TIMES = ["enc_ms", "dec_ms"]


def evaluated(jdc, *codecs: object, data: Path, out: Path, **options: object) -> tuple[int, str, str]:  # noqa: F811
    extra = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return jdc("evaluate", *codecs, "--data", data, "--sigma", 5, "--out", out, *extra)


def test_several_processes_give_the_rows_of_one(jdc, folder: Path, run: Path, tmp_path: Path) -> None:  # noqa: F811
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    for out, jobs in ((one, 1), (two, 2)):
        status, printed, err = evaluated(jdc, run, "webp@20,50", "jpegls", data=folder, out=out, jobs=jobs)
        assert status == 0, printed + err
    tables = [pd.read_csv(path, float_precision="round_trip").drop(columns=TIMES) for path in (one, two)]
    pd.testing.assert_frame_equal(*tables)
    model_id = weights.load(run).model_id.hex()[:8]
    assert set(tables[0]["weights_id"].dropna()) == {model_id} and tables[0]["image_id"].nunique() == 2
    reread = results.read([one])
    assert len(reread) == len(tables[0]) == 8 and (reread["error"] == "").all()


def test_a_stopped_evaluation_goes_on_where_it_was(jdc, folder: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    """All rows used to be lost."""
    out = tmp_path / "rows.csv"
    assert evaluated(jdc, "webp@20,50", data=folder, out=out)[0] == 0
    header, *lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    out.write_text(header + lines[0] + lines[3] + lines[1][: len(lines[1]) // 2])  # killed while the third was written
    coded = []
    compress = Standard.compress

    def counting(codec: Standard, x, **options: object) -> bytes:
        coded.append((codec.quality, tuple(x.shape[-2:])))
        return compress(codec, x, **options)

    monkeypatch.setattr(Standard, "compress", counting)
    assert "2 of 4 rows are in" in evaluated(jdc, "webp@20,50", data=folder, out=out)[1]
    assert [quality for quality, size in coded if size != (64, 64)] == [50, 20], "only what is missing, image by image"
    assert {line.rpartition(",")[0] for line in out.read_text().splitlines()} >= {
        line.strip().rpartition(",")[0] for line in (lines[0], lines[3])
    }, "rows that were there are kept"
    table = pd.read_csv(out)
    assert table["quality"].tolist() == [20, 20, 50, 50] and table["psnr"].notna().all()
    assert table.drop(columns=TIMES).duplicated().sum() == 0
    coded.clear()
    assert evaluated(jdc, "webp@20,50", "webp@80", data=folder, out=out)[0] == 0 and len(pd.read_csv(out)) == 6
    assert {quality for quality, _ in coded} == {80}
    assert jdc("evaluate", "webp@80", "--data", folder, "--sigma", 5, "--out", out, "--force")[0] == 0
    assert len(pd.read_csv(out)) == 2, "--force starts anew"


def test_a_killed_evaluation_loses_the_image_in_work_at_most(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "rows.csv"
    script = (
        "import sys, time; from jdcsuite.baselines.standards import Standard; from jdcsuite import cli\n"
        "compress, count = Standard.compress, []\n"
        "def slow(codec, x, **options):\n"
        "    count.append(0) if x.shape[-1] != 64 else None\n"
        "    time.sleep(60 if len(count) > 1 else 0)\n"
        "    return compress(codec, x, **options)\n"
        "Standard.compress = slow; sys.argv[0] = 'jdc'; cli.main()\n"
    )
    words = ["evaluate", "webp@20", "--data", folder, "--sigma", "5", "--out", out]
    process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)])
    try:
        for _ in range(600):
            if out.exists() and out.read_text().count("\n") == 2:
                break
            time.sleep(0.1)
        with pytest.raises(UserError, match="is being written by another process"), rows_file.opened(out):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(results.read([out])) == 1
    with rows_file.opened(out) as file:
        assert len(file.lines) == 1, "the lock of a killed process is free"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_codec_that_cannot_hold_an_image_fails_alone(jdc, tmp_path: Path, jobs: int) -> None:  # noqa: F811
    """It used to take all rows of all codecs with it."""
    data, out = tmp_path / "data", tmp_path / "rows.csv"
    data.mkdir()
    Image.fromarray(np.zeros((2, 16500, 3), np.uint8)).save(data / "wide.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(data / "fine.png")
    status, printed, err = evaluated(jdc, "webp@50", "jpegls", data=data, out=out, jobs=jobs)
    assert status == 1 and "failed: noisy + webp on wide.png of data: webp cannot code an image of 16500 x 2" in err
    table = pd.read_csv(out).set_index(["method", "image"])
    assert table["psnr"].isna().sum() == table["error"].notna().sum() == 1 and len(table) == 4
    assert "16500" in table.loc[("noisy + webp", "wide.png"), "error"]
    status, printed, err = evaluated(jdc, "webp@50", "jpegls", data=data, out=out)
    assert status == 1 and "3 of 4 rows are in" in printed and len(pd.read_csv(out)) == 4, "it is tried again"
    assert curves.points(results.read([out]))["images"].sum() == 3


@pytest.mark.parametrize("pairs", [False, True])
def test_an_image_that_cannot_be_read_fails_alone(jdc, folder: Path, tmp_path: Path, pairs: bool) -> None:  # noqa: F811
    """It used to stop the command before any row."""
    data, out = tmp_path / "data", tmp_path / "rows.csv"
    for place in ("noisy", "clean") if pairs else (".",):
        shutil.copytree(folder, data / place, dirs_exist_ok=True)
    whole = (folder / "1.png").read_bytes()
    damaged = data / ("noisy" if pairs else ".") / "1.png"
    damaged.write_bytes(whole[: len(whole) // 2])
    words = ["evaluate", "webp@50", "jpegls", "--data", data, *([] if pairs else ["--sigma", 5]), "--out", out]
    status, printed, err = jdc(*words)
    assert status == 1 and err.count("1.png is damaged or truncated") == 2, printed + err
    table = pd.read_csv(out).set_index("image")
    assert len(table) == 4 and table.loc["0.png", "error"].isna().all() and table.loc["0.png", "psnr"].notna().all()
    failed = table.loc["1.png"]
    assert failed["error"].str.contains("damaged").all() and failed[["bpp", "psnr"]].isna().all(axis=None)
    assert failed["image_id"].isna().all() == (not pairs), "of the clean image, if it is known"
    assert curves.points(results.read([out]))["images"].tolist() == [1, 1]
    damaged.write_bytes(whole)
    status, printed, err = jdc(*words)
    assert status == 0 and "2 of 4 rows are in" in printed and pd.read_csv(out)["psnr"].notna().all()


def test_a_process_that_dies_takes_one_row_with_it(folder: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    file = tmp_path / "dying_codec.py"
    file.write_text(
        "import os\nfrom jdcsuite.baselines.standards import Standard\n"
        "compress = Standard.compress\n"
        "def dying(codec, x, **options):\n"
        "    if codec.quality == 21 and x.shape[-1] != 64: os._exit(9)\n"
        "    return compress(codec, x, **options)\n"
        "Standard.compress = dying\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "sitecustomize.py").write_text("import os\nif os.environ.get('DYING'): import dying_codec\n")
    monkeypatch.setenv("DYING", "1")
    failed = evaluation.evaluate(
        ["webp@20,21"], out=tmp_path / "rows.csv", folders=[folder], sigmas=[5.0], noise_seed=0, protocol="clip8",
        device="cpu", console=Console(quiet=True), jobs=2,
    )  # fmt: skip
    assert [(row.quality, row.error) for row in failed] == [(21, evaluation.DIED)] * 2
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table[table["quality"] == 20]["psnr"].notna().all() and len(table) == 4


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(
    jdc, folder: Path, tmp_path: Path, monkeypatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluation.Evaluator, "__call__", lambda *_: pytest.fail("measured"))
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    for out, message in ((tmp_path, "is a folder, which is not replaced"), (other, "it has no column method"),
                         (Path("/proc/rows.csv"), "cannot be written")):  # fmt: skip
        status, _, err = evaluated(jdc, "webp@50", data=folder, out=out)
        assert status == 2 and message in err and len(err.strip().splitlines()) == 1
    assert other.read_text() == "a,b\n1,2\n"


def test_rows_of_other_pixels_or_codec_versions_are_not_taken_for_done(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "rows.csv"
    assert evaluated(jdc, "webp@50", data=folder, out=out)[0] == 0
    table = pd.read_csv(out, dtype=str)
    for column, message in {"image_id": "with other pixels", "codec_version": "another version of the codec"}.items():
        table.assign(**{column: "x"}).to_csv(out, index=False)
        status, _, err = evaluated(jdc, "webp@50", data=folder, out=out)
        assert status == 2 and message in err
    table.drop(columns=["image_id", "weights_id", "error"]).to_csv(out, index=False)
    status, printed, err = evaluated(jdc, "webp@50", data=folder, out=out)
    assert status == 0 and "2 of 2 rows are in" in printed, "older files are continued" + err


def test_names_that_are_no_utf8_are_judged(jdc, tmp_path: Path) -> None:  # noqa: F811
    """One of them used to lose all rows."""
    data = tmp_path / os.fsdecode(b"d\xe9")
    data.mkdir()
    with (data / os.fsdecode(b"caf\xe9.png")).open("wb") as file:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file, "PNG")
    out = tmp_path / "rows.csv"
    status, printed, err = evaluated(jdc, "webp@50", "jpegls", data=data, out=out)
    assert status == 0, printed + err
    assert results.read([out])[["dataset", "image"]].to_numpy().tolist() == [["d\\xe9", "caf\\xe9.png"]] * 2
    assert "2 of 2 rows are in" in evaluated(jdc, "webp@50", "jpegls", data=data, out=out)[1]


def test_files_that_are_left_out_are_reported(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    data = tmp_path / os.fsdecode(b"data\xe9")
    data.mkdir()
    Image.open(folder / "0.png").save(data / "0.png")
    (data / "1.heic").write_bytes(b"")
    status, printed, _ = evaluated(jdc, "webp@50", data=data, out=tmp_path / "rows.csv")
    assert status == 0 and "data\\xe9: 1 file left out: 1 .heic" in printed.splitlines()[-2], "at the end"


def test_every_codec_is_warmed_up_once_before_its_first_image(folder: Path, monkeypatch, tmp_path: Path) -> None:  # noqa: F811
    sizes = []
    compress = Standard.compress

    def noted(codec: Standard, x, **options: object) -> bytes:
        sizes.append((codec.codec, tuple(x.shape[-2:])))
        return compress(codec, x, **options)

    monkeypatch.setattr(Standard, "compress", noted)
    evaluation.evaluate(
        ["webp@50", "jpeg@50"], out=tmp_path / "rows.csv", folders=[folder], sigmas=[5.0], noise_seed=0,
        protocol="clip8", device="cpu", console=Console(quiet=True),
    )  # fmt: skip
    for codec in ("webp", "jpeg"):
        assert [size for name, size in sizes if name == codec] == [(64, 64), (66, 70), (66, 70)]


def test_a_log_has_a_line_of_progress_every_so_often(capsys, monkeypatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("jdcsuite.judging.progress.time.monotonic", lambda: float(next(clock)))
    with Progress("3 codecs on [red]", total=20, console=Console(width=80)) as progress:
        for _ in range(7):
            progress.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["3 codecs on [red]: 3 of 20, 2 min 50 s left", "3 codecs on [red]: 6 of 20, 2 min 20 s left"]


def test_words_for_codecs() -> None:
    """They used to be refused."""
    for word, codec, qualities in (
        ("jxl@d2,1.5", "jpegxl", [2, 1.5]), ("jpegxl@q90", "jpegxl", [1]), ("jpegxl@q30,q10", "jpegxl", [6.4, 15.2667]),
        ("jp2@30", "jpeg2000", [30]), ("j2k-lossless", "jpeg2000-lossless", [0]), ("avif@q50", "avif", [50]),
        ("jpg@50", "jpeg", [50]), ("jxl-e3@d2", "jpegxl", [2]), ("avif-420-e4@30", "avif-420", [30]),
    ):  # fmt: skip
        parsed = candidates.parse([word])
        assert {c.codec.codec for c in parsed} == {codec} and [c.row.quality for c in parsed] == qualities, word
    assert candidates.parse(["nlm+jxl@d2"])[0].row.method == "nlm + jpegxl"
    assert candidates.parse(["avif-e4@30"])[0].row.method == "noisy + avif-e4"
    for word in ("avif@d2", "jpegxl@q101", "jpegxl@dq2"):
        with pytest.raises(UserError, match=f"{word} names no qualities: give numbers, as in"):
            candidates.parse([word])


def test_a_file_of_rows_knows_what_it_holds(tmp_path: Path) -> None:
    rows = [Row(method="noisy + webp", quality=q, dataset="d", image="i", sigma=float("nan")) for q in (50.0, 60.0)]
    with rows_file.opened(tmp_path / "rows.csv") as file:
        file.append(rows[0])
        assert not file.has(rows[1])
    with rows_file.opened(tmp_path / "rows.csv") as file:
        assert file.has(rows[0]) and not file.has(rows[1])
    with rows_file.opened(tmp_path / "empty.csv"):
        pass
    assert not (tmp_path / "empty.csv").exists(), "no file where nothing was measured"


def test_a_failed_row_stays_until_it_is_measured(tmp_path: Path) -> None:
    """Another command used to remove it, and a curve was a mean over fewer images without a trace."""
    out, bad = tmp_path / "rows.csv", Row(method="noisy + webp", quality=50.0, dataset="d", image="i", error="too wide")
    other = replace(bad, method="noisy + avif", error=None)
    for rows in ([bad], [other]):
        with rows_file.opened(out) as file:
            assert not file.has(bad), "it is tried again"
            for row in rows:
                file.append(row)
    assert sorted(results.read([out])["error"]) == ["", "too wide"]
    for again in (replace(bad, error="still"), replace(bad, error=None)):
        with rows_file.opened(out) as file:
            file.append(again)
            file.rewrite(lambda key: key)
        assert [str(e or "") for e in results.read([out])["error"]] == ["", again.error or ""]


def test_a_results_file_that_is_cut_off_is_read_without_its_last_row(tmp_path: Path) -> None:
    text = "method,dataset,image,bpp,psnr\nwebp,d,1,1.5,30\nwebp,d,2,1.5,30\n"
    (tmp_path / "cut.csv").write_text(text[:-6])
    assert results.read([tmp_path / "cut.csv"])["image"].tolist() == ["1"]
    (tmp_path / "middle.csv").write_text(text.replace("webp,d,1,1.5,30", "webp,d,1,1"))
    with pytest.raises(UserError, match=r"middle\.csv .* row 2 has 4 fields, the header 5"):
        results.read([tmp_path / "middle.csv"])


def test_a_denoiser_that_is_not_installed_is_left_out(jdc, folder: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "bm3d", None)
    status, out, _ = evaluated(jdc, "bm3d@5+webp@50", "webp@50", data=folder, out=tmp_path / "a.csv")
    assert status == 0 and "bm3d@5+webp@50 is left out: BM3D is not installed" in out
    assert set(results.read([tmp_path / "a.csv"])["method"]) == {"noisy + webp"}
    status, _, err = evaluated(jdc, "bm3d+webp@50", data=folder, out=tmp_path / "b.csv")
    assert status == 2 and "no codec is left: BM3D is not installed" in err


def test_a_run_brings_its_own_test_images_and_noise(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "run").mkdir()
    for place in ("train", "test"):
        (tmp_path / place).mkdir()
    Image.open(folder / "0.png").save(tmp_path / "test" / "a.png")
    for i in range(2):
        Image.open(folder / f"{i}.png").convert("L").save(tmp_path / "train" / f"b{i}.png")
    data = {
        "_target_": "jdcsuite.data.photographs.Photographs",
        "noise": {"_target_": "jdcsuite.data.noise.GaussianNoise", "sigma": 7, "protocol": "clip8"},
        **{"root": str(tmp_path), "train": "train", "test": ["test"], "noise_seed": 3, "limit": 1},
        **{"crop": 64, "val_crop": 64, "batch": 1, "workers": 0, "seed": 0, "steps": 1, "resident": False},
        **dict.fromkeys(["lossless", "cache", "training_noise", "augment"]),
    }
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"key": "k", "data": data}))
    words = ("evaluate", "webp@50", "--data", tmp_path / "run", "--out", tmp_path / "a.csv")
    status, _, err = jdc(*words)
    assert status == 0, err
    rows = results.read([tmp_path / "a.csv"])
    assert set(zip(rows["dataset"], rows["sigma"], rows["noise_seed"], strict=True)) == {("test", 7, 3)}
    status, _, err = jdc(*words, "--sigma", 5)
    assert status == 2 and "leave out --sigma" in err
