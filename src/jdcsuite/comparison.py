"""Rows of results -> by how much every curve beats one of them, and whether that is more than chance.

BD-PSNR picture by picture, its mean and a bootstrap interval; BD-rate of the mean curves. Bjontegaard (VCEG-M33, 2001),
with piecewise-cubic interpolation (pchip), which does not overshoot.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from bjontegaard import bd_psnr, bd_rate
from rich import box
from rich.markup import escape
from rich.table import Table
from scipy.stats import bootstrap

from jdcsuite.types import UserError

METHOD = "pchip"
RESAMPLES, CONFIDENCE = 9999, 0.95
CLAIM = {1: "holds", -1: "fails", 0: "undecided"}


def compare(rows: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """One row for each dataset, noise and curve other than ``anchor``; every curve by its label.

    ``rows``: with "label", a picture each. ``bd_psnr`` (dB): over the rates
    that both curves reach on a picture, on a logarithmic axis, mean over ``pictures``; ``low``, ``high``: its 95 %
    interval, pictures drawn with replacement. Several seeds are averaged picture by picture before. ``verdict`` on
    "beats the anchor": holds or fails where the interval excludes 0 and every seed's mean has its sign, else
    undecided; where there is nothing to compare, numbers are NaN and the verdict says what is not common: "no overlap"
    (of rates), "no common seed" or "no common picture". ``bd_rate`` (per cent): of the mean
    curves over the pictures that both have, on their increasing parts only; ``cut``: how many points that leaves out;
    ``overlap``: share of the curves' PSNR range that both reach.

    UserError: no curve has the anchor's name, or no curve stands beside it.
    """
    known = sorted(rows["label"].unique())
    if anchor not in known:
        raise UserError(f"there is no curve {anchor} to compare with: choose one of {', '.join(known)}")
    if len(known) < 2:
        raise UserError(f"{anchor} is the only curve: give the results of another one too")
    compared = []
    for (dataset, sigma), panel in rows.groupby(["dataset", "sigma"], dropna=False, sort=False):
        ours = panel[panel["label"] == anchor]
        for label in panel["label"].unique():
            if label == anchor or ours.empty:
                continue
            theirs = panel[panel["label"] == label]
            differences = _by_picture(ours, theirs)
            common = set(ours["image"]) & set(theirs["image"])
            curves = (_mean(part[part["image"].isin(common)]) for part in (ours, theirs))
            compared.append(
                {"dataset": dataset, "sigma": sigma, "label": label, "anchor": anchor}
                | _interval(differences, nothing="no common seed" if common else "no common picture")
                | _bd_rate(*curves)
            )
    return pd.DataFrame(compared)


def _by_picture(anchor: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """BD-PSNR in dB, [picture, seed]; a curve without a seed, as of a standard codec, stands beside every seed."""
    made = {}
    for seed in sorted({*anchor["seed"].dropna(), *other["seed"].dropna()}) or [np.nan]:
        pair = [part[part["seed"].isna() | (part["seed"] == seed)] for part in (anchor, other)]
        here, there = (dict(iter(part.groupby("image"))) for part in pair)
        found = {image: _bd_psnr(here[image], there[image]) for image in here if image in there}
        if found:
            made[seed] = found
    return pd.DataFrame(made, dtype=float)


def _bd_psnr(anchor: pd.DataFrame, other: pd.DataFrame) -> float:
    curves = [_sorted(anchor), _sorted(other)]
    if min(len(curve) for curve in curves) < 2 or _overlap(*(np.log10(curve["bpp"]) for curve in curves)) <= 0:
        return np.nan
    return float(bd_psnr(*_columns(curves, "bpp", "psnr"), METHOD, require_matching_points=False, min_overlap=0))


def _bd_rate(anchor: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    curves, cuts = zip(*map(pareto, (anchor, other)), strict=True)
    cut = sum(cuts)
    usable = min(len(curve) for curve in curves) > 1
    overlap = _overlap(*(curve["psnr"] for curve in curves)) if usable else 0.0
    if overlap <= 0:
        return {"bd_rate": np.nan, "overlap": 0.0, "cut": cut}
    rate = bd_rate(*_columns(curves, "bpp", "psnr"), METHOD, require_matching_points=False, min_overlap=0)
    return {"bd_rate": float(rate), "overlap": overlap, "cut": cut}


def _mean(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of a curve: means over its rows of each rung."""
    return rows.groupby(["lmbda", "quality"], dropna=False)[["bpp", "psnr"]].mean()


def pareto(curve: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The part of a curve where each point beats all cheaper ones in PSNR, and how many points that cuts."""
    finite = curve[np.isfinite(curve["bpp"]) & np.isfinite(curve["psnr"])]
    points = finite.sort_values(["bpp", "psnr"], ascending=[True, False])
    best = points["psnr"].cummax().shift(fill_value=-np.inf)
    kept = points[points["psnr"] > best]
    return kept.reset_index(drop=True), len(curve) - len(kept)


def _sorted(curve: pd.DataFrame) -> pd.DataFrame:
    """Its points of finite bpp and PSNR by rising rate; of points of one rate, the best."""
    finite = curve[np.isfinite(curve["bpp"]) & np.isfinite(curve["psnr"])]
    return finite.sort_values(["bpp", "psnr"]).drop_duplicates("bpp", keep="last")


def _columns(curves: Iterable[pd.DataFrame], *names: str) -> list[np.ndarray]:
    return [curve[name].to_numpy() for curve in curves for name in names]


def _overlap(a: pd.Series, b: pd.Series) -> float:
    """Share of the range of both that both cover; 0 or less: none."""
    common, whole = min(a.max(), b.max()) - max(a.min(), b.min()), max(a.max(), b.max()) - min(a.min(), b.min())
    return float(common / whole) if whole else 0.0


def _interval(differences: pd.DataFrame, *, nothing: str) -> dict[str, float | int | str]:
    """``nothing``: the verdict on no differences at all."""
    pictures = differences.mean(axis=1).dropna().to_numpy()
    low = high = np.nan
    if len(pictures) > 1:
        found = bootstrap(
            (pictures,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=0
        )
        low, high = map(float, found.confidence_interval)
    if not differences.columns.empty:
        nothing = "no overlap"
    sign = 1 if low > 0 else -1 if high < 0 else 0
    agreed = (np.sign(differences.mean()) == sign).all()
    return {
        "bd_psnr": float(pictures.mean()) if len(pictures) else np.nan,
        "low": low,
        "high": high,
        "pictures": len(pictures),
        "seeds": int(differences.notna().any().sum()),
        "verdict": CLAIM[sign if agreed else 0] if len(pictures) else nothing,
    }


def table(compared: pd.DataFrame) -> Table:
    """For a terminal of 80 columns, a section for each dataset and noise."""
    anchor = compared["anchor"].iloc[0]
    out = Table(
        title=f"Against {escape(anchor)} at equal rate",
        caption=f"BD-PSNR in dB, mean over pictures and its {CONFIDENCE:.0%} bootstrap interval; BD-rate of the mean "
        f"curves ({METHOD}; in brackets the share of their PSNR range that both reach); n: pictures x seeds",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    out.add_column("method", overflow="fold")
    for name in ("BD-PSNR", "interval", "BD-rate", "n"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("beats it?", no_wrap=True)
    for (dataset, sigma), panel in compared.groupby(["dataset", "sigma"], dropna=False, sort=False):
        out.add_section()
        out.add_row(f"[bold]{escape(dataset)}[/]" + ("" if np.isnan(sigma) else f", sigma {sigma:g}"))
        for row in panel.itertuples():
            alone = row.seeds == 1 and row.verdict in (CLAIM[1], CLAIM[-1])
            out.add_row(
                escape(row.label),
                _text(row.bd_psnr, "+.2f"),
                f"{row.low:+.2f} .. {row.high:+.2f}" if row.pictures > 1 else "-",
                f"{row.bd_rate:+.0f} % ({row.overlap:.0%})" if row.overlap else "-",
                f"{row.pictures} x {row.seeds}",
                f"{row.verdict}, 1 seed" if alone else row.verdict,
            )
    return out


def _text(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"
