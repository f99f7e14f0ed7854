"""Image, codecs and targets of size or PSNR -> the file that meets them: the right quality of an any-rate codec, the
right codec of several."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jdcsuite.coding.container import unpack
from jdcsuite.files.search import highest
from jdcsuite.types import Request, UserError

if TYPE_CHECKING:
    from jdcsuite.coding.codec import Codec

TOP = 1000  # highest quality in tenths, the unit of files
# Approximate octaves of size and dB to the input per tenth of a quality: FLLIC's rungs of lmbda 2048 and 8192 have .784
# and 1.312 bpp on noisy images; at high rate the squared error of the codec halves where lmbda doubles.
OCTAVES, DECIBELS = 0.0037, 0.03
NEAR_OCTAVES, NEAR_DECIBELS = math.log2(1.015), 0.05  # the search ends this close to the target
MAX_FILES = 3  # coded when the first one is within the size limit
MAX_PSNR = 99.0  # dB, for equal images


@dataclass(frozen=True)
class CompressionOptions:
    """Settings and targets of every file. ``sigma``: grey levels (None: estimated). ``quality`` 0..100 and ``strength``
    0..1: of any-rate codecs (None: chosen by the codec). ``target_bpp``, ``max_size`` (bytes): upper limits.
    ``target_psnr``: lower limit in dB, against the input. ``tile``: side in pixels."""

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

    def max_bytes(self, pixels: int) -> float:
        by_rate = math.inf if self.target_bpp is None else self.target_bpp * pixels / 8
        return min(by_rate, math.inf if self.max_size is None else self.max_size)


@dataclass(frozen=True)
class EncodedFile:
    """The bytes of a `.jdc` file. ``weights``: of its codec. ``measure``: bytes -> PSNR in dB against the input."""

    weights: Path
    data: bytes
    measure: Callable[[bytes], float]

    @property
    def codec_name(self) -> str:
        """Name of the run, or of a weights file outside of one."""
        return self.weights.parent.name if self.weights.name == "weights.safetensors" else self.weights.stem

    @cached_property
    def request(self) -> Request | None:
        return unpack(self.data).side.request

    @cached_property
    def psnr(self) -> float:
        return min(self.measure(self.data), MAX_PSNR)

    @property
    def was_decoded(self) -> bool:
        return "psnr" in self.__dict__

    def describe(self, pixels: int) -> str:
        parts = [f"quality {self.request.quality / 10:g}"] if self.request else []
        parts.append(f"{8 * len(self.data) / pixels:.3f} bpp")
        return ", ".join([*parts, f"{self.psnr:.2f} dB"] if self.was_decoded else parts)


@dataclass
class ImageEncoder:
    """One image and one codec. ``encode``: sigma, quality, strength -> bytes of a file. ``measure``: see `EncodedFile`.
    ``metadata``: what the file keeps in addition to the image."""

    weights: Path
    codec: Codec
    pixels: np.ndarray
    options: CompressionOptions
    encode: Callable[..., bytes]
    measure: Callable[[bytes], float]
    metadata: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def default_request(self) -> Request:
        """The header with the quality that the codec chooses; the noise is estimated once."""
        options = self.options
        header = self.codec.header(self.pixels, sigma=options.sigma, strength=options.strength, tile=options.tile)
        return header.side.request

    def file(self, quality: int | None = None) -> EncodedFile:
        """``quality`` in tenths; None: that of the options, or chosen by the codec."""
        options = self.options
        if quality is None:
            data = self.encode(sigma=options.sigma, quality=options.quality, strength=options.strength)
        else:
            sigma = self.default_request.noise / 16
            data = self.encode(sigma=sigma, quality=quality / 10, strength=options.strength)
        return EncodedFile(self.weights, data, self.measure)

    def estimated_octaves(self, quality: int) -> float:
        """log2 of the approximate size in bytes; ``quality`` in tenths."""
        size = self.codec.estimate_bytes(
            self.pixels, sigma=self.default_request.noise / 16, quality=quality / 10, strength=self.options.strength,
            tile=self.options.tile, metadata=self.metadata,
        )  # fmt: skip
        return math.log2(size)


def choose(encoders: list[ImageEncoder], pixels: int) -> EncodedFile:
    """The file that meets the targets: with a PSNR target the smallest one, else, of several codecs, the one with the
    highest PSNR. UserError: none meets them; it names the nearest of each codec."""
    options = encoders[0].options
    if not options.has_target:
        return encoders[0].file()
    max_bytes, min_psnr = options.max_bytes(pixels), options.target_psnr
    files = [_nearest(encoder, max_bytes, min_psnr) for encoder in encoders]
    meeting = [f for f in files if len(f.data) <= max_bytes and (min_psnr is None or f.psnr >= min_psnr)]
    if not meeting:
        decode = min_psnr is not None or len(files) > 1
        nearest = "; ".join(f"{file.codec_name}: {_reached(file, pixels, decode=decode)}" for file in files)
        what = "quality" if len(files) == 1 and encoders[0].codec.any_rate else "rung"
        raise UserError(f"no {what} meets the target ({nearest}): give another target or more --weights")
    if min_psnr is not None:
        return min(meeting, key=lambda file: len(file.data))
    return max(meeting, key=lambda file: file.psnr) if len(encoders) > 1 else meeting[0]


def _reached(file: EncodedFile, pixels: int, *, decode: bool) -> str:
    if decode:
        _ = file.psnr  # adds the PSNR to the description
    return f"{len(file.data)} bytes, {file.describe(pixels)}"


def _nearest(encoder: ImageEncoder, max_bytes: float, min_psnr: float | None) -> EncodedFile:
    """The file of one codec that meets the target or comes nearest to it."""
    if not encoder.codec.any_rate:
        return encoder.file()
    return _within_size(encoder, max_bytes) if min_psnr is None else _with_psnr(encoder, min_psnr)


def _within_size(encoder: ImageEncoder, max_bytes: float) -> EncodedFile:
    """The best file of at most ``max_bytes``, or that of quality 0.

    The quality is searched with estimated sizes, which are off by a few per cent, and corrected with coded ones: raised
    while there is room, lowered where the file is too large.
    """
    limit, files = math.log2(max_bytes), {}

    def octaves(quality: int) -> float:
        if quality not in files:
            files[quality] = encoder.file(quality)
        return math.log2(len(files[quality].data))

    start = encoder.default_request.quality
    estimated = highest(encoder.estimated_octaves, limit, top=TOP, start=start, slope=OCTAVES, near=NEAR_OCTAVES)
    slope = max(estimated.slope(), OCTAVES / 4)
    quality, step = estimated.best or 0, 1
    if octaves(quality) <= limit:
        search = highest(octaves, limit, top=TOP, start=quality, slope=slope, near=2 * NEAR_OCTAVES, tries=MAX_FILES)
        return files[search.best]
    while octaves(quality) > limit and quality > 0:
        step = max(2 * step, math.ceil((octaves(quality) - limit + NEAR_OCTAVES / 2) / slope))
        quality = max(0, quality - step)
    return files[quality]


def _with_psnr(encoder: ImageEncoder, min_psnr: float) -> EncodedFile:
    """The smallest file of at least ``min_psnr`` dB, or the best of those tried."""
    files: dict[int, EncodedFile] = {}

    def negative_psnr(place: int) -> float:
        """Non-decreasing, as `highest` needs: places count down from the top quality."""
        files[place] = encoder.file(TOP - place)
        return -files[place].psnr

    start = TOP - encoder.default_request.quality
    search = highest(negative_psnr, -min_psnr, top=TOP, start=start, slope=DECIBELS, near=NEAR_DECIBELS)
    return max(files.values(), key=lambda file: file.psnr) if search.best is None else files[search.best]
