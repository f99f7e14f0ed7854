"""Points of curves, comparisons and entropy errors -> tables for a terminal of 80 columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from jdcsuite.judging.comparison import CONFIDENCE, METHOD, VERDICTS
from jdcsuite.judging.curves import noise_label, rung_label
from jdcsuite.judging.results import DEMO

ESTIMATES = {"h_hat": "network", "h_mean": "mean", "h_linear": "linear fit", "h_analytic": "analytic"}


def curves_table(points: pd.DataFrame) -> Table:
    """`curves.points` by dataset and noise level."""
    table = Table(
        title=DEMO if (points["budget"] == "demo").any() else None,
        caption="bpp: whole file; est.: the model's own estimate; gain: dB over the noisy input; n: images"
        + exact_note(points),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for name in ("rung", "bpp", "est.", "PSNR", "gain", "MS-SSIM", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for (dataset, sigma), panel in points.groupby(["dataset", "sigma"], dropna=False, sort=False):
        table.add_section()
        noiseless = (panel["exact_noisy"] >= panel["images"]).all()
        noisy = "no noise" if noiseless else _number(panel["psnr_noisy"].mean(), ".2f")
        table.add_row(f"[bold]{escape(dataset)}[/], {noise_label(sigma)}", *[""] * 3, f"[bold]{noisy}[/]", "noisy")
        previous = None
        for point in panel.itertuples():
            table.add_row(
                "" if point.label == previous else escape(point.label),
                rung_label(point.lmbda, point.quality, point.method),
                _number(point.bpp, ".3f"),
                _number(point.bpp_est, ".3f"),
                "exact" if np.isnan(point.psnr) and point.exact else _number(point.psnr, ".2f"),
                _number(point.psnr - point.psnr_noisy, "+.2f"),
                _number(point.ms_ssim, ".4f"),
                str(point.images),
            )
            previous = point.label
    return table


def exact_note(points: pd.DataFrame) -> str:
    """How many images are left out of means because of an infinite PSNR."""
    lossy = points[points["psnr"].notna()]
    parts = {"that a codec reproduces exactly, left out of all means": lossy["exact"].max()}
    parts["without noise, left out of the noisy input's mean"] = points["exact_noisy"].max()
    return "".join(f"; {count:g} image{'s' * (count > 1)} {what}" for what, count in parts.items() if count > 0)


def comparison_table(compared: pd.DataFrame) -> Table:
    """`comparison.compare` by dataset and noise level."""
    anchor, decided = compared["anchor"].iloc[0], int(compared["verdict"].isin(VERDICTS.values()).sum())
    table = Table(
        title=f"Against {escape(anchor)} at equal rate",
        caption=f"BD-PSNR in dB, mean over images, with a {CONFIDENCE:.0%} bootstrap interval over scenes; BD-rate of "
        f"the mean curves ({METHOD}; in brackets: common share of their PSNR range); n: images/scenes "
        f"x seeds - images without common rates; {decided} verdicts, not corrected for multiple comparisons"
        + ("; *: two rungs, a straight line" if (compared["rungs"] == 2).any() else ""),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("method", overflow="fold")
    for name in ("BD-PSNR", "interval", "BD-rate", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("beats it?", no_wrap=True)
    for (dataset, sigma), panel in compared.groupby(["dataset", "sigma"], dropna=False, sort=False):
        table.add_section()
        table.add_row(f"[bold]{escape(dataset)}[/]" + ("" if np.isnan(sigma) else f", {noise_label(sigma)}"))
        for row in panel.itertuples():
            one_seed = row.seeds == 1 and row.verdict in (VERDICTS[1], VERDICTS[-1])
            table.add_row(
                escape(row.label),
                _number(row.bd_psnr, "+.2f") + ("*" if row.rungs == 2 else ""),
                f"{row.low:+.2f} .. {row.high:+.2f}" if np.isfinite(row.low) else "-",
                f"{row.bd_rate:+.0f} % ({row.overlap:.0%})" if row.overlap else row.reason,
                f"{row.pictures}/{row.groups}x{row.seeds}" + (f"-{row.apart}" if row.apart else ""),
                f"{row.verdict}, 1 seed" if one_seed else row.verdict,
            )
    return table


def entropy_table(errors: pd.DataFrame) -> Table:
    """`curves.entropy_errors`, a row for each method, dataset and noise level."""
    estimates = [name for name in ESTIMATES if name in errors]
    table = Table(title="Entropy of the clean image: RMSE of estimates in bpp", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "dataset", *(ESTIMATES[name] for name in estimates), "images"):
        table.add_column(name, justify="left" if name in ("method", "dataset") else "right")
    for row in errors.to_dict("records"):
        dataset = escape(f"{row['dataset']}, {noise_label(row['sigma'])}")
        numbers = [_number(row[name], ".3f") for name in estimates]
        table.add_row(escape(row["method"]), dataset, *numbers, str(row["images"]))
    return table


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"
