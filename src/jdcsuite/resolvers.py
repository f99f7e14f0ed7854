"""Words that the yaml files compute with: `${channels:WIDTH,192}` and `${ladder:SIGMA,RUNGS}`."""

from __future__ import annotations

from omegaconf import OmegaConf

# Rungs of FLLIC's ladders (design: four each, a factor of four apart), the highest rate first.
LOW_NOISE = (65536, 16384, 4096, 1024)
HIGH_NOISE = (32768, 8192, 2048, 512)
# JDC's ladder, for noise that has no sigma.
REAL_NOISE = (4096, 2048, 1024, 512, 256)


def channels(width: float, count: int, power: float = 1.0) -> int:
    """``count`` channels at a width of 1, times width**power, rounded to a multiple of 8, at least 8."""
    return max(8, round(width**power * count / 8) * 8)


def ladder(sigma: float | None, rungs: int) -> str:
    """The ``rungs`` lowest lmbdas for a noise level, as Hydra's sweeper takes them; for real noise (no sigma), rungs
    spread over the whole of JDC's ladder, whose steps are half as wide."""
    if sigma is None:
        last = len(REAL_NOISE) - 1
        places = {round(i * last / max(rungs - 1, 1)) for i in range(int(rungs))}
        return ",".join(str(REAL_NOISE[place]) for place in sorted(places))
    every = HIGH_NOISE if sigma >= 10 else LOW_NOISE
    return ",".join(map(str, every[-int(rungs) :]))


def register() -> None:
    for name, function in (("channels", channels), ("ladder", ladder)):
        OmegaConf.register_new_resolver(name, function, replace=True)
