"""Segments of coded bytes + the picture's size <-> one self-contained byte string, the `.jdc` file.

Little-endian: magic ``JDC`` and version (4 bytes), model id (8), height and width (u32 each), entropy guide h
(u16, units of 1/256 bpp), number of segments (u8), length of each segment (u32), the segments, CRC-32 of all
that came before (u32).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC, VERSION = b"JDC", 1
_FIXED = struct.Struct("<3sB8sIIHB")
_LENGTH, _CRC = struct.Struct("<I"), struct.Struct("<I")
MAX_SIDE, MAX_PIXELS, MAX_SEGMENTS = 1 << 20, 1 << 30, 16


class CorruptFile(Exception):
    """The bytes are not a whole `.jdc` file, or not one that these weights wrote; the text says which."""


@dataclass(frozen=True)
class Contents:
    """``h``: entropy guide in units of 1/256 bpp (0 = none). ``segments``: the codec's own byte strings."""

    model_id: bytes
    height: int
    width: int
    h: int
    segments: list[bytes]


def header_bytes(num_segments: int) -> int:
    """Bytes of a file that are not payload; the same for every picture of a codec."""
    return _FIXED.size + num_segments * _LENGTH.size + _CRC.size


def pack(contents: Contents) -> bytes:
    if len(contents.model_id) != 8 or len(contents.segments) > MAX_SEGMENTS:
        raise ValueError("a model id has 8 bytes, and a file at most 16 segments")
    _check_size(contents.height, contents.width, ValueError)
    head = _FIXED.pack(
        MAGIC, VERSION, contents.model_id, contents.height, contents.width, contents.h, len(contents.segments)
    )
    lengths = b"".join(_LENGTH.pack(len(s)) for s in contents.segments)
    body = head + lengths + b"".join(contents.segments)
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> Contents:
    """Raises `CorruptFile`, before anything is allocated, for whatever `pack` did not write."""
    if len(data) < _FIXED.size + _CRC.size or data[:3] != MAGIC:
        raise CorruptFile("not a .jdc file")
    _, version, model_id, height, width, h, count = _FIXED.unpack_from(data)
    if version > VERSION:
        raise CorruptFile(f"a .jdc file of version {version}; this jdcsuite reads up to {VERSION}: update it")
    if version < 1:
        raise CorruptFile("not a .jdc file")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise CorruptFile("the checksum does not match: the file is damaged or incomplete")
    _check_size(height, width, CorruptFile)
    if count > MAX_SEGMENTS or len(data) < header_bytes(count):
        raise CorruptFile("the segment lengths do not fit the file")
    lengths = [_LENGTH.unpack_from(data, _FIXED.size + i * _LENGTH.size)[0] for i in range(count)]
    if header_bytes(count) + sum(lengths) != len(data):
        raise CorruptFile("the segment lengths do not fit the file")
    segments, start = [], _FIXED.size + count * _LENGTH.size
    for length in lengths:
        segments.append(data[start : start + length])
        start += length
    return Contents(model_id, height, width, h, segments)


def _check_size(height: int, width: int, error: type[Exception]) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise error(f"a picture of {height} x {width} pixels is outside the format's limits")
