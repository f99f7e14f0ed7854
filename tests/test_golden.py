"""Files of earlier versions still decode: the same symbols exactly, the same image within one grey level.

`tests/golden/make.py` wrote them. A file decodes only if its symbols have their checksums, so decoding proves that the
symbols are right. Images may differ by one level of their depth, because the synthesis is floating point.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jdcsuite.coding.container import unpack
from jdcsuite.files import compression
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_grey

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402 - of that folder

FOLDERS = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/golden.json"))}
FILES = [(codec, name) for codec, listed in FOLDERS.items() for name in listed["files"]]


def test_every_family_has_golden_files() -> None:
    assert FOLDERS.keys() >= make.CODECS.keys() | {make.LCFDNET}
    assert len(FILES) >= 76


@pytest.mark.parametrize("codec", FOLDERS)
def test_the_weights_keep_their_id(codec: str) -> None:
    assert compression.load(make.codec(GOLDEN / codec)).model_id.hex() == FOLDERS[codec]["model_id"]


@pytest.mark.parametrize(("codec", "name"), FILES)
def test_a_file_decodes_as_before(codec: str, name: str) -> None:
    data = (GOLDEN / codec / f"{name}.jdc").read_bytes()
    contents = unpack(data)
    golden = FOLDERS[codec]["files"][name]
    assert len(data) == golden["bytes"] and [tile.checksum for tile in contents.tiles] == golden["checksums"]
    assert not contents.same_machine
    decoded = compression.decompress(data, make.codec(GOLDEN / codec))
    expected = Picture.read(GOLDEN / codec / f"{name}.png")
    assert decoded.dtype == expected.pixels.dtype and expected.grey == bool(contents.colour)
    decoded = np.stack([to_grey(decoded)] * 3, -1) if contents.colour else decoded
    # one level of 8 bits is 257 of 16
    level = 1 if contents.bit_depth == 8 else -(-contents.depth.peak // 255)
    assert np.abs(decoded.astype(np.int64) - expected.pixels).max() <= level


@pytest.mark.parametrize("name", FOLDERS["lcfdnet"]["files"])
def test_a_lossless_file_is_the_image_and_is_written_again(name: str) -> None:
    """LC-FDNet computes nothing in floating point that could differ, but libwebp may code image a otherwise."""
    net, (pixels, options) = make.numbered(), make.images("lcfdnet")[name]
    data = (GOLDEN / "lcfdnet" / f"{name}.jdc").read_bytes()
    assert np.array_equal(compression.decompress(data, net), pixels)
    stored, fresh = (unpack(file).tiles for file in (data, compression.compress(pixels, net, **options)))
    assert [tile.segments[1] for tile in stored] == [tile.segments[1] for tile in fresh]


@pytest.mark.parametrize(("codec", "name"), FILES)
def test_an_image_still_codes_to_as_many_bytes(codec: str, name: str) -> None:
    """The analysis is floating point too, so symbols may differ between machines; the rate must not."""
    pixels, options = make.images(codec)[name]
    data = compression.compress(pixels, make.codec(GOLDEN / codec), **options)
    assert len(data) == pytest.approx(FOLDERS[codec]["files"][name]["bytes"], rel=0.02, abs=8)
