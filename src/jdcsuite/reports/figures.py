"""Points of curves, and the metrics of trainings -> figures for print (PNG, SVG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jdcsuite.imaging import atomic
from jdcsuite.judging.results import DEMO
from jdcsuite.reports.styles import COLOURS, METRICS, RATE, Limits, Style, limits, metrics, panels, styles

DPI = 130
LEGEND_CHARACTERS = 50  # a longer label is broken into lines
PANEL_CHARACTERS = 52
DASHES = ["-", "--", ":"]


def figure(
    curves: pd.DataFrame, paths: Sequence[Path], *, looks: Mapping[str, Style] | None = None, columns: int = 4
) -> Figure:
    """PSNR and MS-SSIM over bpp for each dataset and noise level, written to every one of ``paths``. MS-SSIM is below
    PSNR, or beside it where there is one dataset alone.

    A codec behind a denoiser has a dashed line; error bars are the standard deviation over seeds. ``curves``:
    `curves.points`. ``looks``: `styles.styles`, of more curves where the figure is one of several. ``columns``: most
    panels beside each other.
    """
    drawn, shown = panels(curves), metrics(curves)
    looks = looks or styles(curves)
    beside = len(drawn) == 1
    columns = len(shown) if beside else min(columns, len(drawn))
    rows = 1 if beside else ceil(len(drawn) / columns) * len(shown)
    fig = Figure(figsize=(max(7.0, 4.6 * columns), 3.4 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.subplots(rows, columns, squeeze=False)
    entries = {}
    for i, (title, panel) in enumerate(drawn):
        top = i // columns * len(shown)
        for j, metric in enumerate(shown):
            ax = grid[0, j] if beside else grid[top + j, i % columns]
            _panel(ax, panel, metric, looks)
            handles, labels = ax.get_legend_handles_labels()
            entries.update(zip(labels, handles, strict=True))
        images = "-".join(map(str, np.unique([panel["images"].min(), panel["images"].max()])))
        noisy = panel["psnr_noisy"].mean()
        about = f"{images} images, " + (f"noisy input {noisy:.2f} dB" if np.isfinite(noisy) else "no noise")
        grid[top, i % columns].set_title(f"{fill(title, PANEL_CHARACTERS)}\n{about}", loc="left", fontsize="medium")
    for ax in grid.flat:
        ax.set_visible(ax.has_data())
    budgets = ", ".join(sorted({budget for budget in curves["budget"] if budget}))
    title = "Rate and distortion against the clean image" + (f", budget {budgets}" if budgets else "")
    title += f"\n{DEMO}" if (curves["budget"] == "demo").any() else ""
    width = int(fig.get_figwidth() * 10)  # characters of a bold line of the title's size
    fig.suptitle("\n".join(fill(line, width) for line in title.split("\n")), fontweight="bold", fontsize="large")
    _add_legend(fig, entries)
    _save(fig, paths)
    return fig


def _panel(ax: Axes, panel: pd.DataFrame, metric: str, looks: Mapping[str, Style]) -> None:
    """Draw the curves of one dataset."""
    ax.set(xlabel=RATE, ylabel=METRICS[metric])
    ax.grid(alpha=0.25)
    points = panel[np.isfinite(panel[metric])]
    for label, curve in points.groupby("label", sort=False):
        look = looks[label]
        if curve["bpp"].isna().all():  # a denoiser without a codec
            ax.axhline(curve[metric].mean(), color=look.colour, linestyle="-.", label=f"{label} (uncoded)")
            continue
        line = "--" if look.cascade else "-"
        ax.plot(curve["bpp"], curve[metric], line, color=look.colour, marker=look.marker, markersize=5, label=label)
        if len(several := curve[curve["seeds"] > 1]):
            ax.errorbar(
                several["bpp"], several[metric], several[f"{metric}_std"], several["bpp_std"], fmt="none",
                ecolor=look.colour, elinewidth=1, capsize=2,
            )  # fmt: skip
    noisy = panel[f"{metric}_noisy"].mean()
    if len(points) and np.isfinite(noisy):
        ax.axhline(noisy, color="0.45", linestyle=":", label="noisy input")
    if (view := limits(panel, metric)) is not None:
        _apply(ax, view)


def _apply(ax: Axes, view: Limits) -> None:
    """Set the limits of the axes, and name the curves that lie outside."""
    text = "\n".join(f"{label}: {bpp:.2f} bpp →" for label, bpp in view.beyond.items())
    ax.text(0.985, 0.02, text, ha="right", va="bottom", fontsize="small", color="0.35", transform=ax.transAxes)
    room = len(view.beyond) * 0.06 * (view.high - view.low)
    ax.set(xlim=(0, view.right), ylim=(view.low - room, view.high))


def _add_legend(fig: Figure, entries: Mapping[str, object]) -> None:
    """A legend below the panels, in as many columns as fit, for which the figure grows."""
    if not entries:
        return
    labels = [fill(label, LEGEND_CHARACTERS, break_long_words=True) for label in entries]
    for columns in range(min(6, len(labels)), 0, -1):
        legend = fig.legend(
            list(entries.values()), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
        )
        extent = legend.get_window_extent(fig.canvas.get_renderer())
        if extent.width <= fig.bbox.width or columns == 1:
            break
        legend.remove()
    fig.set_figheight(fig.get_figheight() + extent.height / fig.dpi)


def training(runs: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], paths: Sequence[Path]) -> None:
    """Metrics over training steps. ``runs``: name of a run -> name of a metric -> steps, values."""
    names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))[:4]
    columns = min(2, len(names))
    rows = ceil(len(names) / columns)
    fig = Figure(figsize=(9, 3 * rows), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.subplots(rows, columns, squeeze=False)
    entries, n = {}, len(COLOURS)
    for ax, name in zip(grid.flat, names, strict=False):
        for i, (run, measured) in enumerate(runs.items()):
            if name in measured:
                (entries[run],) = ax.plot(*measured[name], color=COLOURS[i % n], linestyle=DASHES[i // n % 3])
        ax.set(xlabel="step", ylabel=name)
        ax.grid(alpha=0.25)
    for ax in grid.flat:
        ax.set_visible(ax.has_data())
    _add_legend(fig, entries)
    _save(fig, paths)


def _save(fig: Figure, paths: Sequence[Path]) -> None:
    """The same figure gives the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "jdcsuite"}):
        for path in map(Path, paths):
            dates = {"Date": None} if path.suffix == ".svg" else None
            with atomic.replacing(path) as part:
                fig.savefig(part, dpi=DPI, format=path.suffix[1:], metadata=dates)
