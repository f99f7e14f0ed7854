"""Coded tiles + what a decoder must know of the picture <-> one self-contained byte string, the `.jdc` file.

Little-endian; `docs/format.md` describes every field. The layout is canonical: a file that opens packs to the very
bytes that it was. How much memory a file can ask for follows from its length alone (see ``PIXELS_PER_BYTE``).
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field

from jdcsuite.types import CorruptFile

MAGIC, VERSION = b"JDC", 3
PLAIN = 2  # version of the files of codecs that serve one rate, which have no request; version 1 was never released
RGB, GREY = 0, 1
H_UNIT = 256  # the entropy guide is sent in units of 1/256 bpp
SAME_MACHINE = 1  # the one flag
METADATA = {"icc": 1, "exif": 2}
MAX_SIDE, MAX_PIXELS, MAX_SEGMENTS, MAX_METADATA = 1 << 20, 1 << 30, 16, 16 << 20
TILE_STEP, MAX_TILE = 64, 4096

# A tile holds at least a byte for every 64 x 64 pixels begun (0.002 bpp): zeros fill up the few flat tiles that code
# to less. Without this a hundred bytes with the right checksums could ask for a gigapixel.
PIXELS_PER_BYTE = 64 * 64

_FIXED = struct.Struct("<3sBB8sIIBBIHBB")
_REQUEST = struct.Struct("<HHB")
_ENTRY, _WORD = struct.Struct("<BI"), struct.Struct("<I")


@dataclass(frozen=True)
class Tile:
    """``checksum``: CRC-32 of the tile's symbols as int32, little-endian. ``segments``: the codec's byte strings."""

    checksum: int
    segments: list[bytes]


@dataclass(frozen=True)
class Request:
    """What a codec of any rate and noise was asked for, in the units of the file.

    ``quality``: 0 to 1000, tenths of 0 (smallest file) to 100. ``noise``: standard deviation of the noise in 1/16 of an
    8-bit grey level, 0 to 65535. ``strength``: 0 (the noise is kept) to 100 (removed), per cent."""

    quality: int
    noise: int
    strength: int

    @classmethod
    def of(cls, *, quality: float, noise: float, strength: float) -> Request:
        """``quality`` 0 to 100, ``noise`` in grey levels, ``strength`` 0 to 1; rounded, the noise clipped to what the
        file holds. ValueError outside the ranges."""
        if not (0 <= quality <= 100 and 0 <= noise < math.inf and 0 <= strength <= 1):
            raise ValueError(f"quality {quality}, noise {noise} or strength {strength} is outside the format's limits")
        return cls(round(10 * quality), min(round(16 * noise), 2**16 - 1), round(100 * strength))


@dataclass(frozen=True)
class Side:
    """What a decoder knows of the whole picture before its symbols: ``h``, the entropy guide in units of 1/256 bpp (0:
    none), and ``request``, of codecs that serve any rate (None: of one)."""

    h: int = 0
    request: Request | None = None

    @property
    def words(self) -> tuple[int, ...]:
        """All of it as integers."""
        it = self.request
        return (self.h,) if it is None else (self.h, it.quality, it.noise, it.strength)


@dataclass(frozen=True)
class Contents:
    """``model_id``: 8 bytes. ``bit_depth``: 8 or 16, of source and decoded picture. ``colour``: RGB or GREY (coded as
    RGB, reduced to one channel on output). ``tile``: side in pixels, 0 = one tile. ``metadata``: "icc", "exif" ->
    bytes. ``same_machine``: what lies between bits and symbols is floating point. ``tiles``: in raster order, all with
    as many segments."""

    model_id: bytes
    height: int
    width: int
    bit_depth: int
    colour: int
    tile: int
    side: Side = Side()
    metadata: dict[str, bytes] = field(default_factory=dict)
    same_machine: bool = False
    tiles: list[Tile] = field(default_factory=list)


def boxes(height: int, width: int, tile: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of every tile in raster order; those at the right and bottom may be smaller."""
    if not tile:
        return [(0, 0, height, width)]
    return [
        (top, left, min(tile, height - top), min(tile, width - left))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def header_bytes(contents: Contents) -> int:
    """Bytes of the file that are not the codec's segments: metadata and filling among them."""
    segments = len(contents.tiles[0].segments) if contents.tiles else 0
    around = zip(boxes(contents.height, contents.width, contents.tile), contents.tiles, strict=True)
    filling = sum(_filling(box, sum(map(len, tile.segments))) for box, tile in around)
    request, metadata = contents.side.request, contents.metadata
    return frame_bytes(tiles=len(contents.tiles), segments=segments, request=request, metadata=metadata) + filling


def frame_bytes(*, tiles: int, segments: int, request: Request | None, metadata: dict[str, bytes]) -> int:
    """Bytes of a file around its segments and filling."""
    entries = sum(_ENTRY.size + len(value) for value in metadata.values())
    fixed = _FIXED.size + (0 if request is None else _REQUEST.size)
    return fixed + entries + tiles * _WORD.size * (1 + segments) + _WORD.size


def pack(contents: Contents) -> bytes:
    """ValueError for contents outside the format: sizes, numbers of tiles and segments, kinds of metadata."""
    it = contents
    counts = {len(tile.segments) for tile in it.tiles}
    if len(it.model_id) != 8 or len(counts) > 1:
        raise ValueError("a model id has 8 bytes, and every tile as many segments")
    count = counts.pop() if counts else 0
    _check(it.height, it.width, it.bit_depth, it.colour, it.tile, count, ValueError)
    places = boxes(it.height, it.width, it.tile)
    if len(places) != len(it.tiles):
        raise ValueError(f"{len(it.tiles)} tiles where the picture has {len(places)}")
    if any(name not in METADATA or not value for name, value in it.metadata.items()):
        raise ValueError(f"metadata is {' or '.join(METADATA)}, and not empty")
    if sum(map(len, it.metadata.values())) > MAX_METADATA:
        raise ValueError(f"metadata of more than {MAX_METADATA} bytes")
    flags = SAME_MACHINE if it.same_machine else 0
    size, request = (it.height, it.width, it.bit_depth, it.colour, it.tile), it.side.request
    version = PLAIN if request is None else VERSION
    parts = [_FIXED.pack(MAGIC, version, flags, it.model_id, *size, it.side.h, count, len(it.metadata))]
    if request is not None:
        _check_request(request, ValueError)
        parts.append(_REQUEST.pack(request.quality, request.noise, request.strength))
    for name, value in sorted(it.metadata.items(), key=lambda entry: METADATA[entry[0]]):
        parts += [_ENTRY.pack(METADATA[name], len(value)), value]
    for box, tile in zip(places, it.tiles, strict=True):
        lengths = [len(segment) for segment in tile.segments]
        parts += [struct.pack(f"<{1 + count}I", tile.checksum, *lengths), *tile.segments]
        parts.append(bytes(_filling(box, sum(lengths))))
    body = b"".join(parts)
    return body + _WORD.pack(zlib.crc32(body))


def unpack(data: bytes) -> Contents:
    """Raises `CorruptFile`, before anything is allocated, for whatever `pack` did not write."""
    _check_version(data)
    if len(data) < _FIXED.size + _WORD.size:
        raise CorruptFile("the file is cut off")
    body = memoryview(data)[: -_WORD.size]
    if zlib.crc32(body) != _WORD.unpack(data[-_WORD.size :])[0]:
        raise CorruptFile("the checksum does not match: the file is damaged or incomplete")
    _, version, flags, model_id, height, width, depth, colour, tile, h, count, entries = _FIXED.unpack_from(body)
    if flags & ~SAME_MACHINE:
        raise CorruptFile("the file uses a part of the format that this jdcsuite does not know: update jdcsuite")
    _check(height, width, depth, colour, tile, count, CorruptFile)
    request, place = (None, _FIXED.size) if version == PLAIN else _read_request(body)
    metadata, place = _read_metadata(body, entries, place)
    sides = [math.ceil(side / (tile or side)) for side in (height, width)]
    smallest = _WORD.size * (1 + count) + 1
    if len(body) - place < sides[0] * sides[1] * smallest or len(body) - place < height * width // PIXELS_PER_BYTE:
        raise CorruptFile("the file is too short for a picture of its size")
    tiles = []
    for box in boxes(height, width, tile):
        read, place = _read_tile(body, place, box, count)
        tiles.append(read)
    if place != len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    same_machine = bool(flags & SAME_MACHINE)
    return Contents(model_id, height, width, depth, colour, tile, Side(h, request), metadata, same_machine, tiles)


def _check_version(data: bytes) -> None:
    """`CorruptFile` where ``data`` does not begin as a file of this version does."""
    if len(data) < 4 or data[:3] != MAGIC or data[3] == 0:
        raise CorruptFile("not a .jdc file")
    if data[3] > VERSION:
        raise CorruptFile(f"a .jdc file of version {data[3]}; this jdcsuite reads up to {VERSION}: update jdcsuite")
    if data[3] < PLAIN:
        raise CorruptFile(
            f"a .jdc file of version {data[3]}, which was never released; this jdcsuite reads versions {PLAIN} and "
            f"{VERSION}: compress the picture again"
        )


def _read_request(body: memoryview) -> tuple[Request, int]:
    """What stands between the fixed fields and the metadata of a codec of any rate, and where it ends."""
    if len(body) < _FIXED.size + _REQUEST.size:
        raise CorruptFile("the file is cut off")
    request = Request(*_REQUEST.unpack_from(body, _FIXED.size))
    _check_request(request, CorruptFile)
    return request, _FIXED.size + _REQUEST.size


def _check_request(request: Request, error: type[Exception]) -> None:
    if not (0 <= request.quality <= 1000 and 0 <= request.noise < 2**16 and 0 <= request.strength <= 100):
        asked = f"quality {request.quality}, noise {request.noise} or strength {request.strength}"
        raise error(f"{asked} is outside the format's limits: 0 to 1000, 65535 and 100")


def _read_metadata(body: memoryview, entries: int, place: int) -> tuple[dict[str, bytes], int]:
    """Entries from ``place`` on, and where they end. Kinds ascend, so that there is one way to write them."""
    names = {kind: name for name, kind in METADATA.items()}
    metadata: dict[str, bytes] = {}
    last, total = 0, 0
    for _ in range(entries):
        if place + _ENTRY.size > len(body):
            raise CorruptFile("the metadata do not fit the file")
        kind, length = _ENTRY.unpack_from(body, place)
        place, total = place + _ENTRY.size, total + length
        if kind not in names or kind <= last:
            raise CorruptFile("the metadata are not in order, or of a kind that this jdcsuite does not know")
        if not length or total > MAX_METADATA or place + length > len(body):
            raise CorruptFile("the metadata do not fit the file")
        metadata[names[kind]] = bytes(body[place : place + length])
        place, last = place + length, kind
    return metadata, place


def _read_tile(body: memoryview, place: int, box: tuple[int, int, int, int], count: int) -> tuple[Tile, int]:
    head = struct.Struct(f"<{1 + count}I")
    if place + head.size > len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    checksum, *lengths = head.unpack_from(body, place)
    place += head.size
    filling = _filling(box, sum(lengths))
    if place + sum(lengths) + filling > len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    segments = []
    for length in lengths:
        segments.append(bytes(body[place : place + length]))
        place += length
    if any(body[place : place + filling]):
        raise CorruptFile("the filling of a tile is not zero")
    return Tile(checksum, segments), place + filling


def _filling(box: tuple[int, int, int, int], payload: int) -> int:
    """Zero bytes after a tile's segments."""
    return max(0, math.ceil(box[2] * box[3] / PIXELS_PER_BYTE) - payload)


def _check(height: int, width: int, bit_depth: int, colour: int, tile: int, count: int, error: type[Exception]) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise error(f"a picture of {height} x {width} pixels is outside the format's limits")
    if bit_depth not in (8, 16) or colour not in (RGB, GREY):
        raise error(f"bit depth {bit_depth} or colour {colour} is outside the format's limits")
    if tile % TILE_STEP or tile > MAX_TILE:
        raise error(f"tiles of {tile} pixels are outside the format's limits: multiples of {TILE_STEP} to {MAX_TILE}")
    if not tile and height * width > MAX_TILE**2:
        raise error(f"one tile of {height} x {width} pixels is outside the format's limits: use tiles of {MAX_TILE}")
    if not 1 <= count <= MAX_SEGMENTS:
        raise error(f"{count} segments a tile are outside the format's limits: 1 to {MAX_SEGMENTS}")
