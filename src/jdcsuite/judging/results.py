"""Rows of runs and codecs (csv files) -> joined rows, the points of their rate-distortion curves, labels of curves.

Nothing is printed or drawn here. This is the only module that averages rows over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from jdcsuite.imaging import atomic
from jdcsuite.types import Row, UserError

FILE = "results.csv"
COLUMNS = [column.name for column in fields(Row)]
TEXT = [column.name for column in fields(Row) if column.type == "str | None" or column.name == "quality"]
IDENTITY = ["quality", "dataset", "image", "sigma", "noise_seed", "noise_protocol"]  # with the run, or the method
POINT = ["curve", "method", "dataset", "sigma", "lmbda", "quality", "budget", "noise_protocol", "train_set"]
MEANS = ["bpp", "bpp_est", "bpp_payload", "psnr", "ms_ssim", "psnr_noisy", "ms_ssim_noisy"]
SPREAD = ["bpp", "psnr", "ms_ssim"]  # means with a standard deviation over seeds
ENTROPY_ESTIMATES = ["h_hat", "h_mean", "h_linear", "h_analytic"]
DEMO = "Demo budget: a check that everything runs, not a result."


def write(rows: pd.DataFrame | Sequence[Row], path: Path) -> None:
    """Write rows as a csv file that `read` reads back unchanged; columns of whole numbers have no decimal point."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(map(asdict, rows)), columns=COLUMNS)
    numbers = frame.select_dtypes("number")
    whole = [name for name, values in numbers.items() if (values.dropna() % 1 == 0).all()]
    atomic.write(path, frame.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False).encode())


def read(paths: Sequence[Path], *, with_folder: bool = False) -> pd.DataFrame:
    """The rows of csv files and of folders, which are searched for ``results.csv``; of duplicates, the last is kept.

    Missing text is "" and a missing number NaN. ``with_folder``: adds the column "folder", that of each row's file.
    UserError: there is no csv file, or one does not hold rows.
    """
    rows = pd.concat([_read_file(file).assign(folder=str(file.parent)) for file in _files(paths)], ignore_index=True)
    extra = [column for column in rows if column not in COLUMNS]
    rows = rows.reindex(columns=[*COLUMNS, *extra])
    rows[TEXT] = rows[TEXT].fillna("").astype(str)
    identity = rows[IDENTITY].assign(source=rows["run"].where(rows["run"] != "", rows["method"]))
    rows = rows[~identity.duplicated(keep="last")].reset_index(drop=True)
    return rows if with_folder else rows.drop(columns="folder")


def _files(paths: Sequence[Path]) -> list[Path]:
    """The csv files at ``paths``. A report inside a folder joins the rows of that folder's runs, so it is left out
    unless there is nothing else."""
    files: list[Path] = []
    for path in map(Path, paths):
        matches = [path] if path.is_file() else sorted(path.rglob(FILE))
        if not matches:
            raise UserError(f"There is no {FILE} in {path}: give csv files or folders of tested runs.")
        files += [file for file in matches if is_run(file.parent) or not is_report(file.parent)] or matches
    if not files:
        raise UserError("There is nothing to report: give csv files or folders of tested runs.")
    return list(dict.fromkeys(files))


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def is_report(folder: Path) -> bool:
    return (folder / "rd.png").exists()


def _read_file(file: Path) -> pd.DataFrame:
    """The rows of one csv file; numbers are parsed exactly."""
    try:
        rows = pd.read_csv(
            file,
            dtype=dict.fromkeys(TEXT, str),
            keep_default_na=False,  # an image may be called "NA"
            na_values=["", "nan"],
            float_precision="round_trip",
        )
    except ValueError as error:  # the base class of pandas' own errors
        raise UserError(f"{file} is not a csv file of results: {str(error).splitlines()[0]}.") from None
    if missing := [column for column in ("method", "dataset", "image") if column not in rows]:
        raise UserError(f"{file} is not a csv file of results: it has no column {missing[0]}.")
    if rows.empty:
        raise UserError(f"{file} holds no rows.")
    for column in set(rows) & set(COLUMNS) - set(TEXT):
        try:
            rows[column] = rows[column].astype(float)
        except ValueError as error:
            raise UserError(f"{file} is not a csv file of results: column {column}, {error}.") from None
    if "quality" in rows:  # 90 and 90.0 are the same quality
        number = pd.to_numeric(rows["quality"], errors="coerce")
        rows["quality"] = rows["quality"].where(number.isna(), number.map("{:g}".format))
    return rows


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of all curves: means over images and seeds for each ``POINT``, each curve sorted by bpp.

    ``images``: number of distinct images behind a point; ``seeds``: number of training runs, whose means have the
    standard deviations ``bpp_std``, ``psnr_std`` and ``ms_ssim_std`` (NaN for one run). ``label``: see `_labels`; budget, noise protocol and training
    set are appended where they differ within a label. Rows without rate and PSNR (entropy estimators) are left out.
    """
    coded = _coded(rows)
    grouped = coded.groupby(POINT, dropna=False, sort=False)
    by_seed = coded.groupby([*POINT, "seed"], dropna=False, sort=False)[MEANS].mean().groupby(POINT, dropna=False)
    spread = by_seed[SPREAD].std().add_suffix("_std").assign(seeds=by_seed.size())
    points = grouped[MEANS].mean().assign(images=grouped["image"].nunique()).join(spread).reset_index()
    by_method = points.groupby("method")["curve"].unique()
    labels = {
        curve: label for method, names in by_method.items() for curve, label in _labels(method, sorted(names)).items()
    }
    points["label"] = pd.Series([labels[curve] for curve in points["curve"]], index=points.index, dtype=str)
    for detail in (points["budget"] + " " + points["noise_protocol"], points["train_set"]):
        differs = (detail.groupby(points["label"]).transform("nunique") > 1) & (detail != "")
        points["label"] = points["label"].where(~differs, points["label"] + " (" + detail.str.strip() + ")")
    points["standard"] = points["lmbda"].isna()
    points = points.sort_values(["dataset", "sigma", "standard", "label", "bpp"], ignore_index=True)
    return points[["label", *POINT, *MEANS, "images", "seeds", *(f"{name}_std" for name in SPREAD)]]


def _labels(method: str, curves: Sequence[str]) -> dict[str, str]:
    """Curve -> label: the method and those words of the curve that not all curves of the method share, or the whole
    curve where this would give two curves one label."""
    words = {curve: curve.split() for curve in curves}
    common = set.intersection(*map(set, words.values())) | set(method.split())
    labels = {curve: " ".join([method, *(w for w in own if w not in common)]) for curve, own in words.items()}
    return labels if len(set(labels.values())) == len(labels) else {curve: curve for curve in labels}


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    coded = rows[rows[["bpp", "psnr"]].notna().any(axis=1)].copy()
    coded["curve"] = coded["curve"].where(coded["curve"] != "", coded["method"])
    return coded


def labelled(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows behind ``points``, each with the label of its curve."""
    shared = ["curve", "method", "budget", "noise_protocol", "train_set"]
    return _coded(rows).merge(points[[*shared, "label"]].drop_duplicates(), on=shared)


def entropy_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """RMSE in bpp of each estimate of the clean image's entropy, by method, dataset and sigma; empty without any."""
    if "h_clean" not in rows or rows["h_clean"].isna().all():
        return pd.DataFrame()
    measured = rows[rows["h_clean"].notna()]
    names = [name for name in ENTROPY_ESTIMATES if name in measured and measured[name].notna().any()]
    squares = measured[names].sub(measured["h_clean"], axis=0) ** 2
    key = [measured[name] for name in ("method", "dataset", "sigma")]
    errors = squares.groupby(key, dropna=False).mean() ** 0.5
    return errors.assign(images=measured.groupby(key, dropna=False)["image"].nunique()).reset_index()


def noise_label(sigma: float) -> str:
    """A noise level in grey levels, or that it is unknown (NaN)."""
    return "sigma unknown" if np.isnan(sigma) else f"sigma {sigma:g}"


def rung_label(lmbda: float, quality: str) -> str:
    """The operating point of a codec: lmbda, or its quality (of an any-rate codec, lmbda follows from it)."""
    if np.isnan(lmbda):
        return f"q {quality}" if quality else ""
    return f"quality {quality}" if quality else f"λ {lmbda:g}"
