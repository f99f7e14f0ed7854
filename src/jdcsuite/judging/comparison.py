"""Rows of results -> how far every curve is ahead of one of them, and whether that is statistically significant.

BD-PSNR is computed image by image and has a bootstrap interval; BD-rate is that of the mean curves (Bjontegaard,
VCEG-M33, 2001, with piecewise-cubic interpolation, pchip, which does not overshoot). Images of one scene are not
independent, so whole scenes are resampled, and with fewer than five of them there is no interval.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from bjontegaard import bd_psnr, bd_rate

from jdcsuite.data.layouts import one_draw
from jdcsuite.types import UserError

METHOD = "pchip"
RESAMPLES, CONFIDENCE = 9999, 0.95
MIN_GROUPS = 5  # scenes, for an interval
MIN_OVERLAP = 0.5  # of the log-rate range that two curves of an image span together
VERDICTS = {1: "holds", -1: "fails", 0: "undecided"}  # on "this curve beats the anchor"


def compare(rows: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """One row for each dataset, noise level and curve other than ``anchor``, a label.

    ``rows``: `results.labelled`. Columns of the result:

    - ``bd_psnr`` (dB): mean over ``pictures`` images of the BD-PSNR over the common rates, on a log-rate axis; several
      seeds are averaged first. ``apart``: images left out because their curves share less than half of the rates that
      they span. ``low``, ``high``: its 95 % interval, with ``groups`` scenes (`data.layouts.one_draw`) drawn with
      replacement; NaN with fewer than five.
    - ``verdict`` on "beats the anchor": "holds" or "fails" if the interval excludes 0 and the mean of every seed has
      its sign, else "undecided"; "few scenes" without an interval. Without any BD-PSNR, what is not shared: "no
      overlap" (of rates), "no common seed" or "no common picture".
    - ``rungs``: points of the shorter curve; two of them are a straight line.
    - ``bd_rate`` (per cent): of the mean curves over the common images, on their increasing parts. ``cut``: number of
      points left out by that; ``overlap``: share of their PSNR range that both curves reach.

    UserError: no curve has the anchor's label, or there is no other curve.
    """
    labels = sorted(rows["label"].unique())
    if anchor not in labels:
        raise UserError(f"there is no curve {anchor} to compare with: choose one of {', '.join(labels)}")
    if len(labels) < 2:
        raise UserError(f"{anchor} is the only curve: give the results of another one too")
    compared = []
    for (dataset, sigma), panel in rows.groupby(["dataset", "sigma"], dropna=False, sort=False):
        reference = panel[panel["label"] == anchor]
        for label in panel["label"].unique():
            if label == anchor or reference.empty:
                continue
            other = panel[panel["label"] == label]
            common = set(reference["image"]) & set(other["image"])
            means = [_mean_curve(part[part["image"].isin(common)]) for part in (reference, other)]
            compared.append(
                {"dataset": dataset, "sigma": sigma, "label": label, "anchor": anchor}
                | _statistics(_bd_psnr_by_image(reference, other), dataset, any_common=bool(common))
                | {"rungs": min(map(len, means))}
                | _bd_rate(*means)
            )
    return pd.DataFrame(compared)


def _bd_psnr_by_image(anchor: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """BD-PSNR in dB, [image, seed]; a curve without seeds (a standard codec) is compared with every seed."""
    by_seed = {}
    for seed in sorted({*anchor["seed"].dropna(), *other["seed"].dropna()}) or [np.nan]:
        same_seed = [part[part["seed"].isna() | (part["seed"] == seed)] for part in (anchor, other)]
        first, second = (dict(iter(part.groupby("image"))) for part in same_seed)
        if common := [image for image in first if image in second]:
            by_seed[seed] = {image: _bd_psnr(first[image], second[image]) for image in common}
    return pd.DataFrame(by_seed, dtype=float)


def _bd_psnr(anchor: pd.DataFrame, other: pd.DataFrame) -> float:
    curves = [_by_rate(anchor), _by_rate(other)]
    if min(len(curve) for curve in curves) < 2 or _overlap(*(np.log10(curve["bpp"]) for curve in curves)) < MIN_OVERLAP:
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


def _mean_curve(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.groupby(["lmbda", "quality"], dropna=False)[["bpp", "psnr"]].mean()


def pareto(curve: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The points that have a higher PSNR than all points of lower rate, and how many others there are."""
    points = _finite(curve).sort_values(["bpp", "psnr"], ascending=[True, False])
    best = points["psnr"].cummax().shift(fill_value=-np.inf)
    kept = points[points["psnr"] > best]
    return kept.reset_index(drop=True), len(curve) - len(kept)


def _by_rate(curve: pd.DataFrame) -> pd.DataFrame:
    """The points by increasing rate; of points of equal rate, the best."""
    return _finite(curve).sort_values(["bpp", "psnr"]).drop_duplicates("bpp", keep="last")


def _finite(curve: pd.DataFrame) -> pd.DataFrame:
    return curve[np.isfinite(curve["bpp"]) & np.isfinite(curve["psnr"])]


def _columns(curves: Iterable[pd.DataFrame], *names: str) -> list[np.ndarray]:
    return [curve[name].to_numpy() for curve in curves for name in names]


def _overlap(a: pd.Series, b: pd.Series) -> float:
    """Length of the common range over the length of the joint range; 0 or less: nothing in common."""
    common, joint = min(a.max(), b.max()) - max(a.min(), b.min()), max(a.max(), b.max()) - min(a.min(), b.min())
    return float(common / joint) if joint else 0.0


def _statistics(differences: pd.DataFrame, dataset: str, *, any_common: bool) -> dict[str, float | int | str]:
    """``differences``: BD-PSNR in dB, [image, seed]. ``any_common``: whether the two curves share any image."""
    by_image = differences.mean(axis=1)
    measured = by_image.dropna()
    groups = measured.groupby([one_draw(dataset, str(image)) for image in measured.index]).agg(["sum", "count"])
    low = high = np.nan
    if len(groups) >= MIN_GROUPS:
        drawn = np.random.default_rng(0).integers(len(groups), size=(RESAMPLES, len(groups)))
        sums, counts = (groups[name].to_numpy()[drawn].sum(1) for name in ("sum", "count"))
        low, high = map(float, np.quantile(sums / counts, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    sign = 1 if low > 0 else -1 if high < 0 else 0
    seeds_agree = (np.sign(differences.mean()) == sign).all()
    if len(groups) >= MIN_GROUPS:
        verdict = VERDICTS[sign if seeds_agree else 0]
    elif len(measured):
        verdict = "few scenes"
    elif len(differences.columns):
        verdict = "no overlap"
    else:
        verdict = "no common seed" if any_common else "no common picture"
    return {
        "bd_psnr": float(measured.mean()) if len(measured) else np.nan,
        "low": low,
        "high": high,
        "pictures": len(measured),
        "groups": len(groups),
        "apart": int(by_image.isna().sum()),
        "seeds": int(differences.notna().any().sum()),
        "verdict": verdict,
    }
