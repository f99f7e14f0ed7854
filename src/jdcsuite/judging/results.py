"""Rows of runs and codecs (csv files) -> joined rows, the points of their rate-distortion curves, labels of curves.

Nothing is printed or drawn here. This is the only module that averages rows over images.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.baselines.standards import LOSSLESS
from jdcsuite.imaging import atomic
from jdcsuite.types import Row, UserError

FILE = "results.csv"
COLUMNS = [column.name for column in fields(Row)]
TEXT = [column.name for column in fields(Row) if column.type == "str | None" or column.name == "quality"]
# The first of them is the run, or the method of a codec without one; weights_id and image_id are added by `_identity`.
IDENTITY = ["source", "quality", "dataset", "image", "sigma", "noise_seed", "noise_protocol"]
# Measurements of one identity may differ by this much, as convolutions of two machines do; rates relatively.
TOLERANCE = {"bpp": 1e-3, "psnr": 0.01, "ms_ssim": 1e-4, "psnr_noisy": 0.01, "h_hat": 1e-2, "h_clean": 1e-3}
POINT = ["curve", "method", "dataset", "sigma", "lmbda", "quality", "budget", "noise_protocol", "train_set"]
POINT += ["sigma_train", "min_ms_ssim", "target", "rate_scale"]
MEANS = [
    "bpp", "bpp_est", "bpp_payload", "bpp_y", "bpp_z", "bpp_index", "bpp_header", "psnr", "ms_ssim", "psnr_noisy",
    "ms_ssim_noisy",
]  # fmt: skip
SPREAD = ["bpp", "psnr", "ms_ssim"]  # means with a standard deviation over seeds
# Options in which the curves of a label may differ, and how the label says so
DETAILS = {"sigma_train": "trained at sigma {:g}", "min_ms_ssim": "MS-SSIM > {:g}", "rate_scale": "rate scale {:g}"}
# Quality scales of standard codecs that are no quality of 0 to 100
SCALES = {"jpegxl": "distance {}", "jpeg2000": "{} dB", "bpg": "QP {}", "vtm": "QP {}"}
ENTROPY_ESTIMATES = ["h_hat", "h_mean", "h_linear", "h_analytic"]
DEMO = "Demo budget: a check that everything runs, not a result."


def write(rows: pd.DataFrame | Sequence[Row], path: Path) -> None:
    """Write rows as a csv file that `read` reads back unchanged; columns of whole numbers have no decimal point."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(map(asdict, rows)), columns=COLUMNS)
    numbers = frame.select_dtypes("number")
    whole = [name for name, values in numbers.items() if (values.dropna() % 1 == 0).all()]
    atomic.write(path, frame.astype(dict.fromkeys(whole, "Int64")).to_csv(index=False).encode())


def read(paths: Sequence[Path], *, with_folder: bool = False) -> pd.DataFrame:
    """The rows of csv files and of folders, which are searched for ``results.csv``; repeated rows are kept once.

    Missing text is "" and a missing number NaN. Where files hold different images under one name of a dataset, the
    second one's is called "name (2)". ``with_folder``: adds the column "folder", that of each row's file.
    UserError: there is no csv file, one does not hold rows, or two give different results for the same run or codec,
    weights and image.
    """
    rows = pd.concat([_read_file(file).assign(file=str(file)) for file in _files(paths)], ignore_index=True)
    extra = [column for column in rows if column not in [*COLUMNS, "file"]]
    rows = rows.reindex(columns=[*COLUMNS, *extra, "file"])
    rows[TEXT] = rows[TEXT].fillna("").astype(str)
    rows["dataset"] = _datasets(rows)
    rows = _without_repeated(rows).reset_index(drop=True)
    if with_folder:
        rows["folder"] = [str(Path(file).parent) for file in rows["file"]]
    return rows.drop(columns="file")


def _datasets(rows: pd.DataFrame) -> pd.Series:
    """The dataset of each row, numbered where an earlier file has other images of the same names in it."""
    names, known = rows["dataset"].copy(), {}
    for (dataset, file), part in rows[rows["image_id"] != ""].groupby(["dataset", "file"], sort=False):
        ids = dict(zip(part["image"], part["image_id"], strict=True))
        if len(ids) < len(part[["image", "image_id"]].drop_duplicates()):
            raise UserError(f"{file} holds different images of one name in {dataset}: judge the two sets separately")
        for name in (f"{dataset} ({k})" if k > 1 else dataset for k in itertools.count(1)):
            if all(known.get((name, image), identity) == identity for image, identity in ids.items()):
                break
        known |= {(name, image): identity for image, identity in ids.items()}
        names[(rows["dataset"] == dataset) & (rows["file"] == file)] = name
    return names


def _identity(rows: pd.DataFrame) -> pd.DataFrame:
    """What identifies each row. Rows of older files have no ids: they count as those of the only weights or image that
    others have under their name."""
    identity = rows.assign(source=rows["run"].where(rows["run"] != "", rows["method"]))
    for column, owner in (("weights_id", ["source"]), ("image_id", ["dataset", "image"])):
        ids = rows[column].mask(rows[column] == "")
        by_owner = ids.groupby([identity[name] for name in owner])
        only = by_owner.transform("first").where(by_owner.transform("nunique") == 1)
        identity[column] = ids.fillna(only).fillna("")
    return identity[[*IDENTITY, "weights_id", "image_id"]]


def _without_repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each identity; a failed one only where there is no other. UserError: rows that disagree."""
    identity = _identity(rows)
    number = identity.groupby(list(identity), dropna=False, sort=False).ngroup()
    measured = [name for name in TOLERANCE if name in rows]
    groups = rows[measured].groupby(number)
    spread = groups.max() - groups.min()
    spread["bpp"] /= groups["bpp"].max()
    for at in spread.index[(spread > [TOLERANCE[name] for name in measured]).any(axis=1)]:
        differing = rows[number == at]
        column = next(name for name in measured if spread.loc[at, name] > TOLERANCE[name])
        first, second = differing.loc[[differing[column].idxmin(), differing[column].idxmax()]].to_dict("records")
        files = " and ".join(dict.fromkeys([first["file"], second["file"]]))
        raise UserError(
            f"{files} give two results for {identity['source'][differing.index[0]]} on "
            f"{first['image']} of {first['dataset']} ({column} {first[column]:g} and {second[column]:g}): report them "
            "separately, or leave one out"
        )
    order = number[(rows["error"] == "").sort_values(kind="stable").index]  # failed rows first, then the others
    return rows.loc[order[~order.duplicated(keep="last")].sort_index().index]


def _files(paths: Sequence[Path]) -> list[Path]:
    """The csv files at ``paths``. A report inside a folder joins the rows of that folder's runs, so it is left out
    unless there is nothing else."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist: give csv files or folders of tested runs.")
        matches = [path] if path.is_file() else sorted(path.rglob(FILE))
        if not matches:
            raise UserError(f"There is no {FILE} in {path}: give csv files or folders of tested runs.")
        files += [file for file in matches if is_run(file.parent) or not is_report(file.parent)] or matches
    if not files:
        raise UserError("There is nothing to report: give csv files or folders of tested runs.")
    _check_keys(list(dict.fromkeys(file.parent for file in files if is_run(file.parent))))
    return list(dict.fromkeys(files))


def _check_keys(runs: list[Path]) -> None:
    """UserError: two runs have one key and different configurations, of which only one can be the key's."""
    by_key: dict[str, list[Path]] = {}
    for run in runs:
        if key := re.search(r"^key: (\S+)", (run / run_folder.CONFIG).read_text(errors="replace"), re.MULTILINE):
            by_key.setdefault(key[1], []).append(run)
    for key, (first, *others) in by_key.items():
        for other in others:
            parts = [run_folder.decisive(run_folder.read_config(run)) for run in (first, other)]
            if differing := sorted(name for name in parts[0] if parts[0][name] != parts[1][name]):
                raise UserError(
                    f"{first} and {other} have one key, {key}, and different configurations ({', '.join(differing)}): "
                    "report them separately"
                )


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def is_report(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("rd.png", "report.html"))


def cut_off(paths: Sequence[Path]) -> list[Path]:
    """The files at ``paths`` whose last row is cut off, which `read` leaves out."""
    return [file for file in _files(paths) if _is_cut_off(_lines(file))]


def complete_lines(file: Path) -> list[list[str]]:
    """Header and rows of a csv file, without a last row that is cut off, as a killed writer leaves it.

    UserError: it cannot be read, is empty, or has another row with more or fewer fields than the header."""
    lines = _lines(file)
    if _is_cut_off(lines):
        lines.pop()
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise UserError(
                f"{file} is not a csv file of results: row {number} has {len(line)} fields, the header {len(lines[0])}."
            )
    return lines


def _lines(file: Path) -> list[list[str]]:
    try:
        lines = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8", "surrogateescape"), newline="")))
    except (OSError, csv.Error) as error:
        raise UserError(f"{file} is not a csv file of results: {getattr(error, 'strerror', None) or error}.") from None
    if not lines:
        raise UserError(f"{file} is not a csv file of results: it is empty.")
    return lines


def _is_cut_off(lines: list[list[str]]) -> bool:
    return len(lines) > 1 and len(lines[-1]) < len(lines[0])


def _read_file(file: Path) -> pd.DataFrame:
    """The rows of one csv file; numbers are parsed exactly."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(complete_lines(file))
    text.seek(0)
    try:
        rows = pd.read_csv(
            text,
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
    if "bpp" in rows and len(wrong := rows[(rows["bpp"] <= 0) | np.isinf(rows["bpp"])]):
        image, bpp = wrong[["image", "bpp"]].iloc[0]
        raise UserError(f"{file} holds a rate of {bpp:g} bpp, of {image}: measure it again.")
    if {"bpp", "psnr"} <= set(rows):
        failed = rows["error"].fillna("") != "" if "error" in rows else False
        if len(wrong := rows[rows["bpp"].notna() & rows["psnr"].isna() & ~failed]):
            raise UserError(f"{file} holds a rate without a PSNR, of {wrong['image'].iloc[0]}: measure it again.")
    if "quality" in rows:  # 90 and 90.0 are the same quality
        number = pd.to_numeric(rows["quality"], errors="coerce")
        rows["quality"] = rows["quality"].where(number.isna(), number.map("{:g}".format))
    return rows


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of all curves: means over images and seeds for each ``POINT``, each curve sorted by bpp.

    ``label``: see `_labels`; what else tells the curves of a label apart is appended. ``images``: number of distinct
    images behind a point. ``exact``: images left out of all means because some point reproduces them exactly, with an
    infinite PSNR; of a point that reproduces all of them, their number, and it has no PSNR. ``exact_noisy``: images
    without noise, left out of ``psnr_noisy``. ``seeds``: number of training runs, whose means have the standard
    deviations ``bpp_std``, ``psnr_std`` and ``ms_ssim_std`` (NaN for one run). Rows without rate and PSNR (entropy
    estimators) are left out.
    UserError: rows of two noise protocols in one dataset and noise level.
    """
    coded = _coded(rows)
    _check_protocols(coded)
    left_out = _left_out(coded)
    finite = coded.assign(**{name: coded[name].replace(np.inf, np.nan) for name in ("psnr", "psnr_noisy")})
    grouped = finite[~left_out].groupby(POINT, dropna=False, sort=False)
    by_seed = finite[~left_out].groupby([*POINT, "seed"], dropna=False)[SPREAD].mean().groupby(POINT, dropna=False)
    spread = by_seed.std().add_suffix("_std").assign(seeds=by_seed.size())
    points = grouped[MEANS].mean().assign(images=grouped["image"].nunique()).join(spread)
    for column, metric in (("exact", "psnr"), ("exact_noisy", "psnr_noisy")):
        infinite = coded[np.isinf(coded[metric]) | (left_out & (column == "exact"))]
        counts = infinite.groupby(POINT, dropna=False)["image"].nunique()
        points[column] = counts.reindex(points.index, fill_value=0)
    points = points.reset_index()
    by_method = points.groupby("method")["curve"].unique()
    labels = {
        curve: label for method, names in by_method.items() for curve, label in _labels(method, sorted(names)).items()
    }
    points["label"] = pd.Series([labels[curve] for curve in points["curve"]], index=points.index, dtype=str)
    details = [points["budget"] + " " + points["noise_protocol"], points["train_set"], points["target"]]
    for name, form in DETAILS.items():
        details.append(points[name].map(lambda value, form=form: "" if np.isnan(value) else form.format(value)))
    for detail in (detail.astype(str).str.strip() for detail in details):
        differs = (detail.groupby(points["label"]).transform("nunique") > 1) & (detail != "")
        points["label"] = points["label"].where(~differs, points["label"] + " (" + detail + ")")
    points["standard"] = points["lmbda"].isna()
    points = points.sort_values(["dataset", "sigma", "standard", "label", "bpp"], ignore_index=True)
    counts = ["images", "exact", "exact_noisy", "seeds"]
    return points[["label", *POINT, *MEANS, *counts, *(f"{name}_std" for name in SPREAD)]]


def _check_protocols(coded: pd.DataFrame) -> None:
    for (dataset, sigma), panel in coded.groupby(["dataset", "sigma"], dropna=False, sort=False):
        protocols = panel.loc[panel["noise_protocol"] != "", ["noise_protocol", "method"]]
        first = protocols.drop_duplicates("noise_protocol").to_dict("records")
        if len(first) > 1:
            listed = " and ".join(f"{row['noise_protocol']} ({row['method']})" for row in first)
            raise UserError(
                f"the rows of {dataset}, {noise_label(sigma)}, have noise of different protocols, {listed}, which are "
                "no points of one plot: report them separately"
            )


def _left_out(coded: pd.DataFrame) -> pd.Series:
    """Rows of images that a point, other than one that is lossless on all images, reproduces exactly: they are left out
    of all curves of their test set, so that all have the same images. Only the exact rows where none would be left."""
    infinite = np.isposinf(coded["psnr"])
    lossless = infinite.groupby([coded[name] for name in POINT], dropna=False).transform("all")
    panel = [coded[name] for name in ("dataset", "sigma")]
    exact = (infinite & ~lossless).groupby([*panel, coded["image"]], dropna=False).transform("any")
    none_left = exact.groupby(panel, dropna=False).transform("all")
    return exact.where(~none_left, infinite & ~lossless)


def _labels(method: str, curves: Sequence[str]) -> dict[str, str]:
    """Curve -> label: the method and those words of the curve that not all curves of the method share, or the whole
    curve where this would give two curves one label."""
    words = {curve: curve.split() for curve in curves}
    common = set.intersection(*map(set, words.values())) | set(method.split())
    labels = {curve: " ".join([method, *(w for w in own if w not in common)]) for curve, own in words.items()}
    return labels if len(set(labels.values())) == len(labels) else {curve: curve for curve in labels}


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of codecs and denoisers, with the name of their curve. Different weights of one run's name, as a run and
    its export have, are different curves."""
    coded = rows[rows[["bpp", "psnr"]].notna().any(axis=1)].copy()
    coded["curve"] = coded["curve"].where(coded["curve"] != "", coded["method"])
    ids = coded["weights_id"].mask(coded["weights_id"] == "")
    number = ids.groupby(coded["run"]).transform(lambda own: pd.factorize(own)[0] + 1)
    coded["curve"] += number.map(lambda number: f" (weights {number})" if number > 1 else "")
    return coded


def labelled(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows behind ``points``, each with the label of its curve."""
    shared = ["curve", "method", "budget", "noise_protocol", "train_set", "target", *DETAILS]
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


def rung_label(lmbda: float, quality: str, method: str) -> str:
    """The operating point of a codec with its unit: lmbda, or its quality (of an any-rate codec, lmbda follows from
    it). ``method``: its last part, after a denoiser, names a standard codec's scale."""
    codec = method.rpartition(" + ")[2].partition("-e")[0]
    if codec in LOSSLESS:
        return "lossless"
    if quality and codec in SCALES:
        return SCALES[codec].format(quality)
    return f"quality {quality}" if quality else "" if np.isnan(lmbda) else f"λ {lmbda:g}"
