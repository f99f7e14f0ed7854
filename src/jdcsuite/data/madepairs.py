"""The embedded photographs and levels of noise -> pairs that need no download, each level standing for an ISO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jdcsuite.data import splits
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.noise import PoissonGaussian
from jdcsuite.data.quality import PairCache
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.imaging.read import embedded

MADE, MADE_CLEAN = "embedded-poisson-gaussian", "embedded-clean"


def made(
    levels: Sequence[PoissonGaussian], *, noise_seed: int, val: Sequence[str] = (), cache_dir: str | None = None
) -> tuple[dict[str, PairCache], ImageCache, dict[str, PairCache]]:
    """Training and validation pairs, the clean pictures of the training ones, and the test sets; a picture is a scene.
    ``val``: patterns of the pictures that validate; none: one by its hash."""
    train, held = splits.hold_out_pictures(embedded("train"), val)
    test = embedded("test")
    clean = ImageCache.build(test, cache_dir=cache_dir)
    alone = PairCache(noisy=clean, clean=clean, partner=list(range(len(test))), scenes=clean.names)
    pairs = [_noised(pictures, levels, noise_seed, cache_dir) for pictures in (train, held, test)]
    return {"train": pairs[0], "val": pairs[1]}, pairs[0].clean, {MADE: pairs[2], MADE_CLEAN: alone}


def _noised(
    photographs: list[tuple[str, np.ndarray]],
    levels: Sequence[PoissonGaussian],
    noise_seed: int,
    cache_dir: str | None,
) -> PairCache:
    noisy, partner = [], []
    for number, (name, image) in enumerate(photographs):
        for level in levels:
            noised = to_bytes(level.fixed(image, seed=noise_seed))
            noisy.append((f"{Path(name).stem}_a{level.a[0]:g}_b{level.b[0]:g}.png", noised))
            partner.append(number)
    return PairCache(
        noisy=ImageCache.build(noisy, cache_dir=cache_dir),
        clean=ImageCache.build(photographs, cache_dir=cache_dir),
        partner=partner,
        scenes=[photographs[number][0] for number in partner],
    )
