"""Image file <-> samples of 8 or 16 bits with all that a file says about them: what the codec's door reads and writes.

`images.read` is for training, which wants 8-bit RGB and nothing else; here nothing of a picture is lost on the way
through: 16-bit samples (Pillow drops their low bytes), grey, ICC profile, EXIF. Refused in the same one sentence.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt8, UInt16
from PIL import Image, TiffImagePlugin

from jdcsuite.imaging.lossless import load_imagecodecs
from jdcsuite.imaging.read import MAX_PIXELS, eight_bit_rgb, opened, sample_bits, transparent
from jdcsuite.types import UserError

FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
_EXIF_HEAD = b"Exif\0\0"
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _ICC_TAG = 274, 34665, 34853, 34675
# A TIFF's directory mixes what describes the picture with how its bytes lie; only these describe it: description,
# make, model, resolution, software, date, artist, copyright.
_DESCRIBING = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)

Samples = UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Picture:
    """``pixels``: RGB, upright, uint8 or uint16. ``grey``: the file had one channel (here three equal ones).
    ``metadata``: "icc" -> profile, "exif" -> a TIFF stream without orientation, where the file has them."""

    pixels: Samples
    grey: bool = False
    metadata: dict[str, bytes] = field(default_factory=dict)

    @property
    def bit_depth(self) -> int:
        return 8 * self.pixels.itemsize


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """An image file of 8 or 16 bits a sample. UserError as `images.read`, here above 16 bits."""
    path = Path(path)
    with opened(path, max_pixels=max_pixels, deepest=16) as image:
        if sample_bits(image, path) == 16:
            pixels, grey = _deep(image, path)
        else:
            pixels, grey = eight_bit_rgb(image, path), image.mode in ("1", "L", "LA")
        # Last: it takes the orientation out of Pillow's own record.
        return Picture(pixels, grey, _metadata(image))


def rounded(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image file of 8 or 16 bits a sample, rounded to 8. UserError as `read`."""
    pixels = read(path).pixels
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode(picture: Picture, path: Path) -> bytes:
    """The bytes of an image file of the kind that ``path`` ends in. JPEG at quality 95 without chroma subsampling, all
    else lossless. UserError: an unknown ending, 16 bits in a format of 8, sides that the format does not hold."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path} ends in no known image format: use {', '.join(FORMATS)}.")
    pixels = np.ascontiguousarray(to_grey(picture.pixels) if picture.grey else picture.pixels)
    try:
        if kind == "TIFF":
            return _tiff(pixels, picture.metadata)
        if picture.bit_depth == 8:
            return _by_pillow(pixels, picture.metadata, kind)
    except Exception as error:  # the formats' limits come as nearly any type
        size = f"{pixels.shape[0]} x {pixels.shape[1]} pixels"
        raise UserError(f"{path} cannot be written as {kind} ({size}: {error}): try another format.") from error
    if kind != "PNG":
        raise UserError(f"{path} cannot hold 16 bits a sample: write a .png or .tif instead.")
    return _deep_png(pixels, picture.metadata)


def _by_pillow(pixels: np.ndarray, metadata: dict[str, bytes], kind: str) -> bytes:
    options: dict[str, object] = {
        "PNG": {},
        "WEBP": {"lossless": True, "exact": True},
        "JPEG": {"quality": 95, "subsampling": 0},
    }[kind]
    if "icc" in metadata:
        options["icc_profile"] = metadata["icc"]
    if "exif" in metadata:
        options["exif"] = _EXIF_HEAD + metadata["exif"]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) -> (h, w): the rounded mean, which is the channel itself where the three agree."""
    return ((pixels.sum(-1, dtype=np.uint32) + 1) // 3).astype(pixels.dtype)


def _deep(image: Image.Image, path: Path) -> tuple[UInt16[np.ndarray, "h w 3"], bool]:
    """16-bit samples through libpng or tifffile, upright, and whether they were grey."""
    if image.format == "PNG":
        if "transparency" in image.info:
            raise UserError(transparent(path))
        samples = load_imagecodecs().png_decode(path.read_bytes())
        samples = samples[..., None] if samples.ndim == 2 else samples
    else:
        samples = _deep_tiff_samples(path)
    if samples.dtype != np.uint16:
        raise ValueError(f"{samples.dtype} where the file says 16 bits")
    if samples.shape[-1] in (2, 4):
        if samples[..., -1].min() < 65535:
            raise UserError(transparent(path))
        samples = samples[..., :-1]
    grey = samples.shape[-1] == 1
    samples = np.broadcast_to(samples, (*samples.shape[:2], 3))
    return np.ascontiguousarray(_UPRIGHT.get(image.getexif().get(_ORIENTATION), np.asarray)(samples)), grey


def _deep_tiff_samples(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.photometric not in (0, 1, 2):
            raise UserError(f"{path} is a {page.photometric.name} picture and only RGB and grey are handled.")
        size, channels = (page.imagelength, page.imagewidth), page.samplesperpixel
        # Pillow's own size is of no use here: it turns that of some TIFFs.
        if page.planarconfig == 2:
            samples = np.moveaxis(page.asarray().reshape(channels, *size), 0, -1)
        else:
            samples = page.asarray().reshape(*size, channels)
        return np.uint16(65535) - samples if page.photometric == 0 else samples


_UPRIGHT = {  # what undoes each EXIF orientation; 1, and a code outside the standard, is none
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


def _metadata(image: Image.Image) -> dict[str, bytes]:
    """ICC and EXIF of an opened file. EXIF is kept byte for byte where it says nothing of orientation, which the
    pixels no longer have; else, and from a TIFF's own directory, it is written anew."""
    found = {"icc": image.info.get("icc_profile"), "exif": None}
    exif = image.getexif()
    if image.format == "TIFF":
        found["exif"] = _bytes(_describing(exif))
    elif exif.get(_ORIENTATION, 1) == 1:
        found["exif"] = image.info.get("exif")
    elif exif:
        del exif[_ORIENTATION]
        found["exif"] = _bytes(exif)
    return {name: value.removeprefix(_EXIF_HEAD) for name, value in found.items() if value}


def _describing(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _DESCRIBING:
        if tag in exif:
            kept[tag] = exif[tag]
    for tag in (_EXIF_IFD, _GPS_IFD):
        if directory := exif.get_ifd(tag):
            kept.get_ifd(tag).update(directory)
    return kept


def _bytes(exif: Image.Exif) -> bytes | None:
    empty = not dict(exif) and not any(exif.get_ifd(tag) for tag in (_EXIF_IFD, _GPS_IFD))
    return None if empty else exif.tobytes()


def _deep_png(pixels: np.ndarray, metadata: dict[str, bytes]) -> bytes:
    """libpng's file with an iCCP and an eXIf chunk behind its IHDR, which imagecodecs does not write."""
    plain = load_imagecodecs().png_encode(pixels)
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
    """One deflated strip under a directory of Pillow's. Its images have no mode of 16-bit RGB, its `save` leaves out
    the inner directories of EXIF and GPS, and tifffile writes none."""
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
        exif.load(_EXIF_HEAD + metadata["exif"])
        for tag in _DESCRIBING:
            if tag in exif:
                directory[tag] = exif[tag]
        for tag in (_EXIF_IFD, _GPS_IFD):
            if inner := exif.get_ifd(tag):
                directory[tag] = dict(inner)
    return b"II*\0" + struct.pack("<I", 8) + directory.tobytes(8) + strip
