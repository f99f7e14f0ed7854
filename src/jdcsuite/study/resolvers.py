"""Words that the yaml files compute with: `${channels:WIDTH,192}`, `${ladder:SIGMA,RUNGS,DISTANCE}` and, for a chain of
rungs, `${rung_above:LMBDA,SIGMA,DISTANCE}` and `${chain_link:LMBDA,SIGMA,DISTANCE}`."""

from __future__ import annotations

from omegaconf import OmegaConf

# Rungs of FLLIC's ladders (design: four each, a factor of four apart), the highest rate first.
LOW_NOISE = (65536, 16384, 4096, 1024)
HIGH_NOISE = (32768, 8192, 2048, 512)
# JDC's ladder, for noise that has no sigma.
REAL_NOISE = (4096, 2048, 1024, 512, 256)
# JDC's weights of 1 - MS-SSIM, which is counted in other units than the MSE.
PERCEPTUAL = (64, 32, 16, 8)


def channels(width: float, count: int, power: float = 1.0, least: int = 8) -> int:
    """``count`` channels at a width of 1, times width**power, rounded to a multiple of 8, at least ``least``."""
    return max(least, round(width**power * count / 8) * 8)


def ladder(sigma: float | None, rungs: int, distance: str = "mse") -> str:
    """The ``rungs`` lowest lmbdas for a noise level, as Hydra's sweeper takes them. Of a ladder whose steps are half as
    wide, as JDC's are, rungs spread over the whole of it."""
    whole = whole_ladder(sigma, distance)
    if whole[0] > 2 * whole[1]:
        return ",".join(map(str, whole[-int(rungs) :]))
    places = {round(i * (len(whole) - 1) / max(rungs - 1, 1)) for i in range(int(rungs))}
    return ",".join(str(whole[place]) for place in sorted(places))


def whole_ladder(sigma: float | None, distance: str = "mse") -> tuple[int, ...]:
    """Every lmbda of a ladder, the highest first. ``sigma``: the noise level, None for real noise. ``distance``: what
    lmbda weighs, mse or ms_ssim."""
    if distance == "ms_ssim":
        return PERCEPTUAL
    if sigma is None:
        return REAL_NOISE
    return HIGH_NOISE if sigma >= 10 else LOW_NOISE


def rung_above(lmbda: float | None, sigma: float | None, distance: str = "mse") -> int | None:
    """The next higher lmbda of the whole ladder, however few rungs a sweep shows; None at its top and above it.

    ``lmbda`` may lie between two rungs. ValueError for a method without one, which has no rungs."""
    if lmbda is None:
        raise ValueError("a chain goes down the rungs of a ladder, and this experiment has none (no lmbda)")
    return min((rung for rung in whole_ladder(sigma, distance) if rung > lmbda), default=None)


def chain_link(lmbda: float | None, sigma: float | None, distance: str = "mse") -> str:
    """Where in its ladder's chain an lmbda stands: ``top`` or ``below`` another."""
    return "top" if rung_above(lmbda, sigma, distance) is None else "below"


def register() -> None:
    for function in (channels, ladder, rung_above, chain_link):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)
