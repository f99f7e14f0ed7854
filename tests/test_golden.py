"""Files that were written once open for ever: the same symbols exactly, the same picture within one grey level.

`tests/golden/make.py` wrote them. Each checksum in them is of the symbols, so that opening a file is the proof that
its symbols are right; pictures may differ by one level of their depth, because the synthesis is floating point.
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
FOLDERS = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/golden.json"))}
FILES = [(codec, name) for codec, listed in FOLDERS.items() for name in listed["files"]]


def test_every_family_has_golden_files() -> None:
    assert FOLDERS.keys() >= {"fllic", "flagship", "hyperprior", "many_priors", "many_priors_adaptive", "testolina"}
    assert len(FILES) >= 48


@pytest.mark.parametrize("codec", FOLDERS)
def test_the_weights_are_who_they_were(codec: str) -> None:
    assert compression.load(GOLDEN / codec / "weights.safetensors").model_id.hex() == FOLDERS[codec]["model_id"]


@pytest.mark.parametrize(("codec", "name"), FILES)
def test_a_file_opens_as_it_did(codec: str, name: str) -> None:
    data = (GOLDEN / codec / f"{name}.jdc").read_bytes()
    contents = unpack(data)
    said = FOLDERS[codec]["files"][name]
    assert len(data) == said["bytes"] and [tile.checksum for tile in contents.tiles] == said["checksums"]
    assert not contents.same_machine
    decoded = compression.decompress(data, GOLDEN / codec / "weights.safetensors")
    expected = Picture.read(GOLDEN / codec / f"{name}.png")
    assert decoded.dtype == expected.pixels.dtype and expected.grey == bool(contents.colour)
    decoded = np.stack([to_grey(decoded)] * 3, -1) if contents.colour else decoded
    # one level of 8 bits is 257 of 16
    level = 1 if contents.bit_depth == 8 else 257
    assert np.abs(decoded.astype(np.int64) - expected.pixels).max() <= level


@pytest.mark.parametrize(("codec", "name"), FILES)
def test_a_picture_still_codes_to_as_many_bytes(codec: str, name: str) -> None:
    """The analysis is floating point too, so a symbol may be another on another machine; the rate may not."""
    from make import pictures

    pixels, options = pictures(codec)[name]
    data = compression.compress(pixels, GOLDEN / codec / "weights.safetensors", **options)
    assert len(data) == pytest.approx(FOLDERS[codec]["files"][name]["bytes"], rel=0.02, abs=8)
