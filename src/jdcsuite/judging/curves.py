"""Rows of results -> the points of their rate-distortion curves, and the names of curves and points.

This is the only module that averages rows over images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jdcsuite.baselines.standards import LOSSLESS
from jdcsuite.types import UserError

POINT = ["curve", "method", "dataset", "sigma", "lmbda", "quality", "budget", "noise_protocol", "train_set"]
POINT += ["sigma_train", "min_ms_ssim", "target", "rate_scale"]
MEANS = [
    "bpp", "bpp_est", "bpp_payload", "bpp_y", "bpp_z", "bpp_index", "bpp_header", "psnr", "ms_ssim", "psnr_noisy",
    "ms_ssim_noisy",
]  # fmt: skip
SPREAD = ["bpp", "psnr", "ms_ssim"]  # means with a standard deviation over seeds
# Options in which the curves of a label may differ, and how the label says so
DETAILS = {"sigma_train": "trained at sigma {:g}", "min_ms_ssim": "MS-SSIM > {:g}", "rate_scale": "rate scale {:g}"}
# Quality scales of standard codecs that are no quality of 0 to 100
SCALES = {"jpegxl": "distance {}", "jpeg2000": "{} dB", "bpg": "QP {}", "vtm": "QP {}"}
ENTROPY_ESTIMATES = ["h_hat", "h_mean", "h_linear", "h_analytic"]


def points(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of all curves: means over images and seeds for each ``POINT``, each curve sorted by bpp.

    ``label``: see `_labels`; what else tells the curves of a label apart is appended. ``images``: number of distinct
    images behind a point. ``exact``: images left out of all means because some point reproduces them exactly, with an
    infinite PSNR; of a point that reproduces all of them, their number, and it has no PSNR. ``exact_noisy``: images
    without noise, left out of ``psnr_noisy``. ``seeds``: number of training runs, whose means have the standard
    deviations ``bpp_std``, ``psnr_std`` and ``ms_ssim_std`` (NaN for one run). Rows without rate and PSNR (entropy
    estimators) are left out.
    UserError: rows of two noise protocols in one dataset and noise level.
    """
    coded = _coded(rows)
    _check_protocols(coded)
    left_out = _left_out(coded)
    finite = coded.assign(**{name: coded[name].replace(np.inf, np.nan) for name in ("psnr", "psnr_noisy")})
    grouped = finite[~left_out].groupby(POINT, dropna=False, sort=False)
    by_seed = finite[~left_out].groupby([*POINT, "seed"], dropna=False)[SPREAD].mean().groupby(POINT, dropna=False)
    spread = by_seed.std().add_suffix("_std").assign(seeds=by_seed.size())
    points = grouped[MEANS].mean().assign(images=grouped["image"].nunique()).join(spread)
    for column, metric in (("exact", "psnr"), ("exact_noisy", "psnr_noisy")):
        infinite = coded[np.isinf(coded[metric]) | (left_out & (column == "exact"))]
        counts = infinite.groupby(POINT, dropna=False)["image"].nunique()
        points[column] = counts.reindex(points.index, fill_value=0)
    points = points.reset_index()
    by_method = points.groupby("method")["curve"].unique()
    labels = {
        curve: label for method, names in by_method.items() for curve, label in _labels(method, sorted(names)).items()
    }
    points["label"] = pd.Series([labels[curve] for curve in points["curve"]], index=points.index, dtype=str)
    details = [points["budget"], points["train_set"], points["target"]]
    for name, form in DETAILS.items():
        details.append(points[name].map(lambda value, form=form: "" if np.isnan(value) else form.format(value)))
    for detail in (detail.astype(str) for detail in details):
        differs = (detail.groupby(points["label"]).transform("nunique") > 1) & (detail != "")
        points["label"] = points["label"].where(~differs, points["label"] + " (" + detail + ")")
    points["standard"] = points["lmbda"].isna()
    points = points.sort_values(["dataset", "sigma", "standard", "label", "bpp"], ignore_index=True)
    counts = ["images", "exact", "exact_noisy", "seeds"]
    return points[["label", *POINT, *MEANS, *counts, *(f"{name}_std" for name in SPREAD)]]


def _check_protocols(coded: pd.DataFrame) -> None:
    for (dataset, sigma), panel in coded.groupby(["dataset", "sigma"], dropna=False, sort=False):
        protocols = panel.loc[panel["noise_protocol"] != "", ["noise_protocol", "method"]]
        first = protocols.drop_duplicates("noise_protocol").to_dict("records")
        if len(first) > 1:
            listed = " and ".join(f"{row['noise_protocol']} ({row['method']})" for row in first)
            raise UserError(
                f"the rows of {dataset}, {noise_label(sigma)}, have noise of different protocols, {listed}, which are "
                "no points of one plot: report them separately"
            )


def _left_out(coded: pd.DataFrame) -> pd.Series:
    """Rows of images that a point, other than one that is lossless on all images, reproduces exactly: they are left out
    of all curves of their test set, so that all have the same images. Only the exact rows where none would be left."""
    infinite = np.isposinf(coded["psnr"])
    lossless = infinite.groupby([coded[name] for name in POINT], dropna=False).transform("all")
    panel = [coded[name] for name in ("dataset", "sigma")]
    exact = (infinite & ~lossless).groupby([*panel, coded["image"]], dropna=False).transform("any")
    none_left = exact.groupby(panel, dropna=False).transform("all")
    return exact.where(~none_left, infinite & ~lossless)


def _labels(method: str, curves: Sequence[str]) -> dict[str, str]:
    """Curve -> label: the method and those words of the curve that not all curves of the method share, or the whole
    curve where this would give two curves one label."""
    words = {curve: curve.split() for curve in curves}
    common = set.intersection(*map(set, words.values())) | set(method.split())
    labels = {curve: " ".join([method, *(w for w in own if w not in common)]) for curve, own in words.items()}
    return labels if len(set(labels.values())) == len(labels) else {curve: curve for curve in labels}


def _coded(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of codecs and denoisers, with the name of their curve. Different weights of one run's name, as a run and
    its export have, are different curves. Images without noise have no protocol: a run's clean test images bear that
    of its other ones."""
    coded = rows[rows[["bpp", "psnr"]].notna().any(axis=1)].copy()
    coded["noise_protocol"] = coded["noise_protocol"].mask(coded["sigma"] == 0, "")
    coded["curve"] = coded["curve"].where(coded["curve"] != "", coded["method"])
    ids = coded["weights_id"].mask(coded["weights_id"] == "")
    number = ids.groupby(coded["run"]).transform(lambda own: pd.factorize(own)[0] + 1)
    coded["curve"] += number.map(lambda number: f" (weights {number})" if number > 1 else "")
    return coded


def labelled(rows: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """The rows behind ``points``, each with the label of its curve."""
    shared = ["curve", "method", "budget", "noise_protocol", "train_set", "target", *DETAILS]
    return _coded(rows).merge(points[[*shared, "label"]].drop_duplicates(), on=shared)


def entropy_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """RMSE in bpp of each estimate of the clean image's entropy, by method, dataset and sigma; empty without any."""
    if "h_clean" not in rows or rows["h_clean"].isna().all():
        return pd.DataFrame()
    measured = rows[rows["h_clean"].notna()]
    names = [name for name in ENTROPY_ESTIMATES if name in measured and measured[name].notna().any()]
    squares = measured[names].sub(measured["h_clean"], axis=0) ** 2
    key = [measured[name] for name in ("method", "dataset", "sigma")]
    errors = squares.groupby(key, dropna=False).mean() ** 0.5
    return errors.assign(images=measured.groupby(key, dropna=False)["image"].nunique()).reset_index()


def noise_label(sigma: float) -> str:
    """A noise level in grey levels, or that it is unknown (NaN)."""
    return "sigma unknown" if np.isnan(sigma) else f"sigma {sigma:g}"


def rung_label(lmbda: float, quality: str, method: str) -> str:
    """The operating point of a codec with its unit: lmbda, or its quality (of an any-rate codec, lmbda follows from
    it). ``method``: its last part, after a denoiser, names a standard codec's scale."""
    codec = method.rpartition(" + ")[2].partition("-e")[0]
    if codec in LOSSLESS:
        return "lossless"
    if quality and codec in SCALES:
        return SCALES[codec].format(quality)
    return f"quality {quality}" if quality else "" if np.isnan(lmbda) else f"λ {lmbda:g}"
