"""Run folders and csv files -> a folder with joined rows, one HTML page, figures and tables; tables on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from jdcsuite.judging import comparison, curves, results
from jdcsuite.reports import complexity, crops, figures, interactive, page, provenance, tables, terminal
from jdcsuite.reports.page import Chart, Section
from jdcsuite.reports.styles import metrics, panels, styles
from jdcsuite.types import UserError

PAGE = "report.html"
READING = (
    "Dashed: a denoiser comes before the codec. Dotted: the noisy input. Click a name to switch its curve off, "
    "double-click it to see it alone. Error bars: standard deviation over seeds."
)
TABLES, PARTS = "tables", "parts"  # folders: tables as files; figures that the page shows one by one


def make(paths: Sequence[Path], out: Path, console: Console, *, against: str | None = None) -> dict[str, Path]:
    """Write the report to the folder ``out`` and print its tables -> the files written, by name.

    ``results``: all rows; ``page``: report.html, for which the folder's other files are not needed; ``figure``,
    ``figure_svg`` and ``strip``, where there are curves and images; ``tables``: a folder of csv, Markdown and LaTeX
    files; ``compared``: how far every other curve is ahead of ``against``, a label. UserError: as `results.read` and
    `comparison.compare`, or ``out`` is a file or a run's folder.
    """
    rows = results.read(paths, with_folder=True)
    points = curves.points(rows)
    labelled = curves.labelled(rows, points)
    compared = None if against is None else comparison.compare(labelled, against)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as the output.")
    if results.is_run(out):
        raise UserError(f"{out} holds a run, whose {results.FILE} a report would replace: choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    files = {"results": out / results.FILE}
    results.write(rows.drop(columns="folder"), files["results"])
    if metrics(points):  # lossless codecs on images without noise have no finite one
        files |= {"figure": out / "rd.png", "figure_svg": out / "rd.svg"}
        figures.figure(points, [files["figure"], files["figure_svg"]])
    if len(points):
        console.print(terminal.curves_table(points))
    if compared is not None:
        files["compared"] = out / "compared.csv"
        results.write(compared, files["compared"])
        console.print(terminal.comparison_table(compared))
    notes = [*_notes(rows), *(f"The last row of {file} is cut off and left out." for file in results.cut_off(paths))]
    for note in notes:
        if note != results.DEMO:  # the table's title
            console.print(note, markup=False)
    if len(errors := curves.entropy_errors(rows)):
        console.print(terminal.entropy_table(errors))
    if images := crops.example(rows):
        files["strip"] = out / "strip.png"
        crops.strip(images, files["strip"])
    options = ["-o", str(out), *(["--against", against] if against else [])]
    command = shlex.join(["jdc", "report", *map(str, paths), *options])
    files |= _page(points, labelled, compared, images, out, notes=notes, command=command)
    for name, path in files.items():
        console.print(f"{name:10} {path}", soft_wrap=True, highlight=False, markup=False)
    return files


def _notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing the curves."""
    versions = sorted({version for version in rows["code_version"] if version})
    mixed = f"These rows mix {len(versions)} versions of the code: {', '.join(versions)}."
    failed = rows[rows["error"] != ""]
    failures = [f"{row.method} failed on {row.image} of {row.dataset}: {row.error}" for row in failed.itertuples()]
    more = [f"{len(failures) - 3} more images failed."] * (len(failures) > 3)
    demo = [results.DEMO] * bool((rows["budget"] == "demo").any())
    return [*demo, *[mixed] * (len(versions) > 1), *failures[:3], *more]


def _page(
    points: pd.DataFrame, labelled: pd.DataFrame, compared: pd.DataFrame | None, images: list, out: Path, *,
    notes: list[str], command: str,
) -> dict[str, Path]:  # fmt: skip
    """Write the page and the tables -> the files written. Sections for which there is nothing are left out."""
    if points.empty:
        return {}
    (out / PARTS).mkdir(exist_ok=True)
    sources = provenance.curves(labelled)
    candidates = {
        "points": [tables.points_table(points)],
        "bd": [tables.compared_table(compared), *tables.bd_tables(points)],
        "fixed": [tables.fixed_rate_table(points), tables.functionally_lossless_table(points)],
        "rate": [tables.rate_table(points)],
        "complexity": [complexity.table(labelled, sources)],
    }
    shown = {name: [table for table in some if table is not None] for name, some in candidates.items()}
    sections = [
        Section("curves", "Rate and distortion", READING, charts=_charts(points, out)),
        Section("crops", "Images", crops=images),
        Section("bd", "BD-rate and BD-PSNR", tables=shown["bd"]),
        Section("fixed", "At fixed rate or quality", tables=shown["fixed"]),
        Section("points", "Points", tables=shown["points"]),
        Section("rate", "Rate split", tables=shown["rate"]),
        Section("complexity", "Complexity", tables=shown["complexity"]),
        Section("training", "Training", charts=_training(sources, out)),
        Section("provenance", "Commands and provenance", curves=sources),
    ]
    tables.write([table for some in shown.values() for table in some], out / TABLES)
    page.write(out / PAGE, title=_title(out), notes=notes, sections=sections, command=command)
    return {"page": out / PAGE, "tables": out / TABLES}


def _title(out: Path) -> str:
    """Of a sweep's report, which is in the study's folder, the name of the study."""
    folder = out.absolute()
    return f"Results of {folder.parent.name if folder.name == 'report' else folder.name}"


def _charts(points: pd.DataFrame, out: Path) -> list[Chart]:
    looks, charts = styles(points), []
    for i, (title, panel) in enumerate(panels(points)):
        if not metrics(panel):
            continue
        svg = out / PARTS / f"rd-{i + 1}.svg"
        figures.figure(panel, [svg], looks=looks)
        html = interactive.rate_distortion(panel, looks, name=f"chart-rd-{i + 1}")
        names = ", ".join(panel["label"].unique())
        alt = f"PSNR and MS-SSIM over rate on {title}, of {names}; the numbers are in the table of points"
        charts.append(Chart(title, html, svg, alt))
    return charts


def _training(sources: Sequence[provenance.Curve], out: Path) -> list[Chart]:
    runs = {run.name: run.metrics for curve in sources for run in curve.runs if run.metrics}
    if not runs:
        return []
    svg = out / PARTS / "training.svg"
    figures.training(runs, [svg])
    alt = f"Metrics of {len(runs)} trainings over their steps"
    return [Chart("", interactive.training(runs, name="chart-training"), svg, alt)]
