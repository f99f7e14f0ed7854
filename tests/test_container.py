"""The `.jdc` file: contents survive packing, and all other bytes are refused before they cost memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdcsuite.coding.container import (
    MAX_METADATA,
    PIXELS_PER_BYTE,
    Contents,
    Tile,
    header_bytes,
    pack,
    unpack,
)
from jdcsuite.coding.tiling import boxes
from jdcsuite.imaging.depth import BITS, Depth
from jdcsuite.types import CorruptFile, Request, Side

WORDS = st.integers(0, 2**32 - 1)
REQUESTS = st.builds(
    Request, quality=st.integers(0, 1000), noise=st.integers(0, 2**16 - 1), strength=st.integers(0, 100)
)


@st.composite
def contents(draw) -> Contents:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300) | st.just(2**20))
    tile = draw(st.sampled_from([0, 64, 128, 4096]))
    if height * width > 10**6 and tile < 4096:
        tile = 4096
    count = draw(st.integers(1, 16) | st.just(3))
    places = boxes(height, width, tile)
    drawn = draw(
        st.lists(
            st.builds(Tile, checksum=WORDS, segments=st.lists(st.binary(max_size=9), min_size=count, max_size=count)),
            min_size=1,
        )
    )
    bit_depth = draw(st.sampled_from([8, 16]))
    bits = 16 if bit_depth == 8 else draw(st.sampled_from(BITS))
    return Contents(
        model_id=draw(st.binary(min_size=8, max_size=8)),
        height=height,
        width=width,
        bit_depth=bit_depth,
        depth=Depth(bits=bits, shift=0 if bit_depth == 8 else draw(st.integers(0, bits - 8))),
        colour=draw(st.sampled_from([0, 1])),
        tile=tile,
        side=Side(h=draw(st.integers(0, 2**16 - 1)), request=draw(st.none() | REQUESTS)),
        metadata=draw(st.dictionaries(st.sampled_from(["icc", "exif"]), st.binary(min_size=1, max_size=20))),
        same_machine=draw(st.booleans()),
        tiles=[drawn[i % len(drawn)] for i in range(len(places))],
    )


SMALL = Contents(
    model_id=b"weights!",
    height=3,
    width=5,
    bit_depth=8,
    colour=1,
    tile=64,
    side=Side(h=700),
    metadata={"icc": b"profile"},
    same_machine=True,
    tiles=[Tile(checksum=99, segments=[b"abc", b"", b"\x00\xff"])],
)
SMALL_FILE = pack(SMALL)


def seal(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def forged(
    *,
    magic=b"JDC", version=2, flags=1, height=3, width=5, depth=8, colour=1, tile=64, count=3, entries=1,
    used=b"", metadata=b"\x01\x07\x00\x00\x00profile", lengths=(3, 0, 2), payload=b"abc\x00\xff",
) -> bytes:  # fmt: skip
    """A file with a valid checksum, written as docs/format.md specifies."""
    head = magic + bytes([version, flags]) + b"weights!" + struct.pack("<II", height, width)
    head += bytes([depth, colour]) + struct.pack("<IH", tile, 700) + bytes([count, entries]) + used + metadata
    return seal(head + struct.pack(f"<{1 + len(lengths)}I", 99, *lengths) + payload)


def refused(data: bytes) -> str:
    """The sentence with which ``data`` is refused; checks that this takes less than 1 MiB of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile) as error:
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    return str(error.value)


@given(contents())
@settings(deadline=None)
def test_contents_survive_packing(it):
    data = pack(it)
    assert unpack(data) == it
    assert pack(unpack(data)) == data
    assert len(data) == header_bytes(it) + sum(len(s) for tile in it.tiles for s in tile.segments)


def test_the_bytes_are_those_of_the_specification():
    assert forged() == SMALL_FILE
    assert len(SMALL_FILE) == 31 + 5 + 7 + 4 * 4 + 5 + 4


def test_used_bits_of_16_bit_words_take_two_bytes():
    """Files of all other images are those of versions without this field."""
    for bits, shift in ((12, 0), (16, 4), (8, 0)):
        it = replace(SMALL, bit_depth=16, depth=Depth(bits=bits, shift=shift))
        assert pack(it) == forged(flags=3, depth=16, used=bytes([bits, shift]))
        assert unpack(pack(it)) == it and header_bytes(it) == header_bytes(SMALL) + 2
    with pytest.raises(ValueError, match="part of their words"):
        pack(replace(SMALL, depth=Depth(bits=12)))


def test_tiles_cover_the_image_once_in_raster_order():
    covered = [[0] * 200 for _ in range(130)]
    for top, left, height, width in boxes(130, 200, 64):
        for row in covered[top : top + height]:
            row[left : left + width] = [n + 1 for n in row[left : left + width]]
    assert all(n == 1 for row in covered for n in row)
    assert boxes(130, 200, 64)[:5] == [(0, i, 64, min(64, 200 - i)) for i in (0, 64, 128, 192)] + [(64, 0, 64, 64)]
    assert boxes(130, 200, 0) == boxes(130, 200, 4096) == [(0, 0, 130, 200)]


def test_every_flipped_bit_is_detected():
    for place in range(len(SMALL_FILE)):
        for bit in range(8):
            data = bytearray(SMALL_FILE)
            data[place] ^= 1 << bit
            with pytest.raises(CorruptFile):
                unpack(bytes(data))


def test_every_truncation_and_extension_is_detected():
    for length in range(len(SMALL_FILE)):
        refused(SMALL_FILE[:length])
    for tail in (b"\0", b"\0" * 4, b"x" * 1000, SMALL_FILE):
        refused(SMALL_FILE + tail)
    crc = struct.unpack("<I", SMALL_FILE[-4:])[0]
    residue = struct.pack("<I", zlib.crc32(struct.pack("<I", crc), crc))
    # the only extension with a valid checksum
    assert "segment" in refused(SMALL_FILE + residue)


@given(st.binary(max_size=80), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_are_refused(data, with_magic, with_checksum):
    data = b"JDC\x02" + data if with_magic else data
    with pytest.raises(CorruptFile):
        unpack(seal(data) if with_checksum else data)


@given(contents(), st.data())
@settings(deadline=None, max_examples=300)
def test_a_mutated_file_with_a_valid_checksum_is_refused_or_another_valid_file(it, data):
    """No crash and no field ignored: a file that opens packs to the same bytes."""
    body = bytearray(pack(it)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, min(len(body) - 1, 120)))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)) | st.just(len(body)))]
    try:
        opened = unpack(seal(bytes(body)))
    except CorruptFile:
        return
    assert pack(opened) == seal(bytes(body))


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0}, {"width": 0}, {"height": 2**20 + 1}, {"width": 2**32 - 1}, {"height": 2**16, "width": 2**16},
        {"count": 255}, {"count": 17, "lengths": (0,) * 17, "payload": b""}, {"count": 2}, {"count": 4},
        {"count": 16, "lengths": (), "payload": b""}, {"count": 0, "lengths": (), "payload": b"\0"},
        {"lengths": (2**32 - 1, 0, 2)}, {"lengths": (3, 0, 3)}, {"lengths": (3, 0, 1)},
        {"lengths": (0, 0, 0), "payload": b""}, {"lengths": (0, 0, 0), "payload": b"x"},
        {"payload": b""}, {"magic": b"JPG"}, {"version": 255}, {"version": 0}, {"flags": 4}, {"flags": 128},
        {"depth": 12}, {"depth": 0}, {"colour": 2}, {"tile": 63}, {"tile": 4160}, {"tile": 2**32 - 64},
        {"flags": 3}, {"flags": 3, "depth": 16, "used": b""}, {"flags": 3, "used": b"\x0c\0"},
        *({"flags": 3, "depth": 16, "used": used} for used in (b"\x10\0", b"\x0b\0", b"\x0c\5", b"\x08\1", b"\0\0")),
        {"entries": 0}, {"entries": 2}, {"entries": 255}, {"metadata": b""}, {"metadata": b"\x01\x00\x00\x00\x00"},
        {"metadata": b"\x03\x01\x00\x00\x00x"}, {"metadata": b"\x00\x01\x00\x00\x00x"},
        {"metadata": b"\x01\xff\xff\xff\xff"}, {"metadata": b"\x01\x01\x00\x00\x00x" * 2, "entries": 2},
        {"metadata": b"\x02\x01\x00\x00\x00x\x01\x01\x00\x00\x00x", "entries": 2},
        {"height": 65}, {"width": 6400}, {"tile": 0, "width": 2**13, "height": 2**12}, {"tile": 0, "width": 2**20},
    ],
)  # fmt: skip
def test_a_wrong_header_with_a_valid_checksum_is_refused(change):
    assert unpack(forged()) == SMALL
    refused(forged(**change))


@pytest.mark.parametrize("tile", [0, 64, 1024, 4096])
def test_a_short_file_cannot_claim_a_large_image(tile):
    """With valid checksums, a hundred bytes can claim at most half a megapixel."""
    for height, width in ((2**10, 2**10), (4096, 4096), (2**15, 2**15), (2**20, 2**10), (1, 2**20)):
        message = refused(forged(height=height, width=width, tile=tile))
        assert "limits" in message or "short" in message


def test_a_tile_that_codes_to_almost_nothing_is_filled_up():
    flat = replace(
        SMALL, height=1000, width=64 * 64, tile=0, metadata={}, tiles=[Tile(checksum=1, segments=[b"ab", b"c"])]
    )
    data = pack(flat)
    assert unpack(data) == flat
    assert len(data) == 31 + 4 * 3 + 1000 * 64 * 64 // PIXELS_PER_BYTE + 4 == header_bytes(flat) + 3


def test_a_newer_version_is_reported_before_damage():
    assert "version 9" in refused(forged(version=9)) and "update" in refused(forged(version=9)[:-1] + b"?")


def test_the_first_version_is_refused_with_a_reason():
    assert "never released" in refused(b"JDC\x01" + bytes(40))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (2**20 + 1, 1), (2**15 + 1, 2**15)])
def test_an_image_outside_the_format_is_not_packed(size):
    with pytest.raises(ValueError, match="limits"):
        pack(replace(SMALL, height=size[0], width=size[1]))


def test_the_largest_image_and_the_most_segments_are_packed():
    for height, width, tile in ((2**15, 2**15, 4096), (2**20, 1, 0), (4096, 4096, 0)):
        tiles = [Tile(checksum=0, segments=[b""] * 16)] * len(boxes(height, width, tile))
        it = replace(SMALL, height=height, width=width, tile=tile, side=Side(h=2**16 - 1), tiles=tiles)
        assert unpack(pack(it)) == it
    largest = replace(SMALL, metadata={"icc": b"x" * (MAX_METADATA - 1), "exif": b"y"})
    assert unpack(pack(largest)) == largest


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": b"short"}, {"tiles": []}, {"tiles": SMALL.tiles * 2}, {"tiles": [Tile(checksum=0, segments=[])]},
        {"tiles": [Tile(checksum=0, segments=[b""] * 17)]}, {"metadata": {"xmp": b"x"}}, {"metadata": {"icc": b""}},
        {"metadata": {"icc": b"x" * MAX_METADATA, "exif": b"y"}}, {"bit_depth": 12}, {"colour": 2}, {"tile": 100},
        {"height": 65, "tiles": [Tile(checksum=0, segments=[b""] * n) for n in (1, 2)]},
    ],
)  # fmt: skip
def test_contents_outside_the_format_are_not_packed(change):
    with pytest.raises(ValueError):
        pack(replace(SMALL, **change))
