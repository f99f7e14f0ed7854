"""8-bit RGB image -> its lossless code, and the length of that code in bits per pixel.

FLLIC-w is guided by the code length of the noisy image, H(noisy); the same coders are the lossless baselines.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jdcsuite.types import UserError


class _Coder(NamedTuple):
    module: str  # prefix of its functions in imagecodecs
    efforts: range  # empty if it has no such setting
    effort: int | None  # default


# Higher efforts take longer: libjxl's effort, libwebp's method, zlib's level, 10 - libavif's speed.
CODERS = {
    "jpegls": _Coder("jpegls", range(0), None),
    "jpegxl": _Coder("jpegxl", range(1, 10), 7),
    "webp": _Coder("webp", range(7), 4),
    "png": _Coder("png", range(1, 10), 6),
    "jpeg2000": _Coder("jpeg2k", range(0), None),
    "avif": _Coder("avif", range(11), 4),
}


class Lossless:
    """A lossless coder of imagecodecs, single-threaded.

    ``effort``: see ``CODERS``; None is the coder's default. UserError: unknown coder or effort, imagecodecs missing or
    built without the coder.

    JPEG-LS codes the channels separately, so they are decorrelated first (``to_planes``). Measured in bpp on Kodak 24,
    Gaussian noise rounded and clipped to 8 bits:

    ============================================  =====  =======  ========  ========
    coder                                         clean  sigma 5  sigma 10  sigma 20
    ============================================  =====  =======  ========  ========
    jpegls on RGB                                 13.07   16.01     17.99     20.44
    jpegls on G, R - G, B - G                      9.46   15.81     18.38     21.23
    jpegls on YCoCg-R                              9.74   15.55     17.99     20.70
    jpegls on the RCT, interleaved                 9.72   15.61     18.13     20.95
    **jpegls on the RCT, stacked (used)**          9.50   15.48     17.97     20.76
    jpegxl, effort 1                              10.93   16.46     18.79     21.39
    jpegxl, effort 7 (every 4th image)             9.32   15.35     17.67     20.36
    ============================================  =====  =======  ========  ========
    """

    def __init__(self, *, coder: str = "jpegls", effort: int | None = None) -> None:
        if coder not in CODERS:
            raise UserError(f"There is no lossless coder {coder!r}: choose one of {', '.join(CODERS)}.")
        self.coder = coder
        self.effort = check_effort(coder, effort, efforts=CODERS[coder].efforts, default=CODERS[coder].effort)
        load_imagecodecs(CODERS[coder].module)

    @property
    def name(self) -> str:
        return self.coder if self.effort is None else f"{self.coder}-e{self.effort}"

    @property
    def version(self) -> str:
        """Coder and libraries, e.g. "jpegxl-e7 imagecodecs 2025.8.2 libjxl 0.11.1"."""
        transform = " rct" if self.coder == "jpegls" else ""
        return f"{self.name} {library_version(CODERS[self.coder].module)}{transform}"

    def bpp(self, image: UInt8[np.ndarray, "h w 3"]) -> float:
        """Bits per pixel of the code with its header, which matters below about 32 x 32 pixels."""
        height, width, _ = image.shape
        return 8 * len(self.encode(image)) / (height * width)

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """UserError: an image too large for the format (WebP: 16383 pixels a side)."""
        try:
            # A copy, because numpy calls an array of one pixel contiguous whatever its strides; imagecodecs does not.
            return bytes(self._encode(image.copy()))
        except Exception as error:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise UserError(f"{self.coder} cannot code an image of {size} pixels: {error}.") from error

    def _encode(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes | bytearray:
        codecs, effort = load_imagecodecs(), self.effort
        match self.coder:
            case "jpegls":
                return encode_jpegls(to_planes(image))
            case "jpegxl":
                return codecs.jpegxl_encode(image, lossless=True, effort=effort, numthreads=1)
            case "webp":
                return codecs.webp_encode(image, level=75, lossless=True, method=effort, numthreads=1)
            case "png":  # measured on two noisy Kodak images: 0.1 and 0.3 bpp less than with zlib's default strategy
                flags = {"filter": codecs.PNG.FILTER.ALL, "strategy": codecs.PNG.STRATEGY.FILTERED}
                return encode_png(image, level=effort, **flags)
            case "jpeg2000":
                return codecs.jpeg2k_encode(image, codecformat="j2k", reversible=True, numthreads=1)
            case "avif":  # level 100 is libavif's lossless mode: identity matrix, no quantisation
                flags = {"speed": 10 - effort, "pixelformat": "444", "numthreads": 1}
                return codecs.avif_encode(image, level=100, **flags)
        raise AssertionError(self.coder)

    def decode(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """The image that was given to `encode`. UserError: bytes damaged or of another coder."""
        try:
            decoded = getattr(load_imagecodecs(), f"{CODERS[self.coder].module}_decode")(data)
            image = from_planes(decoded) if self.coder == "jpegls" else decoded
        except Exception as error:
            raise UserError(f"These bytes are not an image of {self.coder}, or damaged: {error}.") from error
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"These bytes are not an 8-bit RGB image of {self.coder}.")
        return image


def encode_jpegls(plane: UInt8[np.ndarray, "h w"]) -> bytes:
    """imagecodecs assumes that the code is no larger than the samples, which noise exceeds. A sample takes at most 32
    bits (ISO 14495-1, LIMIT), and every bit of stuffing follows 15 others."""
    return load_imagecodecs().jpegls_encode(plane, out=5 * plane.size + 1024)


def encode_png(pixels: np.ndarray, **options: object) -> bytes:
    """imagecodecs leaves no room for the filter byte of each row. zlib adds at most 1/8 + 1/64 to what it is given
    (its deflateBound), and libpng 12 bytes to each chunk of 8 KiB."""
    rows = pixels.nbytes + len(pixels)
    return load_imagecodecs().png_encode(pixels, out=rows + rows // 4 + 1024, **options)


def to_planes(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h3 w"]:
    """JPEG 2000's reversible colour transform (ISO 15444-1, annex G): the planes (R + 2G + B) / 4, B - G and R - G,
    stacked vertically, with every step modulo 256 to stay within 8 bits."""
    red, green, blue = image.astype(np.int16).transpose(2, 0, 1)
    u, v = _signed(blue - green), _signed(red - green)
    return np.concatenate([green + ((u + v) >> 2), u + 128, v + 128]).astype(np.uint8)


def from_planes(planes: UInt8[np.ndarray, "h3 w"]) -> UInt8[np.ndarray, "h w 3"]:
    luma, u, v = planes.astype(np.int16).reshape(3, -1, planes.shape[1])
    u, v = u - 128, v - 128
    green = luma - ((u + v) >> 2)
    return np.stack([green + v, green, green + u], axis=-1).astype(np.uint8)


def _signed(plane: np.ndarray) -> np.ndarray:
    """Modulo 256 into -128..127, so that halving a difference keeps its sign."""
    return plane.astype(np.int8).astype(np.int16)


def load_imagecodecs(module: str | None = None) -> ModuleType:
    """The imagecodecs package, imported on first use: training alone does not need it. ``module``: check that the
    build has it."""
    try:
        import imagecodecs as package
    except ImportError as error:
        raise UserError("Image codecs need the imagecodecs package: pip install imagecodecs.") from error
    if module and not getattr(package, module.upper()).available:
        raise UserError(f"This build of imagecodecs has no {module}: install its wheel with pip.")
    return package


def library_version(module: str) -> str:
    """E.g. "imagecodecs 2025.8.2 libjxl 0.11.1"."""
    package = load_imagecodecs(module)
    return f"imagecodecs {package.__version__} {getattr(package, f'{module}_version')()}"


def check_effort(codec: str, effort: int | None, *, efforts: range, default: int | None) -> int | None:
    """``effort``, or ``default`` if it is None. UserError: not one of ``efforts``."""
    if effort is None:
        return default
    if effort not in efforts:
        allowed = f"takes an effort from {efforts[0]} to {efforts[-1]}" if efforts else "has no effort to set"
        raise UserError(f"{codec} {allowed}: {effort} is not possible.")
    return int(effort)
