"""Images -> their noise levels (`jdc noise`), and a warning where weights were trained for others (`jdc compress`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jdcsuite.files import pool
from jdcsuite.types import Request

FAR = 2.0  # factor between noise level and training level above which there is a warning
LOSS = 25.0  # grey levels of error beyond FAR times the noise above which there is a warning


@dataclass(frozen=True)
class NoiseEstimate:
    """Standard deviations in 8-bit grey levels. ``noise``: of noise of any kind, by ``estimator``, "network" (the
    weights in the package) or "classical" (without them). ``white``: by wavelets, valid if the noise of neighbouring
    pixels is uncorrelated. ``error``: why there is no estimate."""

    picture: str
    noise: float = 0.0
    white: float = 0.0
    correlated: bool = False
    estimator: str = ""
    error: str = ""


def estimates(images: list[Path], *, jobs: int = 1) -> Iterator[NoiseEstimate]:
    """Yield the estimate of every image as it is done. ``jobs``: number of processes."""
    from jdcsuite.artifacts import weights

    network = weights.SHIPPED if weights.SHIPPED.is_file() else None
    yield from pool.run(images, partial(_estimate, network=network), jobs=jobs, died=_died)


def _died(path: Path) -> NoiseEstimate:
    return NoiseEstimate(str(path), error=f"{path}: {pool.DIED}: {pool.FEWER}")


def _estimate(path: Path, *, network: Path | None) -> NoiseEstimate:
    from jdcsuite.data.estimate import noise_of
    from jdcsuite.files import compression
    from jdcsuite.imaging.picture import Picture

    try:
        pixels = Picture.read(path).full_scale
        classical = noise_of(pixels)
        noise, estimator = classical.rms, "classical"
        if network is not None:
            request = compression.load(network).header(pixels).side.request
            noise, estimator = request.noise / 16, "network"
        return NoiseEstimate(str(path), noise, classical.white, classical.correlated, estimator)
    except Exception as error:  # must not stop the other images
        message = pool.reason(error, path, advice=pool.FEWER)
        return NoiseEstimate(str(path), error=message if str(path) in message else f"{path}: {message}")


def warning(pixels: np.ndarray, metadata: dict, request: Request | None, *, sigma: float | None) -> str:
    """How the noise of an image differs from what the weights were trained for, or "". ``metadata``: of the weights.
    ``request``: of an any-rate file. ``sigma``: noise level given by the user."""
    from jdcsuite.coding.conditions import MAX_SIGMA
    from jdcsuite.data.estimate import noise_of

    if request is not None:
        noise = request.noise / 16
        if noise <= MAX_SIGMA:
            return ""
        return (
            f"its noise, about {noise:.0f} grey levels, exceeds the {MAX_SIGMA:g} that these weights were trained for"
        )
    trained = metadata.get("sigma")
    if not isinstance(trained, int | float) or trained <= 0:
        return ""
    estimate = noise_of(pixels)
    if estimate.correlated and sigma is None:
        return (
            f"its noise, about {estimate.rms:.1f} grey levels, is correlated between neighbouring pixels and these "
            f"weights were trained for white noise of {trained:g}"
        )
    noise = estimate.white if sigma is None else sigma
    if trained / FAR <= noise <= trained * FAR:
        return ""
    return f"its noise, about {noise:.1f} grey levels, is far from the {trained:g} that these weights were trained for"


def loss_warning(pixels: np.ndarray, psnr: float, request: Request | None, *, sigma: float | None) -> str:
    """That the decoded image is far from the input, or "": it has lost more than noise and fine detail, as with weights
    that are damaged or hardly trained. ``psnr``: in dB, against the input; others as in `warning`."""
    from jdcsuite.data.estimate import noise_of

    error = 255 * 10 ** (-psnr / 20)
    if error <= LOSS:
        return ""
    noise = sigma if sigma is not None else request.noise / 16 if request is not None else noise_of(pixels).rms
    if error <= LOSS + FAR * noise:
        return ""
    return (
        f"its decoded image is off by {error:.0f} grey levels (RMS), far more than its noise of about {noise:.1f}: "
        "look at it before you delete the original, or take other weights"
    )
