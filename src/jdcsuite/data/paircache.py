"""Shots -> decoded pairs, as crops and whole images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.listing import report
from jdcsuite.data.shots import Shot
from jdcsuite.data.sources import listed
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_eight_bit
from jdcsuite.types import UserError


class PairCache:
    """Decoded pairs in two caches. ``partner``: index of each noisy image's clean one, which several may share.
    ``scenes``, ``sources``: of each noisy image; None: all are from source 0."""

    def __init__(
        self,
        *,
        noisy: ImageCache,
        clean: ImageCache,
        partner: list[int],
        scenes: list[str],
        sources: list[int] | None = None,
    ) -> None:
        self.noisy, self.clean, self.partner, self.scenes = noisy, clean, partner, scenes
        self.sources = [0] * len(partner) if sources is None else sources

    @classmethod
    def of_shots(
        cls, shots: Sequence[Shot], *, cache_dir: str | None, allow_unpaired: bool = False, keep_refused: bool = False
    ) -> PairCache:
        """Decode the images of shots; 16-bit images (NIND has some) are rounded to 8 bits. ``keep_refused``: as
        `ImageCache.build`. UserError lists pairs whose sizes differ; with ``allow_unpaired`` they are skipped."""
        cleans = sorted({shot.clean for shot in shots})
        noisy, clean = (
            ImageCache.build(paths, cache_dir=cache_dir, reader=_read_eight_bit, keep_refused=keep_refused)
            for paths in ([shot.noisy for shot in shots], cleans)
        )
        index = {path: i for i, path in enumerate(cleans)}
        partner = [index[shot.clean] for shot in shots]
        whole = [(i, p) for i, p in enumerate(partner) if i not in noisy.refused and p not in clean.refused]
        differ = [i for i, p in whole if noisy.shape(i) != clean.shape(p)]
        if differ and allow_unpaired and len(differ) < len(shots):
            kept = [shot for i, shot in enumerate(shots) if i not in set(differ)]
            return cls.of_shots(kept, cache_dir=cache_dir)
        if differ:
            sizes = [f"{noisy.names[i]} {noisy.shape(i)} and {clean.shape(partner[i])}" for i in differ]
            raise UserError(
                f"{len(differ)} of {len(shots)} pairs differ in size: {listed(sizes)}; correct or "
                "remove them (in a training, data.allow_unpaired=true leaves them out)"
            )
        scenes, sources = [shot.scene for shot in shots], [shot.source for shot in shots]
        return cls(noisy=noisy, clean=clean, partner=partner, scenes=scenes, sources=sources)

    @classmethod
    def of_clean(cls, clean: ImageCache, scenes: list[str]) -> PairCache:
        """Clean images, each its own partner."""
        return cls(noisy=clean, clean=clean, partner=list(range(len(clean))), scenes=scenes)

    def __len__(self) -> int:
        return len(self.partner)

    def identified(self) -> dict[str, list]:
        """What the pairs are, without names: contents, partners, and which images show the same scene."""
        scenes = {scene: number for number, scene in enumerate(dict.fromkeys(self.scenes))}
        return {
            "noisy": self.noisy.contents,
            "clean": self.clean.contents,
            "partner": self.partner,
            "scenes": [scenes[scene] for scene in self.scenes],
        }

    def __getitem__(self, i: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
        """(noisy, clean) images."""
        return self.noisy[i], self.clean[self.partner[i]]

    def crop(
        self, i: int, top: int, left: int, size: int
    ) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size 3"]]:
        """(noisy, clean) squares of ``size`` pixels."""
        return self.noisy.crop(i, top, left, size), self.clean.crop(self.partner[i], top, left, size)


def _read_eight_bit(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    picture = Picture.read(path)
    if picture.bit_depth == 16 and picture.depth.bits < 16:
        # Not scaled: both halves of a pair, and all its ISOs, need the same scale.
        report(
            f"{path.parent}: 16-bit images that use {picture.depth.bits} bits only are read as dark images: "
            "if their camera has no more bits, scale all of them to 16 bits first"
        )
    return to_eight_bit(picture.pixels)
