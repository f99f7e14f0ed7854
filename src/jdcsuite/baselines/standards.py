"""Picture -> bytes -> picture by the standard codecs, with the learned models' compress and decompress."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.imaging.lossless import CODERS, Lossless, check_effort, library_version, load_imagecodecs
from jdcsuite.types import UserError


class _Codec(NamedTuple):
    module: str  # prefix of its functions in imagecodecs
    low: float  # range of the quality
    high: float
    whole: bool  # whole numbers only
    meaning: str
    efforts: range = range(0)  # empty where the codec has no such choice
    effort: int | None = None  # default


LOSSY = {
    "jpeg": _Codec("jpeg8", 1, 100, True, "libjpeg's quality, higher is better"),
    "jpeg2000": _Codec("jpeg2k", 10, 60, False, "PSNR in dB aimed at, higher is better"),
    "jpegxl": _Codec("jpegxl", 0.05, 25, False, "Butteraugli distance, lower is better", range(1, 10), 7),
    "avif": _Codec("avif", 0, 99, True, "libavif's quality, higher is better", range(11), 4),
    "webp": _Codec("webp", 0, 100, True, "libwebp's quality, higher is better", range(7), 4),
}
LOSSLESS = {
    name if name in ("png", "jpegls") else f"{name}-lossless": name
    for name in CODERS  # png and jpegls have no other mode
}

# From the smallest file to the largest: about .2 to 5 bpp on Kodak with noise of sigma 5 to 20. The rungs are
# denser where a codec begins to code the noise and its rate leaps (AVIF at 40 to 55, JPEG 2000 at 22 to 30).
LADDERS: dict[str, list[float]] = {
    "jpeg": [1, 5, 10, 20, 35, 50, 65, 80, 90, 93],
    "jpeg2000": [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 32, 34, 36, 38],
    "jpegxl": [20, 12, 8, 5, 3.5, 2.5, 2, 1.5, 1, 0.7, 0.5, 0.3],
    "avif": [8, 15, 22, 30, 35, 40, 45, 50, 55, 60, 65, 70, 78, 85],
    "webp": [0, 2, 5, 10, 20, 35, 50, 65, 80, 90, 100],
    **{name: [0] for name in LOSSLESS},
}


class Standard:
    """A standard codec of imagecodecs, single-threaded, at one quality. It is blind to the noise.

    ``quality``, by codec: see ``LOSSY`` for meaning and range; lossless codecs have one, 0, which may be left
    out. JPEG XL's distance 1 is visually lossless. JPEG 2000's PSNR is OpenJPEG's own estimate against the
    picture given, noise included; pictures of one colour or of a few pixels miss it by far.
    ``effort``: higher is slower; libjxl's effort, libwebp's method, 10 - libavif's speed; None: the default.
    Chroma is 4:4:4, but for WebP, whose lossy mode knows 4:2:0 only.
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
        """The codec, with the effort where it is not the default."""
        return self.codec if self.effort == self._default_effort else f"{self.codec}-e{self.effort}"

    @property
    def version(self) -> str:
        """Codec, effort and libraries, e.g. "jpegxl-e7 imagecodecs 2025.8.2 libjxl 0.11.1"."""
        if self.lossless is not None:
            return self.lossless.version
        effort = "" if self.effort is None else f"-e{self.effort}"
        return f"{self.codec}{effort} {library_version(LOSSY[self.codec].module)}"

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes:
        """``x`` in [0, 1], rounded to 8 bits. ``sigma`` is part of the contract and has no use here.

        UserError where the format cannot hold the size (WebP: 16383, JPEG: 65535).
        """
        image = _to_array(x)
        if self.lossless is not None:
            return self.lossless.encode(image)
        try:
            return bytes(self._encode(image))
        except Exception as error:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise UserError(f"{self.codec} cannot code a picture of {size} pixels: {error}.") from error

    def _encode(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes | bytearray:
        codecs, quality, effort = load_imagecodecs(), self.quality, self.effort
        match self.codec:
            case "jpeg":
                return codecs.jpeg8_encode(image, level=int(quality), subsampling="444", optimize=True)
            case "jpeg2000":
                return codecs.jpeg2k_encode(image, level=quality, codecformat="j2k", reversible=False, numthreads=1)
            case "jpegxl":
                return codecs.jpegxl_encode(image, distance=quality, effort=effort, numthreads=1)
            case "avif":
                return codecs.avif_encode(image, level=int(quality), speed=10 - effort, pixelformat="444", numthreads=1)
            case "webp":
                return codecs.webp_encode(image, level=int(quality), lossless=False, method=effort, numthreads=1)
        raise AssertionError(self.codec)

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        """A picture in [0, 1], each sample k / 255, float32 on the CPU. UserError where bytes are damaged."""
        if self.lossless is not None:
            return _to_tensor(self.lossless.decode(data))
        try:
            image = getattr(load_imagecodecs(), f"{LOSSY[self.codec].module}_decode")(data)
        except Exception as error:
            raise UserError(f"These bytes are no {self.codec} picture, or damaged: {error}.") from error
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"These bytes are no 8-bit RGB {self.codec} picture.")
        return _to_tensor(image)


def _to_array(x: Float[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    eight = x[0].detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return eight.permute(1, 2, 0).numpy().copy()  # in C order with plain strides, which imagecodecs wants


def _to_tensor(image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float() / 255
