"""A picture, weights and what its file shall be -> the file: of one network of any rate at the quality that fits, of
several weights the one that meets the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jdcsuite.coding.container import Request, unpack
from jdcsuite.files.search import highest
from jdcsuite.types import UserError

if TYPE_CHECKING:
    from jdcsuite.coding.codec import Codec

TOP = 1000  # tenths of a quality, as files hold it
# Octaves of size, and dB to the input, that a tenth of a quality adds, about: FLLIC's rungs of lmbda 2048 and 8192 have
# .784 and 1.312 bpp on noisy pictures; at high rate the coder's error halves where lmbda doubles.
OCTAVES, DECIBELS = 0.0037, 0.03
NEAR_OCTAVES, NEAR_DECIBELS = math.log2(1.015), 0.05  # good enough
IMPROVED = 3  # files at most, where the first leaves room
HIGHEST_PSNR = 99.0  # dB, of equal pictures


@dataclass(frozen=True)
class Asked:
    """What every file shall be. ``sigma``: grey levels, None = estimated. ``quality`` 0..100 and ``strength`` 0..1, of
    weights of any rate (None: the codec chooses). ``target_bpp`` and ``max_size`` (bytes): at most. ``target_psnr``: dB
    to the input, at least. ``tile``: side in pixels."""

    sigma: float | None = None
    quality: float | None = None
    strength: float | None = None
    target_bpp: float | None = None
    target_psnr: float | None = None
    max_size: int | None = None
    tile: int = 1024

    @property
    def has_target(self) -> bool:
        return any(target is not None for target in (self.target_bpp, self.target_psnr, self.max_size))

    def most_bytes(self, pixels: int) -> float:
        by_rate = math.inf if self.target_bpp is None else self.target_bpp * pixels / 8
        return min(by_rate, math.inf if self.max_size is None else self.max_size)


@dataclass(frozen=True)
class File:
    """``weights``: that wrote it. ``decode``: a file's bytes -> dB to the input."""

    weights: Path
    data: bytes
    decode: Callable[[bytes], float]

    @property
    def name(self) -> str:
        """A run's, or that of a weights file by itself."""
        return self.weights.parent.name if self.weights.name == "weights.safetensors" else self.weights.stem

    @cached_property
    def request(self) -> Request | None:
        return unpack(self.data).side.request

    @cached_property
    def psnr(self) -> float:
        return min(self.decode(self.data), HIGHEST_PSNR)

    @property
    def was_decoded(self) -> bool:
        return "psnr" in self.__dict__

    def described(self, pixels: int) -> str:
        parts = [f"quality {self.request.quality / 10:g}"] if self.request else []
        parts.append(f"{8 * len(self.data) / pixels:.3f} bpp")
        return ", ".join([*parts, f"{self.psnr:.2f} dB"] if self.was_decoded else parts)


@dataclass
class Coding:
    """One picture with one codec. ``encode``: sigma, quality and strength -> a file's bytes. ``decode``: as `File`'s.
    ``metadata``: what the file keeps beside the picture."""

    weights: Path
    codec: Codec
    pixels: np.ndarray
    asked: Asked
    encode: Callable[..., bytes]
    decode: Callable[[bytes], float]
    metadata: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def unasked(self) -> Request:
        """What the codec would choose; the noise is estimated once."""
        asked = self.asked
        header = self.codec.header(self.pixels, sigma=asked.sigma, strength=asked.strength, tile=asked.tile)
        return header.side.request

    def file(self, quality: int | None = None) -> File:
        """``quality`` in tenths; None: as asked, or as the codec chooses."""
        asked = self.asked
        if quality is None:
            data = self.encode(sigma=asked.sigma, quality=asked.quality, strength=asked.strength)
        else:
            data = self.encode(sigma=self.unasked.noise / 16, quality=quality / 10, strength=asked.strength)
        return File(self.weights, data, self.decode)

    def octaves(self, quality: int) -> float:
        """log2 of the bytes of a file, about; ``quality`` in tenths."""
        size = self.codec.estimate_bytes(
            self.pixels, sigma=self.unasked.noise / 16, quality=quality / 10, strength=self.asked.strength,
            tile=self.asked.tile, metadata=self.metadata,
        )  # fmt: skip
        return math.log2(size)


def choose(codings: list[Coding], pixels: int) -> File:
    """The file that meets what was asked: with a PSNR the smallest that has it, else of several weights the one nearest
    to the input. UserError: none does, with what comes nearest."""
    asked = codings[0].asked
    if not asked.has_target:
        return codings[0].file()
    most, least = asked.most_bytes(pixels), asked.target_psnr
    tried = [_closest(coding, most, least) for coding in codings]
    meeting = [one for one in tried if len(one.data) <= most and (least is None or one.psnr >= least)]
    if not meeting:
        compared = least is not None or len(tried) > 1
        reached = "; ".join(f"{one.name}: {_reached(one, pixels, compared=compared)}" for one in tried)
        what = "quality" if len(tried) == 1 and codings[0].codec.any_rate else "rung"
        raise UserError(f"no {what} meets the target ({reached}): give another target or more --weights")
    if least is not None:
        return min(meeting, key=lambda one: len(one.data))
    return max(meeting, key=lambda one: one.psnr) if len(codings) > 1 else meeting[0]


def _reached(one: File, pixels: int, *, compared: bool) -> str:
    if compared:
        _ = one.psnr  # described, too
    return f"{len(one.data)} bytes, {one.described(pixels)}"


def _closest(coding: Coding, most: float, least: float | None) -> File:
    """The file of one codec that meets the target or comes nearest to it."""
    if not coding.codec.any_rate:
        return coding.file()
    return _at_most(coding, most) if least is None else _at_least(coding, least)


def _at_most(coding: Coding, most: float) -> File:
    """The best file of at most ``most`` bytes, or that of quality 0: searched by estimates, then coded. Estimates are
    off by a few per cent: from a file that is too large the quality goes down, one that leaves room is improved."""
    limit, files = math.log2(most), {}

    def octaves(quality: int) -> float:
        if quality not in files:
            files[quality] = coding.file(quality)
        return math.log2(len(files[quality].data))

    estimated = highest(coding.octaves, limit, top=TOP, start=coding.unasked.quality, slope=OCTAVES, near=NEAR_OCTAVES)
    slope = max(estimated.slope(), OCTAVES / 4)
    quality, step = estimated.best or 0, 1
    if octaves(quality) <= limit:
        found = highest(octaves, limit, top=TOP, start=quality, slope=slope, near=2 * NEAR_OCTAVES, tries=IMPROVED)
        return files[found.best]
    while octaves(quality) > limit and quality > 0:
        step = max(2 * step, math.ceil((octaves(quality) - limit + NEAR_OCTAVES / 2) / slope))
        quality = max(0, quality - step)
    return files[quality]


def _at_least(coding: Coding, least: float) -> File:
    """The smallest file of at least ``least`` dB, or the best one that was tried."""
    files: dict[int, File] = {}

    def falling(down: int) -> float:
        """The search wants what grows: places are counted from the top."""
        files[down] = coding.file(TOP - down)
        return -files[down].psnr

    start = TOP - coding.unasked.quality
    found = highest(falling, -least, top=TOP, start=start, slope=DECIBELS, near=NEAR_DECIBELS)
    return max(files.values(), key=lambda one: one.psnr) if found.best is None else files[found.best]
