"""16-bit words that hold 10, 12 or 14 bits are recognised, scaled to full scale, and restored exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_images import DEEP, RGB, deep_png

from jdcsuite.data.paircache import _read_eight_bit
from jdcsuite.imaging.depth import BITS, Depth
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_eight_bit


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Samples, the bits that they may use, and their empty low bits."""
    bits = draw(st.sampled_from(BITS))
    shift = draw(st.integers(0, bits - 8))
    values = arrays(np.uint16, (3, 4, 3), elements=st.integers(0, (1 << (bits - shift)) - 1))
    return draw(values) << shift, bits, shift


@given(images())
def test_full_scale_is_undone_exactly(image: tuple[np.ndarray, int, int]) -> None:
    samples, bits, shift = image
    for depth in (Depth(bits=bits, shift=shift), Depth.of(samples), Depth.of(samples, (1 << bits) - 1)):
        np.testing.assert_array_equal(depth.restored(depth.full_scale(samples)), samples)
    assert Depth.of(samples).bits <= bits


@given(images(), st.integers(0, 65535))
def test_any_decoded_image_is_restored_to_possible_samples(image: tuple[np.ndarray, int, int], value: int) -> None:
    _, bits, shift = image
    restored = int(Depth(bits=bits, shift=shift).restored(np.full((1, 1, 3), value, np.uint16))[0, 0, 0])
    assert restored < 1 << bits and restored % (1 << shift) == 0
    assert abs(restored / (((1 << (bits - shift)) - 1) << shift) - value / 65535) <= 0.5 / 255 + 1e-9


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_depth_is_found_from_the_largest_sample_or_the_empty_low_bits(bits: int) -> None:
    low = DEEP >> (16 - bits)
    assert Depth.of(low) == Depth(bits=bits) and Depth.of(low << (16 - bits)) == Depth(bits=16, shift=16 - bits)
    white = np.full((1, 1, 3), (1 << bits) - 1, np.uint16)
    assert Depth.of(white).full_scale(white).max() == 65535
    assert Depth.of(DEEP) == Depth() and Depth.of(DEEP).full_scale(DEEP) is DEEP
    assert Depth.of(np.zeros((1, 1, 3), np.uint16)) == Depth(bits=8)


def test_a_tiff_may_declare_its_largest_sample(tmp_path: Path) -> None:
    dark = DEEP >> 8  # would pass for 8 bits
    tifffile.imwrite(tmp_path / "dark.tif", dark, photometric="rgb", extratags=[(281, 3, 3, (4095,) * 3, True)])
    for name, kind, value in (("real", 12, (4095.0,) * 3), ("text", 2, "4095")):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, dark, photometric="rgb", extratags=[(281, kind, len(value), value, True)])
        assert Picture.read(path).depth == Depth.of(dark), "no number of levels"
    tifffile.imwrite(tmp_path / "wrong.tif", DEEP, photometric="rgb", extratags=[(281, 3, 3, (4095,) * 3, True)])
    deep_png(tmp_path / "low.png", DEEP >> 4, 2)
    tifffile.imwrite(tmp_path / "eight.tif", RGB, photometric="rgb")
    bits = {path.name: Picture.read(path).depth.bits for path in tmp_path.iterdir()}
    assert bits == {"dark.tif": 12, "wrong.tif": 16, "low.png": 12, "eight.tif": 8, "real.tif": 8, "text.tif": 8}


def test_training_reports_16_bit_images_of_fewer_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep_png(tmp_path / "low.png", DEEP >> 4, 2)
    np.testing.assert_array_equal(_read_eight_bit(tmp_path / "low.png"), to_eight_bit(DEEP >> 4))
    assert "12 bits only" in " ".join(capsys.readouterr().out.split())
    deep_png(tmp_path / "full.png", DEEP, 2)
    _read_eight_bit(tmp_path / "full.png")
    assert not capsys.readouterr().out
