"""Opened image file -> its ICC profile and EXIF, and the colour declarations that a `.jdc` file cannot hold."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

EXIF_HEAD = b"Exif\0\0"
ORIENTATION, EXIF_IFD, GPS_IFD = 274, 34665, 34853  # tags
# A TIFF directory mixes tags that describe the image with tags that locate its bytes. These describe it: description,
# make, model, resolution, software, date, artist, copyright.
DESCRIPTIVE = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)

_SHORT, _IMAGEMAGICK = 3, "Raw profile type exif"
_SRGB_GAMMA, _SRGB_CODE = 45455, (1, 13)  # of gAMA; primaries and transfer function of cICP


def read(image: Image.Image) -> dict[str, bytes]:
    """ICC and EXIF of an opened file whose pixels are made upright. EXIF is kept byte for byte but for the two bytes of
    its orientation; from a TIFF's own directory it is written anew."""
    exif = image.getexif()  # loads an eXIf chunk behind the pixels
    raw = _exif_bytes(_descriptive(exif)) if image.format == "TIFF" else image.info.get("exif")
    if raw is None and _IMAGEMAGICK in image.info:
        raw = bytes.fromhex("".join(image.info[_IMAGEMAGICK].split("\n")[3:]))
    metadata = {"icc": image.info.get("icc_profile"), "exif": raw and upright(raw.removeprefix(EXIF_HEAD))}
    return {name: value for name, value in metadata.items() if value}


def is_exif(exif: bytes) -> bool:
    """Whether bytes begin as EXIF does, with the header of a TIFF stream."""
    return exif.removeprefix(EXIF_HEAD)[:4] in (b"II*\0", b"MM\0*")


def upright(exif: bytes) -> bytes:
    """A TIFF stream with the orientation of its first directory, if it has one, set to 1 in place: thumbnail, maker
    note and texts stay where they are."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, offset)
            if tag == ORIENTATION and len(exif) >= offset + 12:  # some write it as LONG, and viewers apply that too
                rest = exif[offset + 10 : offset + 12] if kind == _SHORT else bytes(2)
                return exif[:offset] + struct.pack(f"{order}HHIH", tag, _SHORT, 1, 1) + rest + exif[offset + 12 :]
    except struct.error:  # damaged, but whoever reads it may make something of it
        pass
    return exif


def is_srgb(icc: bytes) -> bool:
    """Whether an ICC profile calls itself sRGB, in ASCII or UTF-16."""
    return any("sRGB".encode(code) in icc for code in ("ascii", "utf-16-be"))


def text_bytes(exif: Mapping[int, object]) -> dict[int, object]:
    """The tags of a directory, texts other than ASCII as the bytes that they were: Pillow writes "?" there."""
    return {
        tag: value if not isinstance(value, str) or value.isascii() else value.encode("latin-1", "replace")
        for tag, value in exif.items()
    }


def lost_colour(image: Image.Image, path: Path) -> tuple[str, ...]:
    """Colour declarations other than sRGB that are neither ICC nor EXIF, as "gAMA 1"; viewers of the decoded image will
    not apply them. PNG: the profile and sRGB take precedence over gAMA, and cICP over all."""
    if image.format != "PNG":
        return ()
    chunks = _chunks(path)
    if len(code := chunks.get(b"cICP", b"")) == 4 and tuple(code[:2]) != _SRGB_CODE:
        return (f"cICP {'-'.join(map(str, code))}",)
    if b"sRGB" in chunks or b"iCCP" in chunks or len(gamma := chunks.get(b"gAMA", b"")) != 4:
        return ()
    (value,) = struct.unpack(">I", gamma)
    return () if abs(value - _SRGB_GAMMA) < 500 else (f"gAMA {value / 1e5:g}",)


def _chunks(path: Path) -> dict[bytes, bytes]:
    """The chunks of a PNG before its pixels; of profiles only the name."""
    chunks: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            (length,) = struct.unpack(">I", head[:4])
            chunks[head[4:]] = file.read(min(length, 64))
            file.seek(max(0, length - 64) + 4, 1)
    return chunks


def _descriptive(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    texts = text_bytes(exif)
    kept.update({tag: texts[tag] for tag in DESCRIPTIVE if tag in texts})
    for tag in (EXIF_IFD, GPS_IFD):
        if directory := exif.get_ifd(tag):
            kept.get_ifd(tag).update(text_bytes(directory))
    return kept


def _exif_bytes(exif: Image.Exif) -> bytes | None:
    empty = not dict(exif) and not any(exif.get_ifd(tag) for tag in (EXIF_IFD, GPS_IFD))
    return None if empty else exif.tobytes()
