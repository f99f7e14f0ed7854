"""Rows and run folders -> where each curve comes from: commands, code, data and seeds; the metrics of its trainings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.judging.curves import rung_label
from jdcsuite.judging.results import is_run
from jdcsuite.types import UserError

MAX_POINTS = 300  # of a metric; longer trainings are thinned by means of as many spans
METRICS = ("val/loss", "val/psnr", "val/bpp", "train/loss")  # come first, in this order


@dataclass(frozen=True)
class Run:
    """A run folder. ``name``: label, rung and seed. ``config``: the text of config.yaml; ``state``: that of run.json.
    ``metrics``: name of a metric -> steps, values."""

    folder: Path
    name: str
    command: str
    config: str
    state: str
    hardware: str
    metrics: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """``facts``: (what, words) pairs; ``commands``: shell lines that make its rows."""

    label: str
    facts: list[tuple[str, str]]
    commands: list[str]
    runs: list[Run]


def curves(labelled: pd.DataFrame) -> list[Curve]:
    """The provenance of every curve. ``labelled``: `curves.labelled` of rows with folders."""
    return [_curve(label, rows) for label, rows in labelled.groupby("label", sort=False)]


def _curve(label: str, rows: pd.DataFrame) -> Curve:
    rows = rows.sort_values(["lmbda", "seed"], kind="stable")
    runs = [run for folder, own in rows.groupby("folder", sort=False) if (run := _run(folder, label, own)) is not None]
    evaluated = rows[~rows["folder"].isin([str(run.folder) for run in runs])]
    facts = {
        "curve": _words(rows["curve"]),
        "training images": _words(rows["train_set"]),
        "teacher": _words(rows["teacher"]),
        "budget": _words(rows["budget"]),
        "training seeds": _numbers(rows["seed"]),
        "test noise": _words(rows["noise_protocol"]),
        "noise seeds": _numbers(rows["noise_seed"]),
        "codec": _words(rows["codec_version"]),
        "entropy coder": _words(rows["entropy_coder"]),
        "code": _words(rows["code_version"]),
        "hardware": "; ".join(dict.fromkeys(run.hardware for run in runs if run.hardware)),
        "rows in": ", ".join(dict.fromkeys(rows["folder"])),
    }
    commands = list(dict.fromkeys([*(run.command for run in runs if run.command), *_evaluations(evaluated)]))
    return Curve(label, [(what, words) for what, words in facts.items() if words], commands, runs)


def _words(column: pd.Series) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in column if value))


def _numbers(column: pd.Series) -> str:
    return ", ".join(f"{value:g}" for value in sorted(column.dropna().unique()))


def _run(folder: str, label: str, rows: pd.DataFrame) -> Run | None:
    """None for a folder that holds no run, or rows of other runs."""
    path = Path(folder)
    if not is_run(path):
        return None
    first = rows.iloc[0]
    seed = f"seed {first['seed']:g}" if rows["seed"].notna().all() else ""
    name = ", ".join(filter(None, [label, rung_label(first["lmbda"], "", first["method"]), seed]))
    state = run_folder.read_state(path) or {}
    return Run(
        path, name, _command(path), _text(path / run_folder.CONFIG), json.dumps(state, indent=2) if state else "",
        str(state.get("hardware") or ""), read_metrics(path / "metrics.csv"),
    )  # fmt: skip


def _command(folder: Path) -> str:
    """The command that trains the run; "" where its configuration does not record it (runs of before 2026-12, and runs
    that another one needed)."""
    try:
        overrides = run_folder.read_config(folder).get("overrides")
    except UserError:
        return ""
    return shlex.join(["python", "-m", "jdcsuite", *map(str, overrides)]) if overrides else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _evaluations(rows: pd.DataFrame) -> list[str]:
    """`jdc evaluate` as it gives rows that no run folder holds."""
    commands = []
    for (method, dataset, sigma, protocol), own in rows.groupby(
        ["method", "dataset", "sigma", "noise_protocol"], dropna=False, sort=False
    ):
        word = method.removeprefix("noisy + ").replace(" + ", "+")
        if (own["lmbda"].notna() | (own["budget"] != "")).any():  # trained weights, by the name of their run
            word = own["run"].iloc[0] or word
        qualities = ",".join(dict.fromkeys(q for q in own["quality"] if q and q != "0"))
        arguments = ["jdc", "evaluate", word + (f"@{qualities}" if qualities else ""), "--data", str(dataset)]
        if protocol != "real":
            arguments += ["--sigma", f"{sigma:g}"] if np.isfinite(sigma) else []
            arguments += ["--noise-seed", _numbers(own["noise_seed"])] if own["noise_seed"].any() else []
            arguments += ["--protocol", protocol] if protocol == "float" else []
        commands.append(shlex.join([*arguments, "-o", "rows.csv"]))
    return commands


def read_metrics(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each metric of a metrics.csv but those of tests; empty where it is missing or damaged."""
    try:
        rows = pd.read_csv(path, on_bad_lines="skip")
        steps = pd.to_numeric(rows["step"], errors="coerce")
    except (OSError, ValueError, KeyError):
        return {}
    names = [name for name in rows if name not in ("step", "epoch") and not name.startswith("test/")]
    series = {name: _thinned(steps, pd.to_numeric(rows[name], errors="coerce")) for name in names}
    first = [name for name in METRICS if name in series]
    ordered = dict.fromkeys([*first, *series])
    return {name: series[name] for name in ordered if len(series[name][0]) > 1}


def _thinned(steps: pd.Series, values: pd.Series) -> tuple[list[float], list[float]]:
    finite = np.isfinite(steps) & np.isfinite(values)
    pairs = np.stack([steps[finite], values[finite]])
    spans = np.array_split(pairs, min(MAX_POINTS, max(1, pairs.shape[1])), axis=1)
    means = np.stack([span.mean(axis=1) for span in spans], axis=1) if pairs.size else pairs
    return [float(step) for step in means[0].round(1)], [float(f"{value:.6g}") for value in means[1]]
