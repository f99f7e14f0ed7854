"""Blind noise estimates against noise of known level: white, blurred, clipped, on textures, at all sizes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jdcsuite.data import estimate
from jdcsuite.data.estimate import STRIP, Estimate, noise_of


def ramp(height: int, width: int) -> np.ndarray:
    """A smooth colour image, from 40 to 215."""
    row, column = np.mgrid[:height, :width] / max(height, width, 2)
    return np.stack([60 + 100 * row, 90 + 90 * column, 210 - 85 * (row + column)], 2)


def noise(height: int, width: int, *, sigma: float, blur: float = 0.0, seed: int = 0) -> np.ndarray:
    """Gaussian noise, blurred by ``blur`` pixels and scaled to standard deviation ``sigma``."""
    drawn = np.random.default_rng(seed).standard_normal((height, width, 3))
    drawn = gaussian_filter(drawn, (blur, blur, 0), mode="wrap") if blur else drawn
    return sigma * drawn / drawn.std()


def picture(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 30.0])
def test_both_estimates_measure_white_noise(sigma: float) -> None:
    measured = noise_of(picture(ramp(256, 384) + noise(256, 384, sigma=sigma)))
    assert measured.rms == pytest.approx(sigma, rel=0.05) and measured.white == pytest.approx(sigma, rel=0.05)
    assert not measured.correlated


@pytest.mark.parametrize(("blur", "least"), [(0.6, 0.9), (0.9, 0.8), (1.2, 0.75)])
@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_only_rms_measures_correlated_noise(sigma: float, blur: float, least: float) -> None:
    """Neighbours correlate by .50, .73 and .84."""
    measured = noise_of(picture(ramp(384, 384) + noise(384, 384, sigma=sigma, blur=blur)))
    assert least < measured.rms / sigma < 1.15
    assert measured.white < 0.55 * sigma and measured.correlated


def test_rms_ignores_texture_where_a_third_of_the_image_is_flat() -> None:
    texture = 25 * np.random.default_rng(1).standard_normal((384, 384, 1))
    texture[:, :128] = 0
    measured = noise_of(picture(ramp(384, 384) + texture + noise(384, 384, sigma=8)))
    assert measured.rms == pytest.approx(8, rel=0.1) and measured.white > 15


def test_clipped_areas_are_ignored() -> None:
    values = ramp(256, 256)
    values[:, 64:] = 300
    values[:64] = -50
    measured = noise_of(picture(values + noise(256, 256, sigma=12)))
    assert measured.rms == pytest.approx(12, rel=0.08)


def test_estimates_without_noise_are_near_zero() -> None:
    for level in (0, 200, 255):
        flat = noise_of(np.full((70, 50, 3), level, np.uint8))
        assert (flat.rms, flat.white) == pytest.approx((0, 0), abs=1e-6) and not flat.correlated
    smooth = noise_of(picture(ramp(256, 256)))
    assert smooth.rms < 1 and smooth.white < 0.4 and not smooth.correlated, "rounding: .29, and its bands"


def test_depth_and_colour_change_nothing() -> None:
    noisy = picture(ramp(160, 200) + noise(160, 200, sigma=10, blur=0.8))
    measured, deep = noise_of(noisy), noise_of(noisy.astype(np.uint16) * 257)
    assert (deep.rms, deep.white) == pytest.approx((measured.rms, measured.white), rel=1e-4)
    one = np.ascontiguousarray(noisy[..., 0])
    assert noise_of(one) == noise_of(one[..., None])
    assert noise_of(one).rms == pytest.approx(measured.rms, rel=0.15)
    turned = noise_of(np.ascontiguousarray(noisy.swapaxes(0, 1)))
    assert (turned.rms, turned.white) == pytest.approx((measured.rms, measured.white), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (4, 4), (15, 300), (16, 16), (17, 33)])
def test_any_size_is_measured(shape: tuple[int, int]) -> None:
    measured = noise_of(picture(128 + noise(*shape, sigma=10)))
    if min(shape) < 4:
        assert measured == Estimate(0.0, 0.0)
    elif min(shape) < 16:
        assert measured.rms == measured.white > 0
    else:
        assert measured.rms == pytest.approx(10, rel=0.25)


def test_large_images_are_measured_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "MOST", 2**16)
    columns = np.broadcast_to(np.arange(24 * STRIP, dtype=np.uint16)[None, :, None], (2 * STRIP, 24 * STRIP, 3))
    kept = estimate._strips(columns)  # three times the limit, wider than high
    assert kept.shape == (8 * STRIP, 2 * STRIP, 3) and (kept == kept[:, :1, :1]).all()
    assert (kept[:STRIP, 0, 0] == np.arange(STRIP)).all()
    assert (kept[STRIP : 2 * STRIP, 0, 0] == np.arange(3 * STRIP, 4 * STRIP)).all()
    assert estimate._strips(columns.swapaxes(0, 1)).tolist() == kept.tolist()
    assert estimate._strips(columns[:, :512]).size == columns[:, :512].size, "small enough"
    large = picture(ramp(512, 1024) + noise(512, 1024, sigma=10))
    assert noise_of(large).rms == pytest.approx(10, rel=0.05)
