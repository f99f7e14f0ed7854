"""Rows of runs and codecs <-> csv files, which are joined, checked and freed of repetitions."""

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
from jdcsuite.imaging import atomic
from jdcsuite.types import Row, UserError

FILE = "results.csv"
COLUMNS = [column.name for column in fields(Row)]
TEXT = [column.name for column in fields(Row) if column.type == "str | None" or column.name == "quality"]
# The first of them is the run, or the method of a codec without one; weights_id and image_id are added by `_identity`.
IDENTITY = ["source", "quality", "dataset", "image", "sigma", "noise_seed", "noise_protocol"]
# Measurements of one identity may differ by this much, as convolutions of two machines do; rates relatively.
TOLERANCE = {"bpp": 1e-3, "psnr": 0.01, "ms_ssim": 1e-4, "psnr_noisy": 0.01, "h_hat": 1e-2, "h_clean": 1e-3}
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
