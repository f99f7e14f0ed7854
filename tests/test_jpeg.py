"""JPEG data that libjpeg decodes with no more than a warning are refused; all sound files pass."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import RGB

from jdcsuite.imaging.jpeg import damage
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.read import read
from jdcsuite.types import UserError

KINDS = [
    {"quality": 85}, {"quality": 5}, {"quality": 100, "subsampling": 0}, {"subsampling": 1}, {"optimize": True},
    {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}, {"progressive": True},
    {"progressive": True, "quality": 30, "subsampling": 0}, {"progressive": True, "restart_marker_blocks": 5},
]  # fmt: skip
SMOOTH = np.asarray(Image.fromarray(RGB).resize((203, 121), Image.Resampling.BICUBIC))


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_pass(mode: str, kind: dict) -> None:
    data = jpeg(mode, **kind)
    assert damage(data) is None and damage(data + b"preview") is None
    assert damage(data[:-2] + bytes(20) + data[-2:]) is None, "zeros before the end are some cameras' padding"


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(kind: dict) -> None:
    data = jpeg(**kind)
    assert damage(data[:-300] + data[-2:]) == "its data end early"
    assert damage(data[:-2] + b"more" + data[-2:]) == "its data do not end where its image does"
    start = data.index(b"\xff\xda") + 14
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        flipped = bytearray(data)
        flipped[random.integers(start, len(data) - 4)] ^= 1 << int(random.integers(8))
        found += damage(bytes(flipped)) is not None
    assert found > 5  # most flips are read as another sound image, as the codes synchronise again


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", jpeg()[:200], b"\xff\xd8\xff\xda\0\x08\1\1\0\0\x3f\0", bytes(500)],
)
def test_damage_of_headers_is_left_to_the_decoder(data: bytes) -> None:
    assert damage(data) is None


def test_both_readers_refuse_what_pillow_decodes_in_silence(tmp_path: Path) -> None:
    data, path = jpeg(), tmp_path / "x.jpg"
    path.write_bytes(data[:-300] + data[-2:])
    assert np.asarray(Image.open(path)).shape == SMOOTH.shape
    for reader in (read, Picture.read):
        with pytest.raises(UserError, match=r"x\.jpg is damaged or truncated \(its data"):
            reader(path)
