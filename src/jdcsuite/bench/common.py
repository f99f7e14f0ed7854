"""Shared by the benchmarks: configurations, and statistics as text."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from jdcsuite.study import resolvers
from jdcsuite.study.composition import resolved


def configuration(*overrides: str, experiment: str = "fllic") -> dict:
    """The resolved configuration of an experiment, without progress bar and W&B. ``overrides`` may name another one."""
    resolvers.register()
    named = [] if any(o.startswith("+experiment=") for o in overrides) else [f"+experiment={experiment}"]
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        return resolved(compose("config", [*named, "logger=none", "trainer.progress=false", *overrides]))


def quartiles(values: list[float] | tuple[float, ...], form: str) -> tuple[str, str]:
    """The median and the quartiles, as cells of a table."""
    low, middle, high = (format(float(q), form) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"


def now(device: torch.device) -> float:
    """Seconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
