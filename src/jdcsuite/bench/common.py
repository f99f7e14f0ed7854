"""Overrides -> configurations of benchmarks; their measurements -> text."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from jdcsuite.study import resolvers
from jdcsuite.study.composition import resolved
from jdcsuite.training import job as training
from jdcsuite.types import UserError


def configuration(*overrides: str, experiment: str = "fllic") -> dict:
    """The resolved configuration of an experiment, without progress bar and W&B. ``overrides`` may name another one."""
    resolvers.register()
    named = [] if any(o.startswith("+experiment=") for o in overrides) else [f"+experiment={experiment}"]
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        return resolved(compose("config", [*named, "logger=none", "trainer.progress=false", *overrides]))


def trainable(*overrides: str) -> dict:
    """`configuration` of a method that can be trained alone. UserError: it needs another run first, or the overrides do
    not fit."""
    try:
        config = configuration(*overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(str(error).split())) from None
    if needs := [need["experiment"] for need in config["needs"].values() if need["experiment"]]:
        raise UserError(f"{config['method']} needs a run of {needs[0]} first: measure a method that needs none")
    training.check_device(config["trainer"])
    return config


def quartiles(values: list[float] | tuple[float, ...], form: str) -> tuple[str, str]:
    """The median and the quartiles, as cells of a table."""
    low, middle, high = (format(float(q), form) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"


def now(device: torch.device) -> float:
    """Seconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
