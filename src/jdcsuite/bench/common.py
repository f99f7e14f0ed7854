"""What the benchmarks share: a configuration, and figures as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from jdcsuite.study import resolvers
from jdcsuite.study.composition import resolved


def configuration(*overrides: str, experiment: str = "fllic") -> dict:
    """An experiment's configuration as the launcher composes it, without progress bar and W&B. ``overrides`` may name
    the experiment themselves."""
    resolvers.register()
    named = any(word.startswith("+experiment=") for word in overrides)
    said = [*([] if named else [f"+experiment={experiment}"]), "logger=none", "trainer.progress=false", *overrides]
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        return resolved(compose("config", said))


def quartiles(values: list[float] | tuple[float, ...], form: str) -> tuple[str, str]:
    low, middle, high = (format(float(q), form) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return middle, f"{low} .. {high}"
