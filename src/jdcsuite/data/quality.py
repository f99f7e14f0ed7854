"""Pairs of pictures -> the cells that training crops come from, and how much noise each holds (MS-SSIM).

JDC trains on crop pairs whose MS-SSIM(noisy, clean) exceeds a threshold. Scores are computed once for a set of
pictures and kept beside their decoded pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from rich.progress import track

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.pairs import Shot, listed
from jdcsuite.imaging import atomic
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_eight_bit
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.types import UserError

BATCH = 16


class PairCache:
    """Decoded pairs, two memory-mapped files. ``partner``: number of each noisy picture's clean one, which several
    may share. ``scenes``, ``sources``: of each noisy picture; without ``sources`` all are of the first."""

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
    def of_shots(cls, shots: Sequence[Shot], *, cache_dir: str | None, allow_unpaired: bool = False) -> PairCache:
        """Decodes the pictures, those of 16 bits rounded to 8 (NIND has some). UserError lists pairs whose sizes
        differ; with ``allow_unpaired`` they are left out."""
        cleans = sorted({shot.clean for shot in shots})
        noisy, clean = (
            ImageCache.build(paths, cache_dir=cache_dir, reader=_read_any_depth)
            for paths in ([shot.noisy for shot in shots], cleans)
        )
        partner = [cleans.index(shot.clean) for shot in shots]
        differ = [i for i, p in enumerate(partner) if noisy.shape(i) != clean.shape(p)]
        if differ and allow_unpaired and len(differ) < len(shots):
            kept = [shot for i, shot in enumerate(shots) if i not in set(differ)]
            return cls.of_shots(kept, cache_dir=cache_dir)
        if differ:
            sizes = [f"{noisy.names[i]} {noisy.shape(i)} and {clean.shape(partner[i])}" for i in differ]
            raise UserError(
                f"{len(differ)} of {len(shots)} pairs differ in size: {listed(sizes)}; mend them, or say "
                "data.allow_unpaired=true to leave them out"
            )
        scenes, sources = [shot.scene for shot in shots], [shot.source for shot in shots]
        return cls(noisy=noisy, clean=clean, partner=partner, scenes=scenes, sources=sources)

    def __len__(self) -> int:
        return len(self.partner)

    def identified(self) -> dict[str, list]:
        """What the pairs are, without names: contents, partners, and which pictures show the same scene."""
        scenes = {scene: number for number, scene in enumerate(dict.fromkeys(self.scenes))}
        return {
            "noisy": self.noisy.contents,
            "clean": self.clean.contents,
            "partner": self.partner,
            "scenes": [scenes[scene] for scene in self.scenes],
        }

    def crop(self, i: int, top: int, left: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(noisy, clean) squares of ``size`` pixels, 8-bit RGB."""
        return self.noisy.crop(i, top, left, size), self.clean.crop(self.partner[i], top, left, size)


def _read_any_depth(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    return to_eight_bit(Picture.read(path).pixels)


def cells(cache: ImageCache, *, side: int) -> Int[np.ndarray, "k 3"]:
    """(picture, top, left) of squares of ``side`` pixels at a stride of 3/4 side; what is left at a border is
    dropped, as in the paper's 256 pixels at a stride of 192."""
    stride = max(1, side * 3 // 4)
    every = []
    for i in range(len(cache)):
        height, width = cache.shape(i)
        tops, lefts = range(0, height - side + 1, stride), range(0, width - side + 1, stride)
        every += [(i, top, left) for top in tops for left in lefts]
    return np.array(every, dtype=np.int64).reshape(-1, 3)


def scores(pairs: PairCache, at: Int[np.ndarray, "k 3"], *, side: int) -> Float[np.ndarray, "k"]:
    """MS-SSIM(noisy, clean) of each cell, read back where the same pictures were scored before."""
    if side < SMALLEST:
        raise UserError(f"data.cell={side} is too small for min_ms_ssim: MS-SSIM needs {SMALLEST} pixels or more")
    # a cache's name is the hash of what decides its pixels
    said = [pairs.noisy.path.stem, pairs.clean.path.stem, pairs.partner, side]
    of = hashlib.sha256(repr(said).encode()).hexdigest()
    path = pairs.noisy.path.with_name(f"{of[:32]}.scores.npz")
    if (known := _read(path, len(at), of=of)) is not None:
        return known
    made = _measure(pairs, at, side)
    with atomic.replacing(path) as part, part.open("wb") as out:
        np.savez(out, scores=made, of=of)
    return made


def _read(path: Path, count: int, *, of: str) -> Float[np.ndarray, "k"] | None:
    """The scores kept at ``path``; None where there are none, not ``count`` sound ones, or those of other pictures."""
    try:
        with np.load(path) as kept:
            known, whose = kept["scores"], str(kept["of"])
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):  # absent, cut off, or no such file
        return None
    sound = whose == of and known.shape == (count,) and known.dtype == np.float32 and bool(np.isfinite(known).all())
    return known if sound else None


@torch.no_grad()
def _measure(pairs: PairCache, at: Int[np.ndarray, "k 3"], side: int) -> Float[np.ndarray, "k"]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    console = Console(stderr=True)
    starts = range(0, len(at), BATCH)
    for start in track(starts, "scoring crops", console=console, transient=True, disable=not console.is_terminal):
        crops = [pairs.crop(i, top, left, side) for i, top, left in at[start : start + BATCH].tolist()]
        noisy, clean = (
            torch.from_numpy(np.stack(kind)).to(device).permute(0, 3, 1, 2).float() / 255
            for kind in zip(*crops, strict=True)
        )
        found.append(ms_ssim(noisy, clean).cpu())
    return torch.cat(found).numpy().astype(np.float32)


def above(threshold: float, score: Float[np.ndarray, "k"]) -> Int[np.ndarray, "n"]:
    """Numbers of the cells whose score exceeds the threshold (strictly). UserError when none does."""
    kept = np.flatnonzero(score > threshold)
    if not len(kept):
        tried = [t for t in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2) if t < threshold]
        counts = ", ".join(f"{int((score > t).sum())} above {t:g}" for t in tried)
        raise UserError(
            f"min_ms_ssim={threshold:g} leaves none of {len(score)} crops: the best has {score.max():.3f}"
            + (f" ({counts})" if counts else "")
        )
    return kept
