"""Curves with their run folders -> the table of what each codec costs: parameters, products, measured times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite.artifacts import weights
from jdcsuite.judging.candidates import SHIPPED
from jdcsuite.reports.provenance import Curve
from jdcsuite.reports.tables import NONE, Table, number
from jdcsuite.types import UserError

SIDE = 128  # pixels of the image that products are counted on


def kmac(model: nn.Module, **inputs: Tensor) -> float:
    """Thousands of multiply-accumulates per pixel of `forward`: encoder and decoder. ``inputs``: besides the image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE, device=next(model.parameters()).device), **inputs)
    return counter.get_total_flops() / 2 / SIDE**2 / 1000


def table(labelled: pd.DataFrame, curves: Sequence[Curve]) -> Table | None:
    """``labelled``: `curves.labelled`. None without times and without weights."""
    counted: dict[str, tuple[int, float] | None] = {}
    shipped = set(labelled.loc[labelled["run"] == SHIPPED, "label"])
    models = {curve.label: _model(curve, counted, shipped=curve.label in shipped) for curve in curves}
    rows = []
    for (label, device), own in labelled.groupby(["label", "device"], sort=False):
        parameters, products = models.get(label) or (np.nan, np.nan)
        megapixels = own["height"] * own["width"] / 1e6
        times = [_quartiles(own[column]) for column in ("enc_ms", "dec_ms")]
        per_megapixel = [number((own[column] / megapixels).median(), ".0f") for column in ("enc_ms", "dec_ms")]
        rows.append(
            [
                label, device or NONE, number(parameters / 1e6, ".2f"), number(products, ".1f"), *times, *per_megapixel,
                number(megapixels.median(), ".2f"),
            ]
        )  # fmt: skip
    if all(set(row[2:8]) == {NONE} for row in rows):
        return None
    caption = (
        f"kMAC/px: products of the network's forward pass, encoder and decoder, counted on {SIDE} x {SIDE} pixels. "
        "Times are wall times for a whole image with file format, entropy coding and a denoiser in front: median over "
        "images (quartiles). Times of rows that were measured on different machines cannot be compared"
    )
    header = ["curve", "device", "parameters, M", "kMAC/px", "encode, ms", "decode, ms", "encode, ms/MP"]
    header += ["decode, ms/MP", "image, MP"]
    return Table("complexity", "Complexity", caption, header, rows, texts=2)


def _quartiles(values: pd.Series) -> str:
    if values.isna().all():
        return NONE
    low, median, high = values.quantile([0.25, 0.5, 0.75])
    return f"{median:.0f} ({low:.0f} .. {high:.0f})"


def _model(curve: Curve, counted: dict[str, tuple[int, float] | None], *, shipped: bool) -> tuple[int, float] | None:
    """Parameters and kMAC/px of the model of a curve's first run with weights. ``counted``: of models of equal
    configuration, counted once. ``shipped``: the weights are those in the package."""
    for find in [*(partial(weights.path_of, run.folder) for run in curve.runs), *[weights.shipped] * shipped]:
        try:
            path = find()
            config = json.dumps(weights.read(path)[0], sort_keys=True)
            if config not in counted:
                counted[config] = _count(weights.load(path))
        except UserError:
            continue
        return counted[config]
    return None


def _count(model: nn.Module) -> tuple[int, float]:
    """A network that takes other inputs than an image has its parameters counted alone."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        return parameters, kmac(model, sigma=torch.tensor([10.0]), bpp_noisy=torch.tensor([8.0]))
    except (UserError, TypeError, ValueError, RuntimeError):
        return parameters, float("nan")
