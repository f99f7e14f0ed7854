"""Picture -> the bytes of an image file; `atomic.write` puts them on disk."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from jdcsuite.imaging.lossless import encode_png
from jdcsuite.imaging.metadata import DESCRIPTIVE, EXIF_HEAD, EXIF_IFD, GPS_IFD, is_exif, text_bytes
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_grey
from jdcsuite.types import UserError

FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
_ICC_TAG = 34675
MAX_PNG_ICC = 1 << 20  # bytes: Pillow opens no PNG with a larger one


def encode(picture: Picture, path: Path) -> bytes:
    """The bytes of an image file of the format that ``path`` ends in: JPEG at quality 95 without chroma subsampling,
    the others lossless. UserError: unknown suffix, 16 bits in a format of 8, an image too large for the format."""
    kind = FORMATS.get(path.suffix.lower())
    if kind == "PNG" and len(picture.metadata.get("icc", b"")) > MAX_PNG_ICC:
        raise UserError(
            f"{path} would have an ICC profile of more than 1 MiB, which many programs refuse: write a .tif."
        )
    if kind is None:
        raise UserError(f"{path} ends in no known image format: use {', '.join(FORMATS)}.")
    if not is_exif(picture.metadata.get("exif", b"")):  # a file that many programs would refuse
        picture = replace(picture, metadata={k: v for k, v in picture.metadata.items() if k != "exif"})
    pixels = np.ascontiguousarray(to_grey(picture.pixels) if picture.grey else picture.pixels)
    try:
        if kind == "TIFF":
            return _tiff(pixels, picture.metadata)
        if picture.bit_depth == 8:
            return _with_pillow(pixels, picture.metadata, kind)
    except Exception as error:  # exceeding a format's limits raises nearly any type
        size = f"{pixels.shape[0]} x {pixels.shape[1]} pixels"
        raise UserError(f"{path} cannot be written as {kind} ({size}: {error}): try another format.") from error
    if kind != "PNG":
        raise UserError(f"{path} cannot hold 16 bits per sample: write a .png or .tif instead.")
    return _deep_png(pixels, picture.metadata)


def _with_pillow(pixels: np.ndarray, metadata: dict[str, bytes], kind: str) -> bytes:
    options: dict[str, object] = {
        "PNG": {},
        "WEBP": {"lossless": True, "exact": True},
        "JPEG": {"quality": 95, "subsampling": 0},
    }[kind]
    if "icc" in metadata:
        options["icc_profile"] = metadata["icc"]
    if "exif" in metadata:
        options["exif"] = EXIF_HEAD + metadata["exif"]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _deep_png(pixels: np.ndarray, metadata: dict[str, bytes]) -> bytes:
    """A PNG by libpng, with iCCP and eXIf chunks after its IHDR, which imagecodecs does not write."""
    plain = encode_png(pixels)
    chunks = b""
    if "icc" in metadata:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata["icc"]))
    if "exif" in metadata:
        chunks += _chunk(b"eXIf", metadata["exif"])
    head = 8 + 25  # signature and IHDR
    return plain[:head] + chunks + plain[head:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _tiff(pixels: np.ndarray, metadata: dict[str, bytes]) -> bytes:
    """One deflated strip under a directory made by Pillow. Pillow has no mode for 16-bit RGB and its `save` omits the
    EXIF and GPS directories; tifffile does not write them either."""
    strip = zlib.compress(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes())
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    depth = (8 * pixels.itemsize,) * channels
    layout = {256: width, 257: height, 258: depth, 259: 8, 262: 2 if channels == 3 else 1}
    for tag, value in (layout | {273: 0, 277: channels, 278: height, 279: len(strip)}).items():
        directory[tag] = value
    if "icc" in metadata:
        directory[_ICC_TAG] = metadata["icc"]
        directory.tagtype[_ICC_TAG] = 7  # undefined: bytes
    if "exif" in metadata:
        exif = Image.Exif()
        exif.load(EXIF_HEAD + metadata["exif"])
        texts = text_bytes(exif)
        for tag in DESCRIPTIVE:
            if tag in texts:
                directory[tag] = texts[tag]
        for tag in (EXIF_IFD, GPS_IFD):
            if inner := exif.get_ifd(tag):
                directory[tag] = text_bytes(inner)
    return b"II*\0" + struct.pack("<I", 8) + directory.tobytes(8) + strip
