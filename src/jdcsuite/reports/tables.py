"""Points of curves and their comparisons -> tables of text, as HTML shows them and as csv, Markdown and LaTeX files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from jdcsuite.imaging import atomic
from jdcsuite.judging.comparison import CONFIDENCE, FEW, METHOD, bd_matrix, functionally_lossless, pareto, psnr_at
from jdcsuite.judging.curves import noise_label, rung_label
from jdcsuite.reports.styles import panels
from jdcsuite.reports.terminal import exact_note

PARTS = {"bpp_y": "latents", "bpp_z": "hyper-latents", "bpp_index": "index", "bpp_header": "header"}
HEADER_CHARACTERS = 90  # a matrix whose names are longer has numbers above its columns
NONE = "-"  # a value that is unknown or does not apply


@dataclass(frozen=True)
class Table:
    """Cells of text. ``name``: of its files. ``texts``: number of columns of words, which come first; the others hold
    numbers. ``grouped``: the first column is the test set; HTML shows it above its rows. ``bars``: for each row, shares
    of a whole, drawn as a bar in HTML; their names are ``bar_names``."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    texts: int = 1
    grouped: bool = False
    bars: list[list[float]] | None = None
    bar_names: tuple[str, ...] = ()

    def groups(self) -> list[tuple[str, list[tuple[int, list[str]]]]]:
        """Test set -> its rows with their numbers; one group without a name where rows are not grouped."""
        numbered = enumerate(self.rows)
        if not self.grouped:
            return [("", list(numbered))]
        return [(name, list(rows)) for name, rows in groupby(numbered, key=lambda row: row[1][0])]

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        rule = ["---"] * self.texts + ["---:"] * (len(self.header) - self.texts)
        cells = [list(map(_markdown, row)) for row in (self.header, *self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
        return "\n".join([*lines, "", f"{_markdown(self.title)}. {_markdown(self.caption)}", ""])

    def latex(self) -> str:
        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (self.header, *self.rows))
        columns = "l" * self.texts + "r" * (len(self.header) - self.texts)
        caption = rf"\caption{{{_latex(self.title)}. {_latex(self.caption)}}}"
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", caption,
                rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
                r"\end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip


def write(tables: Sequence[Table], folder: Path) -> None:
    """Write every table as NAME.csv, NAME.md and NAME.tex."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            atomic.write(folder / f"{table.name}.{ending}", text.encode(errors="replace"))


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", "λ": r"$\lambda$", "±": r"$\pm$",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    }  # fmt: skip
    return "".join(special.get(letter, letter) for letter in " ".join(text.split()))


def number(value: float, form: str, spread: float = np.nan) -> str:
    """``value``, with its standard deviation where there is one; `NONE` where it is unknown."""
    if not np.isfinite(value):
        return NONE
    return f"{value:{form}}" + (f" ± {spread:{form.lstrip('+')}}" if np.isfinite(spread) else "")


def points_table(points: pd.DataFrame) -> Table:
    """`curves.points`, one row for each point."""
    rows = []
    for title, panel in panels(points):
        for point in panel.itertuples():
            rows.append(
                [
                    title, point.label, rung_label(point.lmbda, point.quality, point.method),
                    number(point.bpp, ".3f", point.bpp_std), number(point.bpp_est, ".3f"),
                    "exact" if np.isnan(point.psnr) and point.exact else number(point.psnr, ".2f", point.psnr_std),
                    number(point.psnr - point.psnr_noisy, "+.2f"),
                    number(point.ms_ssim, ".4f", point.ms_ssim_std), str(point.images), str(point.seeds),
                ]
            )  # fmt: skip
    caption = "Means over images, of PSNR in dB; ± the standard deviation over seeds. bpp: whole file; estimate: the "
    caption += "model's own, of the payload; gain: PSNR over the noisy input" + exact_note(points)
    header = ["test set", "curve", "rung", "bpp", "estimate", "PSNR", "gain", "MS-SSIM", "images", "seeds"]
    return Table("points", "Points of all curves", caption, header, rows, texts=3, grouped=True)


def rate_table(points: pd.DataFrame) -> Table | None:
    """The parts of the files of learned codecs; None without any."""
    split = points[points[list(PARTS)].notna().any(axis=1) & points["bpp"].notna()]
    if split.empty:
        return None
    rows, bars = [], []
    for title, panel in panels(split):
        for point in panel.itertuples():
            values = [getattr(point, part) for part in PARTS]
            named = [title, point.label, rung_label(point.lmbda, point.quality, point.method)]
            rows.append([*named, f"{point.bpp:.3f}", *(_share(value, point.bpp) for value in values)])
            bars.append(list(np.nan_to_num(np.array(values) / point.bpp)))
    caption = "bits per pixel, and the share of the whole file"
    header = ["test set", "curve", "rung", "bpp", *PARTS.values()]
    return Table(
        "rate", "What the bits are spent on", caption, header, rows, texts=3, grouped=True, bars=bars,
        bar_names=tuple(PARTS.values()),
    )  # fmt: skip


def _share(value: float, whole: float) -> str:
    return f"{value:.4f} ({value / whole:.1%})" if np.isfinite(value) else NONE


def compared_table(compared: pd.DataFrame | None) -> Table | None:
    """`comparison.compare`, one row for each test set and curve."""
    if compared is None or compared.empty:
        return None
    rows = []
    for pair in compared.itertuples():
        interval = f"{pair.low:+.2f} .. {pair.high:+.2f}" if np.isfinite(pair.low) else NONE
        rate = f"{pair.bd_rate:+.1f} ({pair.overlap:.0%})" if np.isfinite(pair.bd_rate) else pair.reason
        counts = map(str, (pair.pictures, pair.apart, pair.groups, pair.seeds))
        title = f"{pair.dataset}, {noise_label(pair.sigma)}"
        rows.append([title, pair.label, pair.verdict, number(pair.bd_psnr, "+.2f"), interval, rate, *counts])
    caption = (
        f"BD-PSNR in dB at equal rate, mean over images, with its {CONFIDENCE:.0%} bootstrap interval over scenes; "
        f"apart: images without common rates; BD-rate in per cent of the mean curves, by {METHOD}, in brackets the "
        "common share of their PSNR range. Verdicts on 'beats the anchor' are not corrected for their number"
    )
    header = ["test set", "curve", "beats it?", "BD-PSNR", "interval", "BD-rate", "images", "apart", "scenes", "seeds"]
    title = f"Against {compared['anchor'].iloc[0]}"
    return Table("compared", title, caption, header, rows, texts=3, grouped=True)


def bd_tables(points: pd.DataFrame) -> list[Table]:
    """BD-rate and BD-PSNR of every curve (row) against every other one (column), two tables for each test set of two
    curves or more."""
    found = []
    for i, (title, panel) in enumerate(panels(points)):
        length = panel.dropna(subset=["bpp", "psnr"]).groupby("label", sort=False).size()
        labels = list(length.index[length > 1])
        if len(labels) < 2:
            continue
        numbered = sum(map(len, labels)) > HEADER_CHARACTERS
        rows_named = [f"{k}. {label}" if numbered else label for k, label in enumerate(labels, 1)]
        columns = [f"{k}." if numbered else label for k, label in enumerate(labels, 1)]
        matrix = bd_matrix(panel[panel["label"].isin(labels)])
        cells = {(pair.label, pair.anchor): pair for pair in matrix.itertuples()}
        for name, what, cell in (
            ("bd_rate", f"BD-rate in per cent on {title}", _bd_rate_cell),
            ("bd_psnr", f"BD-PSNR in dB on {title}", _bd_psnr_cell),
        ):
            rows = [
                [name, *("" if row == column else cell(cells[row, column]) for column in labels)]
                for name, row in zip(rows_named, labels, strict=True)
            ]
            caption = f"row against column, of the mean curves, by {METHOD}; in brackets the common share of their "
            caption += "PSNR range; negative: fewer bits" if name == "bd_rate" else "rates; positive: better"
            caption += _limits(panel, labels, cuts=name == "bd_rate")
            if single := list(length.index[length == 1]):
                caption += f"; left out, with one point each: {', '.join(single)}"
            found.append(Table(f"{name}-{i + 1}", what, caption, ["against", *columns], rows))
    return found


def _limits(panel: pd.DataFrame, labels: Sequence[str], *, cuts: bool) -> str:
    """What limits the figures of some curves: few points, and (``cuts``) points that a BD-rate leaves out."""
    notes = []
    for label in labels:
        curve = panel[panel["label"] == label]
        _, cut = pareto(curve)
        few = [f"{len(curve)} points only"] * (len(curve) < FEW)
        if limits := [*few, *[f"{cut} of {len(curve)} points not used, not monotone"] * (cuts and cut > 0)]:
            notes.append(f"{label}: {', '.join(limits)}")
    return "".join(f"; {note}" for note in notes)


def _bd_rate_cell(pair: tuple) -> str:
    return pair.reason or f"{pair.bd_rate:+.1f} ({pair.overlap:.0%})"


def _bd_psnr_cell(pair: tuple) -> str:
    return pair.reason_psnr or f"{pair.bd_psnr:+.2f} ({pair.overlap_rate:.0%})"


def fixed_rate_table(points: pd.DataFrame) -> Table | None:
    """PSNR at fixed rates that any curve reaches; None where none does."""
    rows, rates = [], []
    for title, panel in panels(points):
        read = psnr_at(panel)
        for label, values in [] if read.empty else read.groupby("label", sort=False):
            own = panel.loc[(panel["label"] == label) & panel["psnr"].notna(), "bpp"]
            rates = list(values["bpp"])
            measured = f"{own.min():.2f} .. {own.max():.2f}" if len(own) else "exact"
            rows.append([title, label, measured, *(number(value, ".2f") for value in values["psnr"])])
    reached = [i for i in range(len(rates)) if any(row[3 + i] != NONE for row in rows)]
    if not reached:
        return None
    header = ["test set", "curve", "measured, bpp", *(f"{rates[i]:g} bpp" for i in reached)]
    rows = [[*row[:3], *(row[3 + i] for i in reached)] for row in rows]
    caption = f"in dB, by {METHOD} over log-rate; a curve has none outside its measured rates"
    return Table("psnr_at", "PSNR at fixed rates", caption, header, rows, texts=3, grouped=True)


def functionally_lossless_table(points: pd.DataFrame) -> Table | None:
    """The smallest rates near the best uncoded denoiser; None where no test set has one."""
    rows: list[list[str]] = []
    margins: list[float] = []
    for title, panel in panels(points):
        values = functionally_lossless(panel)
        if values.empty or (values["denoiser"] == "").all():
            continue
        for label, own in values.groupby("label", sort=False):
            margins = list(own["margin"])
            best = own.iloc[0]
            aim = f"{best['denoiser']}, {best['psnr'] + best['margin']:.2f} dB"
            cells = [p.reason or ("<= " if p.at_most else "") + f"{p.bpp:.3f}" for p in own.itertuples()]
            rows.append([title, label, aim, *cells])
    if not rows:
        return None
    caption = (
        "smallest bpp at which the PSNR is within a margin of the best uncoded denoiser's; <=: of the curve's lowest "
        "point, which is better than that"
    )
    header = ["test set", "curve", "denoiser", *(f"within {margin:g} dB" for margin in margins)]
    return Table("functionally_lossless", "Functionally lossless rate", caption, header, rows, texts=3, grouped=True)
