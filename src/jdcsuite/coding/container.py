"""Coded tiles and what a decoder must know about the image <-> one self-contained byte string, the `.jdc` file.

Integers are little-endian; `docs/format.md` specifies every field. The layout is canonical: a file that opens packs to
the same bytes again. The length of a file bounds the memory that decoding it can take (see ``PIXELS_PER_BYTE``).
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field, replace

from jdcsuite.coding.tiling import Box, boxes
from jdcsuite.imaging.depth import BITS, Depth
from jdcsuite.types import CorruptFile, Request, Side

MAGIC, VERSION = b"JDC", 3
PLAIN = 2  # version written by codecs of one rate, which have no request; version 1 was never released
RGB, GREY = 0, 1
H_UNIT = 256  # the entropy guide is stored in 1/256 bpp
SAME_MACHINE, PART_OF_WORD = 1, 2  # flags
METADATA = {"icc": 1, "exif": 2}
MAX_SIDE, MAX_PIXELS, MAX_SEGMENTS, MAX_METADATA = 1 << 20, 1 << 30, 16, 16 << 20
TILE_STEP, MAX_TILE = 64, 4096

# A tile holds at least one byte per 4096 pixels (0.002 bpp), padded with zeros where a flat tile codes to less. Without
# this bound a hundred bytes with valid checksums could claim a gigapixel.
PIXELS_PER_BYTE = 64 * 64

_FIXED = struct.Struct("<3sBB8sIIBBIHBB")
_REQUEST, _DEPTH = struct.Struct("<HHB"), struct.Struct("<BB")
_ENTRY, _WORD = struct.Struct("<BI"), struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """``checksum``: see `coding.codec.tile_checksum`. ``segments``: the byte strings that the codec wrote."""

    checksum: int
    segments: list[bytes]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All fields of a `.jdc` file.

    ``model_id``: 8 bytes that name the weights. ``bit_depth``: 8 or 16, of a word of the source and of the decoded
    image. ``depth``: which bits of 16-bit words are used; the image was coded at full scale (`Depth.full_scale`).
    ``colour``: RGB, or GREY (coded as RGB, reduced to one channel on output). ``tile``: side in pixels, 0 = one tile.
    ``metadata``: "icc", "exif" -> bytes. ``same_machine``: floating-point arithmetic decides the symbols, so another
    machine may fail to decode them. ``tiles``: in raster order, all with the same number of segments.
    """

    model_id: bytes
    height: int
    width: int
    bit_depth: int
    colour: int
    tile: int
    depth: Depth = field(default_factory=Depth)
    side: Side = field(default_factory=Side)
    metadata: dict[str, bytes] = field(default_factory=dict)
    same_machine: bool = False
    tiles: list[Tile] = field(default_factory=list)

    @property
    def boxes(self) -> list[Box]:
        return boxes(self.height, self.width, self.tile)


def min_payload(box: Box) -> int:
    """Bytes that the segments and the filling of a tile take at least."""
    return math.ceil(box.area / PIXELS_PER_BYTE)


def header_bytes(contents: Contents) -> int:
    """Bytes of a file that are not segments: fields, metadata and filling."""
    segments = len(contents.tiles[0].segments) if contents.tiles else 0
    tiles = zip(contents.boxes, contents.tiles, strict=True)
    return frame_bytes(contents, segments=segments) + sum(_filling(box, tile) for box, tile in tiles)


def frame_bytes(contents: Contents, *, segments: int) -> int:
    """`header_bytes` without the filling; ``contents`` needs no tiles yet. ``segments``: of each tile."""
    entries = sum(_ENTRY.size + len(value) for value in contents.metadata.values())
    fixed = _FIXED.size + (0 if contents.side.request is None else _REQUEST.size)
    fixed += 0 if contents.depth == Depth() else _DEPTH.size
    return fixed + entries + len(contents.boxes) * _WORD.size * (1 + segments) + _WORD.size


def pack(contents: Contents) -> bytes:
    """ValueError: contents outside the format (sizes, numbers of tiles and segments, kinds of metadata)."""
    it = contents
    counts = {len(tile.segments) for tile in it.tiles}
    if len(it.model_id) != 8 or len(counts) > 1:
        raise ValueError("a model id has 8 bytes, and all tiles have the same number of segments")
    count = counts.pop() if counts else 0
    _check_limits(it, segments=count, error=ValueError)
    if len(it.boxes) != len(it.tiles):
        raise ValueError(f"{len(it.tiles)} tiles where the image has {len(it.boxes)}")
    if any(name not in METADATA or not value for name, value in it.metadata.items()):
        raise ValueError(f"metadata is {' or '.join(METADATA)}, and not empty")
    if sum(map(len, it.metadata.values())) > MAX_METADATA:
        raise ValueError(f"metadata of more than {MAX_METADATA} bytes")
    version = PLAIN if it.side.request is None else VERSION
    flags = it.same_machine * SAME_MACHINE | (it.depth != Depth()) * PART_OF_WORD
    size = (it.height, it.width, it.bit_depth, it.colour, it.tile)
    parts = [_FIXED.pack(MAGIC, version, flags, it.model_id, *size, it.side.h, count, len(it.metadata))]
    if it.side.request is not None:
        parts.append(_REQUEST.pack(*it.side.integers[1:]))
    if it.depth != Depth():
        parts.append(_DEPTH.pack(it.depth.bits, it.depth.shift))
    for name, value in sorted(it.metadata.items(), key=lambda entry: METADATA[entry[0]]):
        parts += [_ENTRY.pack(METADATA[name], len(value)), value]
    for box, tile in zip(it.boxes, it.tiles, strict=True):
        parts += [struct.pack(f"<{1 + count}I", tile.checksum, *map(len, tile.segments)), *tile.segments]
        parts.append(bytes(_filling(box, tile)))
    body = b"".join(parts)
    return body + _WORD.pack(zlib.crc32(body))


def unpack(data: bytes) -> Contents:
    """Raises `CorruptFile`, before anything large is allocated, for all bytes that `pack` did not write."""
    check_version(data)
    if len(data) < _FIXED.size + _WORD.size:
        raise CorruptFile("the file is cut off")
    body = memoryview(data)[: -_WORD.size]
    if zlib.crc32(body) != _WORD.unpack(data[-_WORD.size :])[0]:
        raise CorruptFile("the checksum does not match: the file is damaged or incomplete")
    _, version, flags, model_id, height, width, depth, colour, tile, h, count, entries = _FIXED.unpack_from(body)
    if flags & ~(SAME_MACHINE | PART_OF_WORD):
        raise CorruptFile("the file uses a part of the format that this jdcsuite does not know: update jdcsuite")
    request, start = (None, _FIXED.size) if version == PLAIN else _read_request(body)
    used, start = _read_depth(body, start) if flags & PART_OF_WORD else (Depth(), start)
    header = Contents(
        model_id=model_id, height=height, width=width, bit_depth=depth, depth=used, colour=colour, tile=tile,
        side=Side(h=h, request=request), same_machine=bool(flags & SAME_MACHINE),
    )  # fmt: skip
    _check_limits(header, segments=count, error=CorruptFile)
    metadata, start = _read_metadata(body, entries, start)
    down, across = (math.ceil(side / (tile or side)) for side in (height, width))
    left, smallest = len(body) - start, _WORD.size * (1 + count) + 1
    if left < down * across * smallest or left < height * width // PIXELS_PER_BYTE:
        raise CorruptFile("the file is too short for an image of its size")
    tiles = []
    for box in header.boxes:
        tile_read, start = _read_tile(body, start, box, count)
        tiles.append(tile_read)
    if start != len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    return replace(header, metadata=metadata, tiles=tiles)


def check_version(data: bytes) -> None:
    """`CorruptFile` unless ``data`` begins like a file of a version that is read here; 4 bytes are enough."""
    if len(data) < 4 or data[:3] != MAGIC or data[3] == 0:
        raise CorruptFile("not a .jdc file")
    if data[3] > VERSION:
        raise CorruptFile(f"a .jdc file of version {data[3]}; this jdcsuite reads up to {VERSION}: update jdcsuite")
    if data[3] < PLAIN:
        raise CorruptFile(
            f"a .jdc file of version {data[3]}, which was never released; this jdcsuite reads versions {PLAIN} and "
            f"{VERSION}: compress the image again"
        )


def _read_request(body: memoryview) -> tuple[Request, int]:
    """The request that follows the fixed fields, and the offset of its end."""
    if len(body) < _FIXED.size + _REQUEST.size:
        raise CorruptFile("the file is cut off")
    quality, noise, strength = _REQUEST.unpack_from(body, _FIXED.size)
    return Request(quality=quality, noise=noise, strength=strength), _FIXED.size + _REQUEST.size


def _read_depth(body: memoryview, start: int) -> tuple[Depth, int]:
    """The used bits of 16-bit words at offset ``start``, and the offset of their end."""
    if start + _DEPTH.size > len(body):
        raise CorruptFile("the file is cut off")
    bits, shift = _DEPTH.unpack_from(body, start)
    if bits not in BITS or not 0 <= shift <= bits - BITS[0] or (bits, shift) == (16, 0):
        raise CorruptFile(f"samples of {bits} bits shifted by {shift} are outside the format's limits")
    return Depth(bits=bits, shift=shift), start + _DEPTH.size


def _read_metadata(body: memoryview, entries: int, start: int) -> tuple[dict[str, bytes], int]:
    """Metadata from offset ``start`` on, and the offset of its end. Kinds ascend, so that the layout is canonical."""
    names = {kind: name for name, kind in METADATA.items()}
    metadata: dict[str, bytes] = {}
    previous, total = 0, 0
    for _ in range(entries):
        if start + _ENTRY.size > len(body):
            raise CorruptFile("the metadata do not fit the file")
        kind, length = _ENTRY.unpack_from(body, start)
        start, total = start + _ENTRY.size, total + length
        if kind not in names or kind <= previous:
            raise CorruptFile("the metadata are not in order, or of a kind that this jdcsuite does not know")
        if not length or total > MAX_METADATA or start + length > len(body):
            raise CorruptFile("the metadata do not fit the file")
        metadata[names[kind]] = bytes(body[start : start + length])
        start, previous = start + length, kind
    return metadata, start


def _read_tile(body: memoryview, start: int, box: Box, count: int) -> tuple[Tile, int]:
    """The tile at offset ``start``, and the offset of its end."""
    fields = struct.Struct(f"<{1 + count}I")
    if start + fields.size > len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    checksum, *lengths = fields.unpack_from(body, start)
    start += fields.size
    if start + max(sum(lengths), min_payload(box)) > len(body):
        raise CorruptFile("the segment lengths do not fit the file")
    segments = []
    for length in lengths:
        segments.append(bytes(body[start : start + length]))
        start += length
    tile = Tile(checksum=checksum, segments=segments)
    end = start + _filling(box, tile)
    if any(body[start:end]):
        raise CorruptFile("the filling of a tile is not zero")
    return tile, end


def _filling(box: Box, tile: Tile) -> int:
    """Zero bytes after the segments of a tile."""
    return max(0, min_payload(box) - sum(map(len, tile.segments)))


def _check_limits(it: Contents, *, segments: int, error: type[Exception]) -> None:
    """Raises ``error`` for header fields outside the format. ``segments``: number of each tile's."""
    if not (1 <= it.height <= MAX_SIDE and 1 <= it.width <= MAX_SIDE and it.height * it.width <= MAX_PIXELS):
        raise error(f"an image of {it.height} x {it.width} pixels is outside the format's limits")
    if it.bit_depth not in (8, 16) or it.colour not in (RGB, GREY):
        raise error(f"bit depth {it.bit_depth} or colour {it.colour} is outside the format's limits")
    if it.bit_depth == 8 and it.depth != Depth():
        raise error("8-bit samples that use a part of their words are outside the format's limits")
    if it.tile % TILE_STEP or it.tile > MAX_TILE:
        raise error(
            f"tiles of {it.tile} pixels are outside the format's limits: multiples of {TILE_STEP} to {MAX_TILE}"
        )
    if not it.tile and it.height * it.width > MAX_TILE**2:
        raise error(
            f"one tile of {it.height} x {it.width} pixels is outside the format's limits: use tiles of {MAX_TILE}"
        )
    if not 1 <= segments <= MAX_SEGMENTS:
        raise error(f"{segments} segments per tile are outside the format's limits: 1 to {MAX_SEGMENTS}")
    request = it.side.request
    if request and not (0 <= request.quality <= 1000 and 0 <= request.noise < 2**16 and 0 <= request.strength <= 100):
        raise error(
            f"quality {request.quality}, noise {request.noise} or strength {request.strength} is outside the format's "
            "limits: 0 to 1000, 65535 and 100"
        )
