"""Rows of results -> by how much every curve beats one of them, and whether that is more than chance.

BD-PSNR picture by picture, its mean and a bootstrap interval; BD-rate of the mean curves. Bjontegaard (VCEG-M33, 2001),
with piecewise-cubic interpolation (pchip), which does not overshoot. Pictures of one scene are no independent draws, so
whole scenes are resampled, and under five of them there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from bjontegaard import bd_psnr, bd_rate
from rich import box
from rich.markup import escape
from rich.table import Table

from jdcsuite.data.pairs import one_draw
from jdcsuite.types import UserError

METHOD = "pchip"
RESAMPLES, CONFIDENCE = 9999, 0.95
FEWEST = 5  # groups of pictures that allow an interval
SHARED = 0.5  # of the range of log rate that two curves of a picture span together: less is no common range
CLAIM = {1: "holds", -1: "fails", 0: "undecided"}


def compare(rows: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """One row for each dataset, noise and curve other than ``anchor``; every curve by its label.

    ``rows``: with "label", a picture each. ``bd_psnr`` (dB): over the rates that both curves reach on a picture, on a
    logarithmic axis, mean over ``pictures``; ``apart``: pictures left out because their curves share less than half of
    the rates that they span. ``low``, ``high``: its 95 % interval, ``groups`` (`data.pairs.one_draw`) drawn with
    replacement; NaN under five groups. Several seeds are averaged picture by picture before. ``verdict`` on "beats the
    anchor": holds or fails where the interval excludes 0 and every seed's mean has its sign, else undecided, "too few
    groups" without an interval; where there is nothing to compare, numbers are NaN and the verdict says what is not
    common: "no overlap" (of rates), "no common seed" or "no common picture". ``rungs``: points of the shorter curve;
    one of two is a chord. ``bd_rate`` (per cent): of the mean
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
            curves = [_mean(part[part["image"].isin(common)]) for part in (ours, theirs)]
            compared.append(
                {"dataset": dataset, "sigma": sigma, "label": label, "anchor": anchor}
                | _interval(differences, dataset, nothing="no common seed" if common else "no common picture")
                | {"rungs": min(map(len, curves))}
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
    if min(len(curve) for curve in curves) < 2 or _overlap(*(np.log10(curve["bpp"]) for curve in curves)) < SHARED:
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


def _interval(differences: pd.DataFrame, dataset: str, *, nothing: str) -> dict[str, float | int | str]:
    """``nothing``: the verdict on no differences at all."""
    mean = differences.mean(axis=1)
    pictures = mean.dropna()
    of_groups = pictures.groupby([one_draw(dataset, str(image)) for image in pictures.index]).agg(["sum", "count"])
    low = high = np.nan
    if len(of_groups) >= FEWEST:
        drawn = np.random.default_rng(0).integers(len(of_groups), size=(RESAMPLES, len(of_groups)))
        sums, counts = (of_groups[name].to_numpy()[drawn].sum(1) for name in ("sum", "count"))
        low, high = map(float, np.quantile(sums / counts, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    if not differences.columns.empty:
        nothing = "no overlap"
    sign = 1 if low > 0 else -1 if high < 0 else 0
    agreed = (np.sign(differences.mean()) == sign).all()
    said = CLAIM[sign if agreed else 0] if len(of_groups) >= FEWEST else "few scenes"
    return {
        "bd_psnr": float(pictures.mean()) if len(pictures) else np.nan,
        "low": low,
        "high": high,
        "pictures": len(pictures),
        "groups": len(of_groups),
        "apart": int(mean.isna().sum()),
        "seeds": int(differences.notna().any().sum()),
        "verdict": said if len(pictures) else nothing,
    }


def table(compared: pd.DataFrame) -> Table:
    """For a terminal of 80 columns, a section for each dataset and noise."""
    anchor, decided = compared["anchor"].iloc[0], int(compared["verdict"].isin(CLAIM.values()).sum())
    out = Table(
        title=f"Against {escape(anchor)} at equal rate",
        caption=f"BD-PSNR in dB, mean over pictures and its {CONFIDENCE:.0%} bootstrap interval, scenes resampled; "
        f"BD-rate of the mean curves ({METHOD}; in brackets the share of their PSNR range that both reach); n: "
        f"pictures/scenes x seeds, less pictures without common rates; {decided} verdicts, uncorrected for their number"
        + ("; * of two rungs: a chord" if (compared["rungs"] == 2).any() else ""),
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
                _text(row.bd_psnr, "+.2f") + ("*" if row.rungs == 2 else ""),
                f"{row.low:+.2f} .. {row.high:+.2f}" if np.isfinite(row.low) else "-",
                f"{row.bd_rate:+.0f} % ({row.overlap:.0%})" if row.overlap else "-",
                f"{row.pictures}/{row.groups}x{row.seeds}" + (f"-{row.apart}" if row.apart else ""),
                f"{row.verdict}, 1 seed" if alone else row.verdict,
            )
    return out


def _text(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"
