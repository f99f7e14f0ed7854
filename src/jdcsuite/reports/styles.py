"""Points of curves -> the colour, marker and line of each curve and the limits of its plots, for every kind of figure.

The palette is that of Okabe and Ito (2008), which people with colour vision deficiency can tell apart, without its
yellow, which is hard to see on white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from jdcsuite.judging.curves import noise_label

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = {  # matplotlib's -> plotly's; the number of markers and that of colours have no common factor
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "<": "triangle-left", ">": "triangle-right",
}  # fmt: skip
METRICS = {"psnr": "PSNR in dB", "ms_ssim": "MS-SSIM"}
RATE = "rate in bpp (whole file)"


class Style(NamedTuple):
    """``cascade``: a denoiser comes before the codec, which is drawn as a dashed line."""

    colour: str
    marker: str
    cascade: bool


class Limits(NamedTuple):
    """Axis limits of one plot. ``beyond``: label -> lowest rate, of curves to the right of it."""

    right: float
    low: float
    high: float
    beyond: dict[str, float]


def styles(points: pd.DataFrame) -> dict[str, Style]:
    """The style of each label of ``points`` (`curves.points`); learned codecs come first. 70 labels differ."""
    learned_first = points.sort_values("lmbda", na_position="last", kind="stable").drop_duplicates("label")
    markers = list(MARKERS)
    return {
        label: Style(COLOURS[i % len(COLOURS)], markers[i % len(markers)], is_cascade(method))
        for i, (label, method) in enumerate(zip(learned_first["label"], learned_first["method"], strict=True))
    }


def is_cascade(method: str) -> bool:
    """Whether a denoiser comes before the codec: its method is called "denoiser + codec"."""
    before, plus, _ = method.partition(" + ")
    return bool(plus) and before != "noisy"


def panels(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The points of each dataset and noise level, with a title."""
    grouped = points.groupby(["dataset", "sigma"], dropna=False, sort=False)
    return [
        (", ".join([str(dataset), noise_label(sigma), *(p for p in panel["noise_protocol"].unique() if p)]), panel)
        for (dataset, sigma), panel in grouped
    ]


def metrics(points: pd.DataFrame) -> list[str]:
    """The metrics that any of the points has."""
    return [metric for metric in METRICS if np.isfinite(points[metric]).any()]


def limits(panel: pd.DataFrame, metric: str) -> Limits | None:
    """The limits for the curves of one dataset, set by the learned curves and not by lossless codecs; None without any
    coded point. Single points (lossless codecs) do not extend the axis; every line shows at least its point of lowest
    rate."""
    points = panel[np.isfinite(panel[metric])]
    coded = points.dropna(subset=["bpp"])
    if coded.empty:
        return None
    noisy = panel[f"{metric}_noisy"].mean()
    lines = coded[coded.groupby("label")["bpp"].transform("size") > 1]
    learned = coded.loc[coded["lmbda"].notna(), "bpp"].max()
    of_lines = 1.25 * learned if learned > 0 else 1.05 * lines["bpp"].max()
    right = np.nanmax([of_lines, 1.2 * lines.groupby("label")["bpp"].min().max(), 0.0]) or 1.1 * coded["bpp"].max()
    beyond = coded.groupby("label", sort=False)["bpp"].min().loc[lambda bpp: bpp > right]
    visible = [*points.loc[points["bpp"].fillna(0) <= right, metric], *([noisy] if np.isfinite(noisy) else [])]
    margin = 0.07 * np.ptp(visible) or 0.01 * abs(visible[0])
    return Limits(float(right), min(visible) - margin, max(visible) + margin, beyond.to_dict())
