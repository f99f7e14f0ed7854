"""Decoded pairs -> training crops by their numbers, and whole pairs: what a loader asks for."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import Dataset

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.datamodule import Named, Sample
from jdcsuite.data.quality import PairCache
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.types import Pair


class PairCrops(Dataset[Sample]):
    """Sample number -> (noisy, clean) crop, turned and mirrored.

    ``kept``: the cells of ``at`` that crops come from; all (crop, ISO) pairs alike (``sampling`` pair), or a place of
    a scene first and one of its ISOs then (scene, as JDC-N and JDC-CN are published). ``weights``, where given: of each
    source, the relative chance that a pair is of it; inside a source either law holds. A ``crop`` smaller than its
    ``cell`` lies anywhere in it. The last ``cleans`` places of each ``batch`` are crops of ``plain`` pictures.
    """

    def __init__(
        self,
        pairs: PairCache,
        plain: ImageCache,
        *,
        at: np.ndarray,
        cell: int,
        crop: int,
        batch: int,
        cleans: int,
        sampling: str,
        seed: int,
        lossless: Lossless | None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.pairs, self.plain, self.at, self.cell, self.crop = pairs, plain, at, cell, crop
        self.batch, self.cleans, self.seed, self.lossless = batch, cleans, seed, lossless
        places: dict[int, dict[object, list[int]]] = {}
        for k, (i, top, left) in enumerate(at.tolist()):
            source = pairs.sources[i] if weights else 0
            if weights and not weights[source]:
                continue
            place = (pairs.partner[i], top, left) if sampling == "scene" else k
            places.setdefault(source, {}).setdefault(place, []).append(k)
        # source -> place -> cells
        self.places = [list(places[source].values()) for source in sorted(places)]
        chances = np.array([weights[source] if weights else 1.0 for source in sorted(places)])
        self.chance = np.cumsum(chances / chances.sum())
        sides = [plain.shape(i) for i in range(len(plain))]
        positions = np.array([(h - crop + 1) * (w - crop + 1) for h, w in sides], dtype=np.float64)
        self.share = np.cumsum(positions) / positions.sum()

    def __getitem__(self, n: int) -> Sample:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, n]))
        is_clean = n % self.batch >= self.batch - self.cleans
        noisy, clean = self._plain(draw) if is_clean else self._pair(draw)
        turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
        sample = {}
        for kind, image in {"noisy": noisy, "clean": clean}.items():
            image = np.rot90(image[:, ::-1] if mirrored else image, turns)
            sample[kind] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            if self.lossless is not None:
                sample[f"bpp_{kind}"] = torch.tensor(self.lossless.bpp(np.ascontiguousarray(image)))
        sigma = torch.tensor(0.0 if is_clean else nan)
        noise_seed = torch.tensor(int(draw.integers(2**62)))
        return sample | {"sigma": sigma, "number": torch.tensor(n), "noise_seed": noise_seed}

    def _pair(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        i, top, left = self.at[self._cell(draw)].tolist()
        down, right = draw.integers(self.cell - self.crop + 1, size=2).tolist()
        return self.pairs.crop(i, top + down, left + right, self.crop)

    def _cell(self, draw: np.random.Generator) -> int:
        """Number of a cell: a source, a place of it, a shot of that."""
        places = self.places[_drawn(self.chance, draw) if len(self.places) > 1 else 0]
        shots_here = places[int(draw.integers(len(places)))]
        return shots_here[int(draw.integers(len(shots_here)))]

    def _plain(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        i = _drawn(self.share, draw)
        top, left = (int(draw.integers(side - self.crop + 1)) for side in self.plain.shape(i))
        image = self.plain.crop(i, top, left, self.crop)
        return image, image


def _drawn(share: Float[np.ndarray, "k"], draw: np.random.Generator) -> int:
    """A number by its cumulative share."""
    return min(int(np.searchsorted(share, draw.random(), side="right")), len(share) - 1)


class PairPictures(Dataset[Named]):
    """Whole pairs as they are; ``side``: only their central square of that side, in pixels."""

    def __init__(
        self, pairs: PairCache, *, lossless: Lossless | None, side: int | None = None, limit: int | None = None
    ) -> None:
        self.pairs, self.lossless, self.side = pairs, lossless, side
        self.count = min(limit or len(pairs), len(pairs))
        # a test set of clean pictures is its own partner
        self.sigma = 0.0 if pairs.noisy.path == pairs.clean.path else nan

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[str, Pair]:
        noisy, clean = (np.ascontiguousarray(self._central(image)) for image in self._whole(i))
        pair = Pair(noisy=to_tensor(noisy)[None], clean=to_tensor(clean)[None], sigma=torch.tensor([self.sigma]))
        if self.lossless is not None:
            rates = {"bpp_noisy": self.lossless.bpp(noisy), "bpp_clean": self.lossless.bpp(clean)}
            pair = Pair(
                noisy=pair.noisy, clean=pair.clean, sigma=pair.sigma,
                **{name: torch.tensor([rate]) for name, rate in rates.items()},
            )  # fmt: skip
        return self.pairs.noisy.names[i], pair

    def _whole(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pairs.noisy[i], self.pairs.clean[self.pairs.partner[i]]

    def _central(self, image: np.ndarray) -> np.ndarray:
        if self.side is None:
            return image
        top, left = ((s - min(s, self.side)) // 2 for s in image.shape[:2])
        return image[top : top + self.side, left : left + self.side]
