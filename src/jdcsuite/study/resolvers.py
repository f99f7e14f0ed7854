"""OmegaConf resolvers of the yaml files: `${channels:WIDTH,192}`, `${ladder:SIGMA,RUNGS,DISTANCE}` and, for chains of
rungs, `${rung_above:LMBDA,SIGMA,DISTANCE}` and `${chain_link:LMBDA,SIGMA,DISTANCE}`."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from jdcsuite import checks

# Rungs (lmbda) of FLLIC's ladders, four each and a factor of four apart, the highest rate first.
LOW_NOISE = (65536, 16384, 4096, 1024)
HIGH_NOISE = (32768, 8192, 2048, 512)
# JDC's ladder, for real noise.
REAL_NOISE = (4096, 2048, 1024, 512, 256)
# JDC's lmbda where the distortion is 1 - MS-SSIM.
PERCEPTUAL = (64, 32, 16, 8)


def channels(width: Any, count: int, power: float = 1.0, least: int = 8) -> int:
    """``count`` * width**power, rounded to a multiple of 8, at least ``least``."""
    checks.number("width", width, above=0)
    return max(least, round(width**power * count / 8) * 8)


def ladder(sigma: Any, rungs: Any, distance: str = "mse") -> str:
    """The ``rungs`` lowest lmbdas of a noise level's ladder, as Hydra's sweeper takes them. On a ladder with steps of a
    factor of two, as JDC's, they are spread over the whole ladder instead."""
    whole = whole_ladder(sigma, distance)
    checks.whole("rungs", rungs, least=1)
    if whole[0] > 2 * whole[1]:
        return ",".join(map(str, whole[-rungs:]))
    places = {round(i * (len(whole) - 1) / max(rungs - 1, 1)) for i in range(rungs)}
    return ",".join(str(whole[place]) for place in sorted(places))


def whole_ladder(sigma: Any, distance: str = "mse") -> tuple[int, ...]:
    """Every lmbda of a ladder, the highest first. ``sigma``: noise level in grey levels, None for real noise.
    ``distance``: the distortion that lmbda weights, mse or ms_ssim."""
    if distance == "ms_ssim":
        return PERCEPTUAL
    if sigma is None:
        return REAL_NOISE
    return HIGH_NOISE if checks.noise_level(sigma) >= 10 else LOW_NOISE


def rung_above(lmbda: float | None, sigma: float | None, distance: str = "mse") -> int | None:
    """The next higher lmbda of the whole ladder, whatever rungs a sweep trains; None from its top on.

    ``lmbda`` may lie between two rungs. ValueError for a method without lmbda, which has no rungs."""
    if lmbda is None:
        raise ValueError("a chain goes down the rungs of a ladder, and this experiment has none (no lmbda)")
    return min((rung for rung in whole_ladder(sigma, distance) if rung > lmbda), default=None)


def chain_link(lmbda: float | None, sigma: float | None, distance: str = "mse") -> str:
    """Position of an lmbda in its ladder's chain: ``top``, or ``below`` another rung."""
    return "top" if rung_above(lmbda, sigma, distance) is None else "below"


def register() -> None:
    for function in (channels, ladder, rung_above, chain_link):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)
