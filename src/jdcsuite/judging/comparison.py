"""Rows of results -> how far every curve is ahead of one of them, and whether that is statistically significant;
points of curves -> their BD matrix, PSNR at fixed rates, and functionally lossless rates.

BD-PSNR is computed image by image and has a bootstrap interval; BD-rate is that of the mean curves (Bjontegaard,
VCEG-M33, 2001, with piecewise-cubic interpolation, pchip, which does not overshoot). Images of one scene are not
independent, so whole scenes are resampled, and with fewer than five of them there is no interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from bjontegaard import bd_psnr, bd_rate
from scipy.interpolate import PchipInterpolator

from jdcsuite.baselines.standards import LOSSLESS
from jdcsuite.data.layouts import one_draw
from jdcsuite.types import UserError

METHOD = "pchip"
RESAMPLES, CONFIDENCE = 9999, 0.95
MIN_GROUPS = 5  # scenes, for an interval
MIN_OVERLAP = 0.5  # of the log-rate range that two curves of an image span together
FEW = 4  # points of a curve; with fewer, an interpolation is hardly more than a straight line, which is noted
RATES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # bpp at which `psnr_at` reads curves
MARGINS = (0.5, 1.0, 0.25)  # dB below the best uncoded denoiser that count as functionally lossless
VERDICTS = {1: "holds", -1: "fails", 0: "undecided"}  # on "this curve beats the anchor"


def compare(rows: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """One row for each dataset, noise level and curve other than ``anchor``, a label.

    ``rows``: `curves.labelled`. Columns of the result:

    - ``bd_psnr`` (dB): mean over ``pictures`` images of the BD-PSNR over the common rates, on a log-rate axis; several
      seeds are averaged first. ``apart``: images left out because their curves share less than half of the rates that
      they span. ``low``, ``high``: its 95 % interval, with ``groups`` scenes (`data.layouts.one_draw`) drawn with
      replacement; NaN with fewer than five.
    - ``verdict`` on "beats the anchor": "holds" or "fails" if the interval excludes 0 and the mean of every seed has
      its sign, else "undecided"; "few scenes" without an interval. Without any BD-PSNR, what is not shared: "no
      overlap" (of rates), "no common seed" or "no common picture".
    - ``rungs``: points of the shorter curve; two of them are a straight line.
    - ``bd_rate`` (per cent): of the mean curves over the images that all rungs of both have, without the ``exact``
      ones that one of the curves reproduces with an infinite PSNR, on their increasing parts. ``cut``: number of points
      left out by that; ``overlap``: share of their PSNR range that both curves reach; ``reason``: why there is no
      BD-rate, else "".

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
            both = panel[panel["label"].isin([anchor, label]) & panel["image"].isin(common)]
            exact = set(both.loc[np.isinf(both["psnr"]), "image"])
            averaged = _at_every_rung(reference) & _at_every_rung(other) - exact
            means = [_mean_curve(part[part["image"].isin(averaged)]) for part in (reference, other)]
            compared.append(
                {"dataset": dataset, "sigma": sigma, "label": label, "anchor": anchor}
                | _statistics(_bd_psnr_by_image(reference, other), dataset, any_common=bool(common))
                | {"rungs": min(len(_mean_curve(part)) for part in (reference, other)), "exact": len(exact)}
                | _bd_rate(*map(pareto, means))
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


def _bd_rate(anchor: tuple[pd.DataFrame, int], other: tuple[pd.DataFrame, int]) -> dict[str, float | str]:
    """Of two curves as `pareto` gives them."""
    curves, cuts = zip(anchor, other, strict=True)
    points = min(map(len, curves))
    overlap = _overlap(*(curve["psnr"] for curve in curves)) if points > 1 else 0.0
    if overlap <= 0:
        falls = any(cut and len(curve) == 1 for curve, cut in (anchor, other))
        reason = "no overlap" if points > 1 else "not monotone" if falls else "one point" if points else "no point"
        return {"bd_rate": np.nan, "overlap": 0.0, "cut": sum(cuts), "reason": reason}
    rate = bd_rate(*_columns(curves, "bpp", "psnr"), METHOD, require_matching_points=False, min_overlap=0)
    return {"bd_rate": float(rate), "overlap": overlap, "cut": sum(cuts), "reason": ""}


def bd_matrix(points: pd.DataFrame) -> pd.DataFrame:
    """BD-rate and BD-PSNR of every curve against every other one of its dataset and noise level, on the mean curves.

    ``points``: `curves.points`. Columns: ``dataset``, ``sigma``, ``anchor``, ``label``; ``bd_rate`` (per cent, on the
    increasing parts) with ``overlap``, the common share of their PSNR range; ``bd_psnr`` (dB, over the common rates on
    a log axis) with ``overlap_rate``, that of the log-rate range; ``method`` of interpolation; ``reason`` and
    ``reason_psnr``: why a number is undefined (NaN), else ""; ``note``: what limits defined numbers, as "2 points" or
    "1 point cut, not monotone".
    """
    matrix = []
    for (dataset, sigma), panel in points.groupby(["dataset", "sigma"], dropna=False, sort=False):
        curves = {
            label: (set(curve["images"]), pareto(curve), _by_rate(curve))
            for label, curve in panel.groupby("label", sort=False)
            if curve["bpp"].notna().any()
        }
        for anchor, label in itertools.product(curves, repeat=2):
            matrix.append(
                {"dataset": dataset, "sigma": sigma, "anchor": anchor, "label": label, "method": METHOD}
                | _bd_figures(*zip(curves[anchor], curves[label], strict=True))
            )
    return pd.DataFrame(matrix)


def _bd_figures(
    counts: tuple[set[int], ...], rising: tuple[tuple[pd.DataFrame, int], ...], by_rate: tuple[pd.DataFrame, ...]
) -> dict[str, float | str]:
    """The figures of two curves. ``counts``: of images behind their points; ``rising``: `pareto` of each."""
    images = sorted(set.union(*counts))
    if len(images) > 1:
        reason = f"of {images[0]} and {images[-1]} images"
        undefined = {"bd_rate": np.nan, "overlap": 0.0, "bd_psnr": np.nan, "overlap_rate": 0.0, "note": ""}
        return undefined | {"reason": reason, "reason_psnr": reason}
    rate = _bd_rate(*rising)
    count = min(map(len, by_rate))
    overlap = _overlap(*(np.log10(curve["bpp"]) for curve in by_rate)) if count > 1 else 0.0
    reason = "" if overlap >= MIN_OVERLAP else f"rates overlap by {overlap:.0%}" if overlap > 0 else "no overlap"
    if count < 2:
        reason = "one point" if count else "no point"
    psnr = np.nan
    if not reason:
        psnr = float(bd_psnr(*_columns(by_rate, "bpp", "psnr"), METHOD, require_matching_points=False, min_overlap=0))
    cut = rate.pop("cut")
    notes = [f"{count} points"] * (1 < count < FEW) + [f"{cut} point{'s' * (cut > 1)} cut, not monotone"] * (cut > 0)
    return rate | {"bd_psnr": psnr, "overlap_rate": overlap, "reason_psnr": reason, "note": "; ".join(notes)}


def psnr_at(points: pd.DataFrame, bpps: Iterable[float] = RATES) -> pd.DataFrame:
    """PSNR of every curve at fixed rates, by piecewise cubic interpolation over log-rate, never extrapolated.

    ``points``: `curves.points`. Columns: ``dataset``, ``sigma``, ``label``, ``bpp``, ``psnr``, ``reason`` why it is
    undefined (NaN), else ""."""
    values = []
    for (dataset, sigma, label), curve in _curves(points):
        known = _by_rate(curve)
        low, high = known["bpp"].min(), known["bpp"].max()
        for bpp in bpps:
            reason = "no point" if known.empty else "" if low <= bpp <= high else f"{low:.2f} to {high:.2f} bpp only"
            psnr = np.nan if reason else _interpolated(np.log(known["bpp"]), known["psnr"], np.log(bpp))
            values.append(
                {"dataset": dataset, "sigma": sigma, "label": label, "bpp": bpp, "psnr": psnr, "reason": reason}
            )
    return pd.DataFrame(values)


def functionally_lossless(points: pd.DataFrame, margins: Iterable[float] = MARGINS) -> pd.DataFrame:
    """The smallest rate at which each curve's PSNR is within a margin (dB) of the best uncoded denoiser's.

    ``points``: `curves.points`; a denoiser is uncoded in rows without a rate and before a lossless codec. Columns:
    ``dataset``, ``sigma``, ``label``, ``margin``, ``denoiser`` (its label), ``psnr`` that is to be reached, ``bpp``,
    ``at_most``: the lowest point of the curve is better already, and what lower rates have is not known; ``reason``
    why it is undefined (NaN), else ""."""
    codec = points["method"].str.rpartition(" + ")
    uncoded = points["bpp"].isna() | (codec[2].str.partition("-e")[0].isin(LOSSLESS) & ~codec[0].isin(["", "noisy"]))
    values = []
    for (dataset, sigma, label), curve in _curves(points[~uncoded]):
        same = (points["dataset"] == dataset) & (points["sigma"].eq(sigma) | (points["sigma"].isna() & np.isnan(sigma)))
        denoisers = points[uncoded & same & points["psnr"].notna()]
        best = denoisers.loc[denoisers["psnr"].idxmax()] if len(denoisers) else None
        rising, _ = pareto(curve)
        for margin in margins:
            name, aim = (best["label"], best["psnr"] - margin) if best is not None else ("", np.nan)
            bpp, reason, at_most = np.nan, "no uncoded denoiser" if best is None else "not reached", False
            if best is not None and len(rising) and rising["psnr"].iloc[-1] >= aim:
                at_most = bool(rising["psnr"].iloc[0] > aim)
                aimed = rising["psnr"].iloc[0] if at_most else aim
                bpp, reason = float(np.exp(_interpolated(rising["psnr"], np.log(rising["bpp"]), aimed))), ""
            at = {"dataset": dataset, "sigma": sigma, "label": label, "margin": margin}
            values.append(at | {"denoiser": name, "psnr": aim, "bpp": bpp, "at_most": at_most, "reason": reason})
    return pd.DataFrame(values)


def _curves(points: pd.DataFrame) -> Iterable[tuple[tuple[str, float, str], pd.DataFrame]]:
    coded = points[points["bpp"].notna()]
    return coded.groupby(["dataset", "sigma", "label"], dropna=False, sort=False)


def _interpolated(x: pd.Series, y: pd.Series, at: float) -> float:
    """Piecewise cubic, without overshoot; of one point, its value."""
    return float(PchipInterpolator(x, y)(at)) if len(x) > 1 else float(y.iloc[0])


def _at_every_rung(rows: pd.DataFrame) -> set[str]:
    """Images without a missing row: a mean over the others at some rungs only would not be comparable."""
    rungs = rows[["image", "lmbda", "quality"]].drop_duplicates()
    counts = rungs["image"].value_counts()
    return set(counts.index[counts == len(rungs[["lmbda", "quality"]].drop_duplicates())])


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
