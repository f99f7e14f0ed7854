"""Decoded images -> training crops by sample number, and whole images for validation and test: what a loader asks for.

A sample is a function of (seed, sample number) alone: its image, crop, symmetry and noise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import nan

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from jdcsuite.data.augment import half
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.draw import Draw
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.data.noise import Noise
from jdcsuite.data.paircache import PairCache
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import Pair, UserError

Sample = dict[str, Tensor]
Named = tuple[str, Pair]  # a whole image and its name


class Steps(Sampler[list[int]]):
    """Sample numbers of this rank's share of each batch, from step ``start`` on; ``first``: the number at step 0.

    Place p of the total batch belongs to rank p mod world.
    """

    def __init__(self, *, steps: int, batch: int, rank: int, world: int, start: int = 0, first: int = 0) -> None:
        if batch % world:
            raise UserError(f"data.batch={batch} cannot be split over {world} devices: make it a multiple of {world}")
        self.steps, self.batch, self.rank, self.world, self.start = steps, batch, rank, world, start
        self.first = first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            number = self.first + step * self.batch
            yield list(range(number + self.rank, number + self.batch, self.world))

    def __len__(self) -> int:
        return self.steps  # the whole run is one epoch; Lightning itself subtracts the steps before a resume


class Crops(Dataset[Sample]):
    """Sample number -> clean crop, uniformly from all crop positions of all images.

    ``halved``: probability that a crop is cut twice as large, where the image allows it, and scaled to half.
    ``lossless``: draw the noise here, on the CPU, and measure the code lengths of noisy and clean crop. ``places``:
    give the position of the crop instead of its pixels, for `Resident` to cut.
    """

    def __init__(
        self,
        cache: ImageCache,
        *,
        crop: int,
        seed: int,
        noise: Noise,
        lossless: Lossless | None,
        halved: float = 0.0,
        places: bool = False,
    ) -> None:
        cache.require(crop)
        self.share = _position_shares(cache, crop)
        self.cache, self.crop, self.seed, self.noise, self.lossless = cache, crop, seed, noise, lossless
        self.halved, self.places = halved, places

    def __getitem__(self, n: int) -> Sample:
        draw = _generator(self.seed, n)
        i = _drawn(self.share, draw)
        height, width = self.cache.shape(i)
        halved = self.halved > 0 and draw.random() < self.halved and 2 * self.crop <= min(height, width)
        side = 2 * self.crop if halved else self.crop
        top, left = (int(draw.integers(length - side + 1)) for length in (height, width))
        flips, noise_seed = draw.integers(2, size=3), int(draw.integers(2**62))
        numbers = {"number": n, "noise_seed": noise_seed}
        if self.places:
            numbers |= {"at": self.cache.pixel(i, top, left), "width": width, "scale": 1 + halved}
        sample = {"flips": torch.from_numpy(flips)} | {name: torch.tensor(value) for name, value in numbers.items()}
        if self.places:
            return sample
        clean = np.ascontiguousarray(self.cache.crop(i, top, left, side))
        clean = half(clean) if halved else clean
        sample["clean"] = torch.from_numpy(clean).permute(2, 0, 1).contiguous()
        if self.lossless is None:
            return sample
        noisy = self.noise(to_tensor(clean)[None], Draw.whole(1, seed=noise_seed))[0]
        return sample | {"noisy": noisy, **_code_lengths(self.lossless, noisy=to_bytes(noisy), clean=clean)}


class PairCrops(Dataset[Sample]):
    """Sample number -> (noisy, clean) crop, rotated and mirrored.

    ``cells``: (noisy image, top, left) of squares of ``cell`` pixels; a smaller ``crop`` lies anywhere in its cell.
    ``lossless``: measure the code lengths of both crops, and estimate the noise level, which methods with code lengths
    take as well. ``sampling``: pair draws uniformly from all (cell, ISO) pairs; scene draws a place of a scene first
    and then one of its ISOs, as JDC-N and JDC-CN are published. ``weights``: relative probability of each source;
    within a source, either sampling holds. The last ``cleans`` places of each ``batch`` are crops of ``plain`` images.
    """

    def __init__(
        self,
        pairs: PairCache,
        plain: ImageCache,
        *,
        cells: Int[np.ndarray, "k 3"],
        cell: int,
        crop: int,
        batch: int,
        cleans: int,
        sampling: str,
        seed: int,
        lossless: Lossless | None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.pairs, self.plain, self.cells, self.cell, self.crop = pairs, plain, cells, cell, crop
        self.batch, self.cleans, self.seed, self.lossless = batch, cleans, seed, lossless
        places: dict[int, dict[object, list[int]]] = {}
        for k, (i, top, left) in enumerate(cells.tolist()):
            source = pairs.sources[i] if weights else 0
            if weights and not weights[source]:
                continue
            place = (pairs.partner[i], top, left) if sampling == "scene" else k
            places.setdefault(source, {}).setdefault(place, []).append(k)
        # source -> place -> indices of cells
        self.places = [list(places[source].values()) for source in sorted(places)]
        chances = np.array([weights[source] if weights else 1.0 for source in sorted(places)])
        self.chance = np.cumsum(chances / chances.sum())
        self.share = _position_shares(plain, crop)

    def __getitem__(self, n: int) -> Sample:
        draw = _generator(self.seed, n)
        is_clean = n % self.batch >= self.batch - self.cleans
        noisy, clean = self._plain(draw) if is_clean else self._pair(draw)
        turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
        noisy, clean = (
            np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns)) for image in (noisy, clean)
        )
        return {
            "noisy": torch.from_numpy(np.ascontiguousarray(noisy.transpose(2, 0, 1))),
            "clean": torch.from_numpy(np.ascontiguousarray(clean.transpose(2, 0, 1))),
            "sigma": torch.tensor(
                0.0 if is_clean else nan if self.lossless is None else estimate_sigma(to_tensor(noisy))
            ),
            "number": torch.tensor(n),
            "noise_seed": torch.tensor(int(draw.integers(2**62))),
            **_code_lengths(self.lossless, noisy=noisy, clean=clean),
        }

    def _pair(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        i, top, left = self.cells[self._cell(draw)].tolist()
        down, right = draw.integers(self.cell - self.crop + 1, size=2).tolist()
        return self.pairs.crop(i, top + down, left + right, self.crop)

    def _cell(self, draw: np.random.Generator) -> int:
        """Index of a cell: draws a source, then a place of it, then a cell there."""
        places = self.places[_drawn(self.chance, draw) if len(self.places) > 1 else 0]
        cells = places[int(draw.integers(len(places)))]
        return cells[int(draw.integers(len(cells)))]

    def _plain(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        i = _drawn(self.share, draw)
        top, left = (int(draw.integers(side - self.crop + 1)) for side in self.plain.shape(i))
        image = self.plain.crop(i, top, left, self.crop)
        return image, image


def _generator(seed: int, n: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, n]))


def _position_shares(cache: ImageCache, crop: int) -> Float[np.ndarray, "k"]:
    """Cumulative share of each image in the crop positions of all."""
    shapes = [cache.shape(i) for i in range(len(cache))]
    positions = np.array([(h - crop + 1) * (w - crop + 1) for h, w in shapes], dtype=np.float64)
    return np.cumsum(positions) / positions.sum()


def _drawn(shares: Float[np.ndarray, "k"], draw: np.random.Generator) -> int:
    """An index, drawn by its cumulative share."""
    return min(int(np.searchsorted(shares, draw.random(), side="right")), len(shares) - 1)


def _code_lengths(coder: Lossless | None, **images: np.ndarray) -> Sample:
    """name -> image to "bpp_" + name -> its code length in bits per pixel; {} without a coder."""
    return {f"bpp_{name}": torch.tensor(coder.bpp(image)) for name, image in images.items()} if coder else {}


class WholeImages(Dataset[Named]):
    """Index -> name and Pair of a whole image, or, with ``side``, of its central square of that many pixels.

    ``lossless``: also measure the code lengths of noisy and clean image. ``limit``: at most so many images.
    """

    def __init__(
        self, names: Sequence[str], *, lossless: Lossless | None, side: int | None = None, limit: int | None = None
    ) -> None:
        self.names, self.lossless, self.side = names[:limit], lossless, side

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Named:
        noisy, clean, sigma = self._images(i)
        pair = Pair(noisy=noisy[None], clean=to_tensor(clean)[None], sigma=torch.tensor([sigma]))
        if self.lossless is not None:
            lengths = _code_lengths(self.lossless, noisy=to_bytes(noisy), clean=clean)
            pair = replace(pair, **{name: value[None] for name, value in lengths.items()})
        return self.names[i], pair

    @abstractmethod
    def _images(self, i: int) -> tuple[Float[Tensor, "3 h w"], UInt8[np.ndarray, "h w 3"], float]:
        """Noisy image, clean image and sigma."""

    def _central(self, image: np.ndarray) -> np.ndarray:
        if self.side is None:
            return image
        top, left = ((s - min(s, self.side)) // 2 for s in image.shape[:2])
        return np.ascontiguousarray(image[top : top + self.side, left : left + self.side])


class Pictures(WholeImages):
    """Clean images with fixed noise."""

    def __init__(
        self,
        cache: ImageCache,
        *,
        noise: Noise,
        noise_seed: int,
        lossless: Lossless | None,
        side: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(cache.names, lossless=lossless, side=side, limit=limit)
        self.cache, self.noise, self.noise_seed = cache, noise, noise_seed

    def _images(self, i: int) -> tuple[Float[Tensor, "3 h w"], UInt8[np.ndarray, "h w 3"], float]:
        clean = self._central(self.cache[i])
        return self.noise.fixed(clean, seed=self.noise_seed), clean, self.noise.sigma


class PairPictures(WholeImages):
    """Recorded pairs as they are. Where crops of ``side`` validate a method with code lengths (``lossless``), their
    noise level is estimated, as in training."""

    def __init__(
        self, pairs: PairCache, *, lossless: Lossless | None, side: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(pairs.noisy.names, lossless=lossless, side=side, limit=limit)
        self.pairs = pairs
        self.sigma = 0.0 if pairs.noisy.path == pairs.clean.path else nan  # clean images are their own partners

    def _images(self, i: int) -> tuple[Float[Tensor, "3 h w"], UInt8[np.ndarray, "h w 3"], float]:
        noisy, clean = (self._central(image) for image in self.pairs[i])
        estimated = self.lossless is not None and self.side is not None and self.sigma != 0
        return to_tensor(noisy), clean, estimate_sigma(to_tensor(noisy)) if estimated else self.sigma
