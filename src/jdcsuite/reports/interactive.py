"""Points of curves, and the metrics of trainings -> interactive charts (plotly), as HTML that needs plotly's script.

Hovering over a point shows its values, a click on a name in the legend switches its curve off, and buttons change axes;
none of it needs a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from jdcsuite.judging.curves import rung_label
from jdcsuite.reports.styles import COLOURS, MARKERS, METRICS, RATE, Limits, Style, limits, metrics

GREY = "#666666"
HEIGHT, LEGEND_LINE = 480, 20  # pixels: of the axes with titles and buttons, and of a line of the legend
WIDE, CHARACTER, SYMBOL = 1100, 7, 45  # pixels: of a wide window, a character of the legend, and what is before a name
LEGEND_LINES = 16  # a longer legend scrolls
DASHES = ["solid", "dash", "dot", "dashdot"]
script = get_plotlyjs  # () -> the JavaScript that the charts need, 4.8 MB


def rate_distortion(panel: pd.DataFrame, looks: Mapping[str, Style], *, name: str) -> str:
    """The chart of one dataset and noise level. ``panel``: of `styles.panels`; ``name``: its id in the page, and the
    name of the file that a reader saves."""
    shown = metrics(panel)
    views = {metric: view for metric in shown if (view := limits(panel, metric)) is not None}
    if not views:
        return ""
    lowest = 0.8 * panel.loc[panel["bpp"] > 0, "bpp"].min()
    right = max(view.right for view in views.values())
    traces, values, spreads = [], [], []  # of a trace: its y, and the lengths of its error bars, for each metric
    for label, curve in panel.groupby("label", sort=False):
        coded = curve.dropna(subset=["bpp"])
        if coded.empty:
            traces.append(_level(f"{label} (uncoded)", [lowest, right], looks[label].colour, "dashdot"))
            values.append([[curve[metric].mean()] * 2 for metric in views])
            spreads.append([[0, 0] for _ in views])
            continue
        traces.append(_curve(label, coded, looks[label]))
        values.append([_plain(coded[metric]) for metric in views])
        spreads.append([_plain(coded[f"{metric}_std"].fillna(0)) for metric in views])
    noisy = [panel[f"{metric}_noisy"].mean() for metric in views]
    if np.isfinite(noisy[0]):
        traces.append(_level("noisy input", [lowest, right], GREY, "dot"))
        values.append([[level] * 2 if np.isfinite(level) else [None] * 2 for level in noisy])
        spreads.append([[0, 0] for _ in views])
    for trace, y, spread in zip(traces, values, spreads, strict=True):
        trace.y = y[0]
        trace.error_y.update(array=spread[0], visible=any(any(lengths) for lengths in spread))
    fig = go.Figure(traces)
    _axes(fig, {"x": RATE, "y": METRICS[next(iter(views))]})
    first = next(iter(views.values()))
    fig.update_layout(xaxis_range=[0, first.right], yaxis_range=[first.low, first.high])
    by_metric = [
        {
            "label": METRICS[metric].split()[0],
            "method": "update",
            "args": [
                {"y": [y[i] for y in values], "error_y.array": [spread[i] for spread in spreads]},
                {"yaxis.title.text": METRICS[metric], "yaxis.range": [view.low, view.high]},
            ],
        }
        for i, (metric, view) in enumerate(views.items())
    ]
    _buttons(fig, [by_metric, _rate_axes(first, lowest)])
    return _html(fig, name)


def _curve(label: str, coded: pd.DataFrame, look: Style) -> go.Scatter:
    """A trace without its y."""
    about = [
        f"{escape(rung_label(point.lmbda, point.quality, point.method))}<br>{point.bpp:.3f} bpp<br>"
        + (f"PSNR {point.psnr:.2f} dB" if np.isfinite(point.psnr) else "exact")
        + (f" ± {point.psnr_std:.2f}" if point.seeds > 1 else "")
        + (f"<br>MS-SSIM {point.ms_ssim:.4f}" if np.isfinite(point.ms_ssim) else "")
        + f"<br>{point.images} images"
        + (f", {point.seeds} seeds" if point.seeds > 1 else "")
        for point in coded.itertuples()
    ]
    several = bool((coded["seeds"] > 1).any())
    bars = {"thickness": 1, "width": 3, "color": look.colour}
    return go.Scatter(
        x=_plain(coded["bpp"]),
        name=escape(label),
        mode="lines+markers",
        line={"color": look.colour, "dash": "dash" if look.cascade else "solid", "width": 2},
        marker={"symbol": MARKERS[look.marker], "size": 8},
        error_x={"array": _plain(coded["bpp_std"].fillna(0)), "visible": several, **bars},
        error_y=bars,
        hovertext=about,
        hovertemplate="<b>%{fullData.name}</b><br>%{hovertext}<extra></extra>",
    )


def _level(name: str, x: list[float], colour: str, dash: str) -> go.Scatter:
    """A horizontal line, without its y."""
    return go.Scatter(
        x=x, name=escape(name), mode="lines", line={"color": colour, "dash": dash, "width": 2},
        hovertemplate="<b>%{fullData.name}</b><br>%{y:.4~f}<extra></extra>",
    )  # fmt: skip


def _rate_axes(view: Limits, lowest: float) -> list[dict]:
    linear = {"xaxis.type": "linear", "xaxis.range": [0, view.right], "xaxis.tickmode": "auto"}
    logarithmic = {
        "xaxis.type": "log", "xaxis.range": [log10(lowest), log10(view.right)], "xaxis.tickmode": "array",
        "xaxis.tickvals": [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)],
    }  # fmt: skip
    return [
        {"label": label, "method": "relayout", "args": [axis]}
        for label, axis in (("linear rate", linear), ("log rate", logarithmic))
    ]


def training(runs: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, name: str) -> str:
    """Metrics over training steps, one at a time, chosen in a menu. ``runs``: name of a run -> name of a metric ->
    steps, values."""
    measured = list(dict.fromkeys(metric for metrics in runs.values() for metric in metrics))
    fig = go.Figure(
        [
            go.Scatter(
                x=metrics.get(measured[0], ([], []))[0],
                y=metrics.get(measured[0], ([], []))[1],
                name=escape(run),
                mode="lines",
                line={"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)], "width": 2},
                hovertemplate="<b>%{fullData.name}</b><br>step %{x}: %{y:.4~g}<extra></extra>",
            )
            for i, (run, metrics) in enumerate(runs.items())
        ]
    )
    _axes(fig, {"x": "step", "y": escape(measured[0])})
    choices = [
        {
            "label": escape(metric),
            "method": "update",
            "args": [
                {axis: [metrics.get(metric, ([], []))[j] for metrics in runs.values()] for j, axis in enumerate("xy")},
                {"yaxis.title.text": escape(metric), "xaxis.autorange": True, "yaxis.autorange": True},
            ],
        }
        for metric in measured
    ]
    fig.update_layout(updatemenus=[_menu(choices, x=0, type="dropdown")])
    return _html(fig, name)


def _axes(fig: go.Figure, titles: Mapping[str, str]) -> None:
    longest = max(len(trace.name) for trace in fig.data)
    legend_columns = max(1, WIDE // (SYMBOL + CHARACTER * longest))
    legend = LEGEND_LINE * min(LEGEND_LINES, max(5, -(-len(fig.data) // legend_columns)))
    axis = {"gridcolor": "#dddddd", "linecolor": "#444444", "zeroline": False, "ticks": "outside", "automargin": True}
    fig.update_layout(
        template="none",
        xaxis={**axis, "title": {"text": titles["x"], "standoff": 8}},
        yaxis={**axis, "title": {"text": titles["y"], "standoff": 8}},
        height=HEIGHT + legend,
        margin={"l": 50, "r": 10, "t": 72, "b": 10},
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "maxheight": legend,
        },
        hoverlabel={"align": "left", "namelength": -1},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=True,
    )  # fmt: skip


def _buttons(fig: go.Figure, groups: Sequence[list[dict]]) -> None:
    """Rows of buttons above the axes; a group of one choice is left out."""
    menus = [(group, x, anchor) for group, x, anchor in zip(groups, (0, 1), ("left", "right"), strict=True)]
    fig.update_layout(
        updatemenus=[
            _menu(group, x=x, type="buttons", direction="right", xanchor=anchor)
            for group, x, anchor in menus
            if len(group) > 1
        ]
    )


def _menu(buttons: list[dict], **placed: object) -> dict:
    return {"buttons": buttons, "y": 1.02, "yanchor": "bottom", "xanchor": "left", "pad": {"t": 0, "b": 4}, **placed}


def _plain(values: pd.Series) -> list[float | None]:
    """Rounded numbers, None for those that are not finite, which take less of a page than plotly's own arrays."""
    return [round(float(value), 6) if np.isfinite(value) else None for value in values]


def _html(fig: go.Figure, name: str) -> str:
    config = {
        "displaylogo": False,
        "responsive": True,
        "plotlyServerURL": "",  # or a button would send the chart to plotly's site
        "toImageButtonOptions": {"format": "svg", "filename": name},
        "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
    }
    return fig.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
