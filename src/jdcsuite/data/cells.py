"""Decoded pairs -> the cells that training crops come from, and how noisy each cell is, as MS-SSIM(noisy, clean).

JDC trains on crop pairs whose MS-SSIM exceeds a threshold. Scores are computed once per set of images and stored in the
image cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.paircache import PairCache
from jdcsuite.imaging import atomic
from jdcsuite.imaging.pixels import to_unit
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.types import UserError

BATCH = 16


def grid(cache: ImageCache, *, side: int) -> Int[np.ndarray, "k 3"]:
    """(image, top, left) of squares of ``side`` pixels at a stride of 3/4 side; the remainder at a border is dropped,
    as in the paper's 256 pixels at a stride of 192."""
    stride = max(1, side * 3 // 4)
    cells = []
    for i in range(len(cache)):
        height, width = cache.shape(i)
        tops, lefts = range(0, height - side + 1, stride), range(0, width - side + 1, stride)
        cells += [(i, top, left) for top in tops for left in lefts]
    return np.array(cells, dtype=np.int64).reshape(-1, 3)


def scores(pairs: PairCache, cells: Int[np.ndarray, "k 3"], *, side: int) -> Float[np.ndarray, "k"]:
    """MS-SSIM(noisy, clean) of each cell, from the cache where the same images were scored before."""
    if side < SMALLEST:
        raise UserError(f"data.cell={side} is too small for min_ms_ssim: MS-SSIM needs {SMALLEST} pixels or more")
    # the name of a cache is the hash of what decides its pixels
    images = [pairs.noisy.path.stem, pairs.clean.path.stem, pairs.partner, side]
    key = hashlib.sha256(repr(images).encode()).hexdigest()
    path = pairs.noisy.path.with_name(f"{key[:32]}.scores.npz")
    stored = _stored(path, len(cells), key=key)
    if stored is not None:
        return stored
    computed = _measure(pairs, cells, side)
    with atomic.replacing(path) as part, part.open("wb") as out:
        np.savez(out, scores=computed, of=key)
    return computed


def _stored(path: Path, count: int, *, key: str) -> Float[np.ndarray, "k"] | None:
    """The scores stored at ``path``; None if there are none, not ``count`` finite ones, or those of other images."""
    try:
        with np.load(path) as file:
            score, whose = file["scores"], str(file["of"])
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):  # absent, truncated, or another kind of file
        return None
    usable = whose == key and score.shape == (count,) and score.dtype == np.float32 and bool(np.isfinite(score).all())
    return score if usable else None


@torch.no_grad()
def _measure(pairs: PairCache, cells: Int[np.ndarray, "k 3"], side: int) -> Float[np.ndarray, "k"]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console(stderr=True)
    starts = range(0, len(cells), BATCH)
    values = []
    for start in track(starts, "scoring crops", console=console, transient=True, disable=not console.is_terminal):
        crops = [pairs.crop(i, top, left, side) for i, top, left in cells[start : start + BATCH].tolist()]
        noisy, clean = (
            to_unit(torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2))
            for images in zip(*crops, strict=True)
        )
        values.append(ms_ssim(noisy, clean).cpu())
    return torch.cat(values).numpy().astype(np.float32)


def above(threshold: float, score: Float[np.ndarray, "k"]) -> Int[np.ndarray, "n"]:
    """Indices of the cells whose score exceeds the threshold (strictly). UserError if none does."""
    kept = np.flatnonzero(score > threshold)
    if not len(kept):
        lower = [t for t in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2) if t < threshold]
        counts = ", ".join(f"{int((score > t).sum())} above {t:g}" for t in lower)
        raise UserError(
            f"min_ms_ssim={threshold:g} leaves none of {len(score)} crops: the best has {score.max():.3f}"
            + (f" ({counts})" if counts else "")
        )
    return kept
