"""Pictures -> how noisy they are, and whether weights were trained for that: `jdc noise`, and warnings of `jdc
compress`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jdcsuite.coding.container import Request
from jdcsuite.files import pool
from jdcsuite.types import UserError

FAR = 2.0  # a model of one noise level is told apart from its picture by such a factor


@dataclass(frozen=True)
class Reading:
    """Standard deviations in 8-bit grey levels. ``noise``: whatever its kind, by ``estimator``: the ``network`` that
    came with the package, or ``classical`` ("" where ``error`` says why there is none). ``white``: by wavelets, right
    where neighbours share no noise."""

    picture: str
    noise: float = 0.0
    white: float = 0.0
    correlated: bool = False
    estimator: str = ""
    error: str = ""


def readings(pictures: list[Path], *, jobs: int = 1) -> Iterator[Reading]:
    """Of every picture, as each is done; ``jobs``: processes."""
    from jdcsuite.artifacts import weights

    network = weights.SHIPPED if weights.SHIPPED.is_file() else None
    yield from pool.run(pictures, partial(_reading, network=network), jobs=jobs, died=_died)


def _died(path: Path) -> Reading:
    return Reading(str(path), error=f"{path}: {pool.DIED}")


def _reading(path: Path, *, network: Path | None) -> Reading:
    from jdcsuite.data.estimate import noise_of
    from jdcsuite.files import compression
    from jdcsuite.imaging.picture import Picture

    try:
        pixels = Picture.read(path).pixels
        classical = noise_of(pixels)
        noise, estimator = classical.rms, "classical"
        if network is not None:
            codec = compression.load(network)
            request = codec.header(pixels).side.request
            noise, estimator = request.noise / 16, "network"
        return Reading(str(path), noise, classical.white, classical.correlated, estimator)
    except UserError as error:
        return Reading(str(path), error=str(error))


def warning(pixels: np.ndarray, about: dict, request: Request | None, *, sigma: float | None) -> str:
    """Why a picture's noise is not what the weights were trained for, or "". ``about``: what the weights say of
    themselves. ``request``: of the file, ``sigma``: what the user said."""
    from jdcsuite.coding.conditions import MAX_SIGMA
    from jdcsuite.data.estimate import noise_of

    if request is not None:
        noise = request.noise / 16
        if noise <= MAX_SIGMA:
            return ""
        return f"its noise, about {noise:.0f} grey levels, is beyond the {MAX_SIGMA:g} that these weights learned"
    trained = about.get("sigma")
    if not isinstance(trained, int | float) or trained <= 0:
        return ""
    estimate = noise_of(pixels)
    if estimate.correlated and sigma is None:
        return (
            f"its noise, about {estimate.rms:.1f} grey levels, is correlated between neighbours and these weights were "
            f"trained on white noise of {trained:g}"
        )
    noise = estimate.white if sigma is None else sigma
    if trained / FAR <= noise <= trained * FAR:
        return ""
    return f"its noise, about {noise:.1f} grey levels, is far from the {trained:g} that these weights were trained for"
