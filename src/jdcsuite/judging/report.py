"""Run folders and csv files -> a folder with joined rows, a rate-distortion figure and a strip of images; tables on the
terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jdcsuite.judging import comparison, figures, results, terminal
from jdcsuite.types import UserError


def make(paths: Sequence[Path], out: Path, console: Console, *, against: str | None = None) -> dict[str, Path]:
    """Write the report to the folder ``out`` and print its tables -> the files written, by name.

    ``results``: all rows; ``figure`` and ``strip``, where there are curves and images; ``compared``: how far every
    other curve is ahead of ``against``, a label. UserError: as `results.read` and `comparison.compare`, or ``out`` is
    a file or a run's folder.
    """
    rows = results.read(paths, with_folder=True)
    points = results.curves(rows)
    compared = None if against is None else comparison.compare(results.labelled(rows, points), against)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as the output.")
    if results.is_run(out):
        raise UserError(f"{out} holds a run, whose {results.FILE} a report would replace: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    files = {"results": out / results.FILE}
    results.write(rows.drop(columns="folder"), files["results"])
    if len(points):
        files["figure"] = out / "rd.png"
        figures.figure(points, files["figure"])
        console.print(terminal.curves_table(points))
    if compared is not None:
        files["compared"] = out / "compared.csv"
        results.write(compared, files["compared"])
        console.print(terminal.comparison_table(compared))
    versions = sorted({version for version in rows["code_version"] if version})
    if len(versions) > 1:
        console.print(f"These rows mix {len(versions)} versions of the code: {', '.join(versions)}.", markup=False)
    if len(errors := results.entropy_errors(rows)):
        console.print(terminal.entropy_table(errors))
    if images := figures.example(rows):
        files["strip"] = out / "strip.png"
        figures.strip(images, files["strip"])
    for name, path in files.items():
        console.print(f"{name:8} {path}", soft_wrap=True, highlight=False, markup=False)
    return files
