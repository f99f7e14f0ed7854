"""Image -> bytes -> image by the standard codecs, with the interface of the learned codecs."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.baselines.external import EXTERNAL, External
from jdcsuite.imaging.lossless import CODERS, Lossless, check_effort, library_version, load_imagecodecs
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import UserError


class _Codec(NamedTuple):
    module: str  # prefix of its functions in imagecodecs
    low: float  # range of the quality
    high: float
    whole: bool  # whole numbers only
    meaning: str
    efforts: range = range(0)  # empty if the codec has no such setting
    effort: int | None = None  # default
    chroma: str | None = "444"  # subsampling, where there is a choice


# AVIF in 4:2:0 is worse on clean images, and better on noisy ones, since it leaves out noise of chroma: four Kodak
# images have 35.9 dB at 0.62 bpp (4:2:0: 35.0 at 0.58), with noise of sigma 10 31.6 at 1.32 (4:2:0: 32.2 at 0.89).
# Effort 6 is .4 to .8 dB better than 4, and seven times slower; 7 is no better, and 1.5 to 2.5 times as slow.
LOSSY = {
    "jpeg": _Codec("jpeg8", 1, 100, True, "libjpeg's quality, higher is better"),
    "jpeg-420": _Codec("jpeg8", 1, 100, True, "libjpeg's quality, higher is better", chroma="420"),
    "jpeg2000": _Codec("jpeg2k", 10, 60, False, "PSNR in dB aimed at, higher is better", chroma=None),
    "jpegxl": _Codec("jpegxl", 0.05, 25, False, "Butteraugli distance, lower is better", range(1, 10), 7, None),
    "avif": _Codec("avif", 0, 99, True, "libavif's quality, higher is better", range(11), 6),
    "avif-420": _Codec("avif", 0, 99, True, "libavif's quality, higher is better", range(11), 6, "420"),
    "webp": _Codec("webp", 0, 100, True, "libwebp's quality, higher is better", range(7), 4, "420"),
}
LOSSLESS = {
    name if name in ("png", "jpegls") else f"{name}-lossless": name
    for name in CODERS  # png and jpegls have no other mode
}

# Qualities from the smallest to the largest file, about .2 to 5 bpp on Kodak with noise of sigma 5 to 20. They are
# denser where a codec begins to code the noise and its rate jumps (AVIF at 40 to 55, JPEG 2000 at 22 to 30).
LADDERS: dict[str, list[float]] = {
    "jpeg": [1, 5, 10, 20, 35, 50, 65, 80, 90, 93],
    "jpeg-420": [1, 5, 10, 20, 35, 50, 65, 80, 90, 95, 98],
    "jpeg2000": [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 34, 36, 38],
    "jpegxl": [20, 12, 8, 5, 3.5, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.3],
    "avif": [8, 15, 22, 30, 35, 40, 45, 50, 55, 60, 65, 70, 78, 85],
    "avif-420": [8, 15, 22, 30, 35, 40, 45, 50, 55, 60, 65, 70, 78, 85, 92],
    "webp": [0, 2, 5, 10, 20, 35, 50, 65, 80, 90, 100],
    **{name: [0] for name in LOSSLESS},
}


class Standard:
    """A standard codec of imagecodecs, single-threaded, at one quality. It makes no use of the noise level.

    ``quality``: see ``LOSSY`` for meaning and range; for lossless codecs 0 or None. JPEG XL is visually lossless at
    distance 1. The PSNR of JPEG 2000 is OpenJPEG's own estimate against its noisy input; images of one colour or of a
    few pixels miss it by far. ``effort``: higher is slower; libjxl's effort, libwebp's method, 10 - libavif's speed;
    None: the default. Chroma is 4:4:4, except in codecs named -420 and in WebP, whose lossy mode supports only 4:2:0.
    UserError: unknown codec, quality or effort out of range, imagecodecs missing or built without the codec.
    """

    def __init__(self, *, codec: str, quality: float | None = None, effort: int | None = None) -> None:
        if codec not in LADDERS:
            raise UserError(f"There is no codec {codec!r}: choose one of {', '.join(LADDERS)}.")
        self.codec = codec
        self.lossless: Lossless | None = None
        if codec in LOSSLESS:
            if quality not in (None, 0):
                raise UserError(f"{codec} loses nothing: leave its quality out or 0, not {quality:g}.")
            self.quality = 0.0
            self.lossless = Lossless(coder=LOSSLESS[codec], effort=effort)
            self.effort = self.lossless.effort
            self._default_effort = CODERS[LOSSLESS[codec]].effort
            return
        spec = LOSSY[codec]
        if quality is None or not spec.low <= quality <= spec.high or (spec.whole and quality != int(quality)):
            number = "whole-number quality" if spec.whole else "quality"
            raise UserError(
                f"{codec} takes a {number} from {spec.low:g} to {spec.high:g} ({spec.meaning}), "
                f"not {quality}; its ladder: {', '.join(f'{q:g}' for q in LADDERS[codec])}."
            )
        self.quality = float(quality)
        self.effort = check_effort(codec, effort, efforts=spec.efforts, default=spec.effort)
        self._default_effort = spec.effort
        load_imagecodecs(spec.module)

    @property
    def name(self) -> str:
        """The codec, with the effort if it is not the default."""
        return self.codec if self.effort == self._default_effort else f"{self.codec}-e{self.effort}"

    @property
    def version(self) -> str:
        """Codec, effort and libraries, e.g. "jpegxl-e7 imagecodecs 2025.8.2 libjxl 0.11.1"."""
        if self.lossless is not None:
            return self.lossless.version
        effort = "" if self.effort is None else f"-e{self.effort}"
        return f"{self.codec}{effort} {library_version(LOSSY[self.codec].module)}"

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes:
        """``x`` in [0, 1] is rounded to 8 bits. ``sigma`` is ignored; it is there for the interface of `Compressor`.

        UserError: the format does not support the size (WebP: up to 16383, JPEG: up to 65535).
        """
        image = to_bytes(x[0].detach()).copy()  # a copy, because imagecodecs wants plain strides
        if self.lossless is not None:
            return self.lossless.encode(image)
        try:
            return bytes(self._encode(image))
        except Exception as error:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise UserError(f"{self.codec} cannot code an image of {size} pixels: {error}.") from error

    def _encode(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes | bytearray:
        codecs, quality, effort, spec = load_imagecodecs(), self.quality, self.effort, LOSSY[self.codec]
        match spec.module:
            case "jpeg8":
                return codecs.jpeg8_encode(image, level=int(quality), subsampling=spec.chroma, optimize=True)
            case "jpeg2k":
                return codecs.jpeg2k_encode(image, level=quality, codecformat="j2k", reversible=False, numthreads=1)
            case "jpegxl":
                return codecs.jpegxl_encode(image, distance=quality, effort=effort, numthreads=1)
            case "avif":
                flags = {"speed": 10 - effort, "pixelformat": spec.chroma, "numthreads": 1}
                return codecs.avif_encode(image, level=int(quality), **flags)
            case "webp":
                return codecs.webp_encode(image, level=int(quality), lossless=False, method=effort, numthreads=1)
        raise AssertionError(self.codec)

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        """The image in [0, 1], each sample k / 255, float32 on the CPU. UserError: damaged bytes."""
        if self.lossless is not None:
            return to_tensor(self.lossless.decode(data))[None]
        try:
            image = getattr(load_imagecodecs(), f"{LOSSY[self.codec].module}_decode")(data)
        except Exception as error:
            raise UserError(f"These bytes are no {self.codec} image, or damaged: {error}.") from error
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"These bytes are no 8-bit RGB {self.codec} image.")
        return to_tensor(image)[None]


def ladder(name: str) -> list[float] | None:
    """Qualities of a standard or external codec, from the smallest to the largest file; None for another name."""
    return list(map(float, EXTERNAL[name].ladder)) if name in EXTERNAL else LADDERS.get(_effort(name)[0])


def standard(name: str, quality: float) -> Standard | External:
    """The codec of a name that has a `ladder`; ``avif-e4`` is AVIF at effort 4. NotInstalled: its programs are not
    installed. Other errors as `Standard`."""
    if name in EXTERNAL:
        return EXTERNAL[name](quality=quality)
    codec, effort = _effort(name)
    return Standard(codec=codec, quality=quality, effort=effort)


def _effort(name: str) -> tuple[str, int | None]:
    """``jpegxl-e9`` -> jpegxl and 9."""
    codec, dash, effort = name.rpartition("-e")
    return (codec, int(effort)) if dash and re.fullmatch(r"\d{1,2}", effort) else (name, None)
