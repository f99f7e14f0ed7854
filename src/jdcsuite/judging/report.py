"""Rows of runs and of standard codecs -> joined results.csv, tables on the terminal, RD figure, picture strip.

Rows are one image each (``COLUMNS``); means are taken here and nowhere else. PSNR is in dB and MS-SSIM in
[0, 1], both against the clean picture; bpp counts the whole file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jdcsuite.judging import comparison
from jdcsuite.judging.figures import DEMO, figure, noise_level, strip
from jdcsuite.types import Row, UserError

COLUMNS = [column.name for column in fields(Row)]
TEXT = [column.name for column in fields(Row) if column.type == "str | None" or column.name == "quality"]
POINT = ["curve", "method", "dataset", "sigma", "lmbda", "quality", "budget", "noise_protocol", "train_set"]
MEANS = ["bpp", "bpp_est", "bpp_payload", "psnr", "ms_ssim", "psnr_noisy", "ms_ssim_noisy"]
FIGURE = "rd.png"


def read(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of run folders (searched for ``results.csv``) and csv files; a row met twice counts once.

    Text columns hold "" and numbers NaN where a file has no value. Raises UserError where there is nothing to
    read, or where a file does not hold rows.
    """
    return _read(paths).drop(columns="folder")


def _read(paths: Sequence[Path]) -> pd.DataFrame:
    """As ``read``, with the folder of each row's file."""
    rows = pd.concat([_rows(file).assign(folder=str(file.parent)) for file in _files(paths)], ignore_index=True)
    extra = [column for column in rows if column not in COLUMNS]
    rows = rows.reindex(columns=[*COLUMNS, *extra])
    rows[TEXT] = rows[TEXT].fillna("").astype(str)
    who = rows["run"].where(rows["run"] != "", rows["method"])
    identity = rows[["quality", "dataset", "image", "sigma", "noise_seed", "noise_protocol"]].assign(who=who)
    return rows[~identity.duplicated(keep="last")].reset_index(drop=True)


def _files(paths: Sequence[Path]) -> list[Path]:
    """The csv files behind the paths; in a folder, those of runs before a report's own join of them."""
    files: list[Path] = []
    for path in map(Path, paths):
        found = [path] if path.is_file() else sorted(path.rglob("results.csv"))
        files += [file for file in found if _is_run(file.parent) or not (file.parent / FIGURE).exists()] or found
        if not found:
            raise UserError(f"There is no results.csv in {path}: give csv files or folders of tested runs.")
    if not files:
        raise UserError("There is nothing to report: give csv files or folders of tested runs.")
    return list(dict.fromkeys(files))


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _rows(file: Path) -> pd.DataFrame:
    """The rows of one csv file, numbers read exactly."""
    try:
        rows = pd.read_csv(
            file,
            dtype=dict.fromkeys(TEXT, str),
            keep_default_na=False,  # a picture may be called "NA"
            na_values=["", "nan"],
            float_precision="round_trip",
        )
    except ValueError as error:  # pandas' own errors too
        raise UserError(f"{file} is no csv file of results: {str(error).splitlines()[0]}.") from None
    if missing := [column for column in ("method", "dataset", "image") if column not in rows]:
        raise UserError(f"{file} is no csv file of results: it has no column {missing[0]}.")
    if rows.empty:
        raise UserError(f"{file} holds no rows.")
    for column in set(rows) & set(COLUMNS) - set(TEXT):
        try:
            rows[column] = rows[column].astype(float)
        except ValueError as error:
            raise UserError(f"{file} is no csv file of results: column {column}, {error}.") from None
    if "quality" in rows:  # 90 and 90.0 are one quality
        number = pd.to_numeric(rows["quality"], errors="coerce")
        rows["quality"] = rows["quality"].where(number.isna(), number.map("{:g}".format))
    return rows


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of all curves: means over images and seeds for each ``POINT``, each curve sorted by bpp.

    ``images`` counts the pictures behind a point. ``label`` is the method's name, with the words in which its curves
    differ where it has several. Rows of estimators (no bpp, no PSNR) are left out.
    """
    coded = _coded(rows)
    grouped = coded.groupby(POINT, dropna=False, sort=False)
    points = grouped[MEANS].mean().assign(images=grouped["image"].nunique()).reset_index()
    found = points.groupby("method")["curve"].unique()
    labels = {curve: label for method, some in found.items() for curve, label in _labels(method, sorted(some)).items()}
    points["label"] = pd.Series([labels[curve] for curve in points["curve"]], index=points.index, dtype=str)
    for said in (points["budget"] + " " + points["noise_protocol"], points["train_set"]):
        several = (said.groupby(points["label"]).transform("nunique") > 1) & (said != "")
        points["label"] = points["label"].where(~several, points["label"] + " (" + said.str.strip() + ")")
    points["standard"] = points["lmbda"].isna()
    points = points.sort_values(["dataset", "sigma", "standard", "label", "bpp"], ignore_index=True)
    return points[["label", *POINT, *MEANS, "images"]]


def _labels(method: str, curves: list[str]) -> dict[str, str]:
    """Curves of a method -> its name and the words that not all of them have; whole curves where those are alike."""
    words = {curve: curve.split() for curve in curves}
    common = set.intersection(*map(set, words.values())) | set(method.split())
    labels = {curve: " ".join([method, *(w for w in said if w not in common)]) for curve, said in words.items()}
    return labels if len(set(labels.values())) == len(curves) else {curve: curve for curve in curves}


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    coded = rows[rows[["bpp", "psnr"]].notna().any(axis=1)].copy()
    coded["curve"] = coded["curve"].where(coded["curve"] != "", coded["method"])
    return coded


def labelled(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows behind ``points``, each with its curve's label."""
    named = ["curve", "method", "budget", "noise_protocol", "train_set"]
    return _coded(rows).merge(points[[*named, "label"]].drop_duplicates(), on=named)


def table(curves: pd.DataFrame) -> Table:
    """The curves for a terminal of 80 columns, a section for each dataset and noise."""
    out = Table(
        title=DEMO if (curves["budget"] == "demo").any() else None,
        caption="bpp: whole file; est.: the model's own estimate; gain: dB over the noisy input",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    out.add_column("method", overflow="fold")
    for name in ("rung", "bpp", "est.", "PSNR", "gain", "MS-SSIM", "images"):
        out.add_column(name, justify="right", no_wrap=True)
    for (dataset, sigma), panel in curves.groupby(["dataset", "sigma"], dropna=False, sort=False):
        out.add_section()
        noisy = panel["psnr_noisy"].mean()
        out.add_row(
            f"[bold]{escape(dataset)}[/], {noise_level(sigma)}", *[""] * 3, f"[bold]{_text(noisy, 2)}[/]", "noisy"
        )
        last = None
        for point in panel.itertuples():
            out.add_row(
                "" if point.label == last else escape(point.label),
                _rung(point.lmbda, point.quality),
                _text(point.bpp, 3),
                _text(point.bpp_est, 3),
                _text(point.psnr, 2),
                # of a clean picture there is no gain to tell
                _text(point.psnr - point.psnr_noisy if np.isfinite(point.psnr_noisy) else np.nan, 2, sign="+"),
                _text(point.ms_ssim, 4),
                str(point.images),
            )
            last = point.label
    return out


def entropy_table(rows: pd.DataFrame) -> Table | None:
    """RMSE in bpp of the estimates of the clean picture's entropy against the real one; None without any."""
    if "h_clean" not in rows or rows["h_clean"].notna().sum() == 0:
        return None
    known = rows[rows["h_clean"].notna()]
    names = {"h_hat": "network", "h_mean": "mean", "h_linear": "linear fit", "h_analytic": "analytic"}
    names = {column: name for column, name in names.items() if column in known and known[column].notna().any()}
    out = Table(title="Entropy of the clean picture: RMSE in bpp", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "dataset", *names.values(), "images"):
        out.add_column(name, justify="left" if name in ("method", "dataset") else "right")
    for (method, dataset, sigma), part in known.groupby(["method", "dataset", "sigma"], dropna=False):
        rmse = [((part[column] - part["h_clean"]) ** 2).mean() ** 0.5 for column in names]
        counted = str(part["image"].nunique())
        out.add_row(
            escape(method),
            escape(f"{dataset}, {noise_level(sigma)}"),
            *(_text(value, 3) for value in rmse),
            counted,
        )
    return out


def _pictures(rows: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """One test picture for a strip: noisy, decoded by each curve's middle rung, clean; [] without pictures.

    Runs leave them in their folders as ``pictures/<dataset>_<image>_{noisy,decoded,clean}.png``.
    """
    stems = rows["dataset"] + "_" + rows["image"].map(lambda image: Path(image).stem)
    rows = rows.assign(file=rows["folder"] + "/pictures/" + stems, which=stems + rows["sigma"].map(noise_level))
    rows = rows[rows["file"].map(lambda file: Path(f"{file}_decoded.png").exists())].dropna(subset=["bpp", "psnr"])
    if rows.empty:
        return []
    shown_by = rows.groupby("which", sort=False)["curve"].nunique()
    rows = rows[rows["which"] == shown_by.idxmax()].sort_values("bpp")  # the picture that most curves show

    def load(row: pd.Series, kind: str) -> np.ndarray:
        return np.asarray(Image.open(f"{row['file']}_{kind}.png").convert("RGB"))

    first = rows.iloc[0]
    noisy = f"noisy, {noise_level(first['sigma'])}\n{first['psnr_noisy']:.2f} dB"
    out = [(noisy, load(first, "noisy"))]
    for _, curve in rows.groupby("curve", sort=False):
        row = curve.iloc[len(curve) // 2]
        title = f"{row['method']}, {_rung(row['lmbda'], row['quality'])}".strip(", ")
        out.append((f"{title}\n{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB", load(row, "decoded")))
    return [*out, (f"clean\n{first['dataset']}, {first['image']}", load(first, "clean"))]


def make(paths: Sequence[Path], out: Path, console: Console, *, against: str | None = None) -> dict[str, Path]:
    """Write the report of runs and codecs to a folder and print it; what was written, by name.

    ``results``: all rows; ``figure`` and ``strip``: where there are curves, and pictures; ``compared``: what every
    other curve has over ``against``, a label. Raises UserError as ``read`` and `comparison.compare` do.
    """
    rows = _read(paths)
    points = curves(rows)
    compared = None if against is None else comparison.compare(labelled(rows, points), against)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as the output.")
    if _is_run(out):
        raise UserError(f"{out} holds a run, whose results.csv a report would replace: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    made = {"results": out / "results.csv"}
    _write(rows.drop(columns="folder"), made["results"])
    if len(points):
        made["figure"] = out / FIGURE
        figure(points, made["figure"])
        console.print(table(points))
    if compared is not None:
        made["compared"] = out / "compared.csv"
        _write(compared, made["compared"])
        console.print(comparison.table(compared))
    versions = sorted({version for version in rows["code_version"] if version})
    if len(versions) > 1:
        mixed = f"These rows mix {len(versions)} versions of the code: {', '.join(versions)}."
        console.print(mixed, markup=False)
    if estimates := entropy_table(rows):
        console.print(estimates)
    if shown := _pictures(rows):
        made["strip"] = out / "strip.png"
        strip(shown, made["strip"])
    for name, path in made.items():
        console.print(f"{name:8} {path}", soft_wrap=True, highlight=False, markup=False)
    return made


def _write(rows: pd.DataFrame, path: Path) -> None:
    """Write rows so that ``read`` gives the same ones; a reader never sees half a file."""
    numbers = rows.select_dtypes("number")
    whole = [name for name, values in numbers.items() if (values.dropna() % 1 == 0).all()]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    rows.astype(dict.fromkeys(whole, "Int64")).to_csv(part, index=False)
    part.replace(path)


def _rung(lmbda: float, quality: str) -> str:
    if np.isnan(lmbda):
        return f"q {quality}" if quality else ""
    return f"quality {quality}" if quality else f"λ {lmbda:g}"  # of a codec of any rate, whose lmbda follows from it


def _text(value: float, digits: int, sign: str = "") -> str:
    return "-" if np.isnan(value) else f"{value:{sign}.{digits}f}"
