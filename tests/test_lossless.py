"""Lossless coders decode exactly what they coded, and bpp is the length of their bytes."""

from __future__ import annotations

import builtins
import io
import pickle

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from jdcsuite.imaging.lossless import CODERS, Lossless, encode_png, from_planes, to_planes
from jdcsuite.types import UserError

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
pictures = sizes.flatmap(lambda s: arrays(np.uint8, (*s, 3)))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from jdcsuite.imaging.read import embedded

    return dict(embedded("test"))["chelsea.png"][100:228, 100:228]


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    drawn = image + np.random.default_rng(1).normal(0, sigma, image.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("coder", CODERS)
@settings(max_examples=25, deadline=None)
@given(image=pictures)
def test_any_image_is_coded_without_loss(coder, image):
    lossless = Lossless(coder=coder, effort=3 if CODERS[coder].efforts else None)
    data = lossless.encode(image)
    assert lossless.bpp(image) == 8 * len(data) / (image.shape[0] * image.shape[1])
    out = lossless.decode(data)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize("coder", CODERS)
def test_a_noisy_photograph_is_coded_without_loss(coder, photo):
    for image in (photo, noisy(photo, 20), photo[::-1, ::2]):  # the last one is not contiguous
        np.testing.assert_array_equal(Lossless(coder=coder).decode(Lossless(coder=coder).encode(image)), image)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (63, 65), (37, 2), (256, 256)])
def test_incompressible_images_are_coded_without_loss(coder, size):
    """Their code is larger than their samples."""
    random, lossless = np.random.default_rng(0), Lossless(coder=coder, effort=CODERS[coder].efforts.start or None)
    uniform = random.integers(0, 256, (*size, 3), np.uint8)
    gaussian = np.clip(128 + 50 * random.standard_normal(uniform.shape), 0, 255).astype(np.uint8)
    for image in (uniform, gaussian, random.choice([0, 255], uniform.shape).astype(np.uint8)):
        np.testing.assert_array_equal(lossless.decode(lossless.encode(image)), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1000, 1), (100, 2), (1, 1), (1000, 1, 3), (3, 7, 3), (64, 64)])
def test_incompressible_png_of_any_width_is_written(dtype, shape):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    np.testing.assert_array_equal(imagecodecs.png_decode(encode_png(pixels)).reshape(shape), pixels)


@settings(deadline=None)
@given(image=pictures)
def test_colour_transform_is_exact_on_all_colours(image):
    np.testing.assert_array_equal(from_planes(to_planes(image)), image)


def test_colour_transform_against_its_formula():
    """All colours of a grid, against the definition in Python integers."""
    values = [0, 1, 2, 127, 128, 129, 254, 255]
    grid = np.array([(r, g, b) for r in values for g in values for b in values], np.uint8)[None]
    luma, u, v = to_planes(grid).reshape(3, -1).astype(int)
    for i, (r, g, b) in enumerate(grid[0].tolist()):
        assert (u[i] - 128 - (b - g)) % 256 == 0 and (v[i] - 128 - (r - g)) % 256 == 0
        if -128 <= b - g < 128 and -128 <= r - g < 128:  # without wrap: JPEG 2000's luma
            assert luma[i] == (r + 2 * g + b) // 4
    np.testing.assert_array_equal(from_planes(to_planes(grid)), grid)


def test_code_length_equals_that_of_the_library(photo):
    expected = {
        "jpegls": imagecodecs.jpegls_encode(to_planes(photo)),
        "jpegxl": imagecodecs.jpegxl_encode(photo, lossless=True, effort=7),
        "webp": imagecodecs.webp_encode(photo, lossless=True, method=4),
        "jpeg2000": imagecodecs.jpeg2k_encode(photo, codecformat="j2k", reversible=True),
    }
    for coder, data in expected.items():
        assert Lossless(coder=coder).bpp(photo) == pytest.approx(8 * len(data) / 128**2, rel=1e-3), coder
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "png")
    assert Lossless(coder="png").bpp(photo) == pytest.approx(8 * len(file.getvalue()) / 128**2, rel=0.04)


def test_lossless_files_open_in_other_decoders(photo):
    for coder in ("png", "webp", "jpeg2000", "avif"):
        opened = Image.open(io.BytesIO(Lossless(coder=coder).encode(photo)))
        np.testing.assert_array_equal(np.asarray(opened), photo, err_msg=coder)


def test_code_length_rises_with_noise_and_is_below_the_raw_size(photo):
    for coder in CODERS:
        lengths = [Lossless(coder=coder).bpp(noisy(photo, sigma)) for sigma in (0, 5, 10, 20)]
        assert lengths == sorted(lengths) and 4 < lengths[0] < lengths[-1] < 24, coder


def test_jpegls_gains_from_the_colour_transform(photo):
    plain = 8 * len(imagecodecs.jpegls_encode(photo)) / 128**2
    assert Lossless(coder="jpegls").bpp(photo) < plain - 1


def test_effort_is_passed_on(photo):
    for coder in ("jpegxl", "webp", "png"):
        efforts = CODERS[coder].efforts
        low, high = (Lossless(coder=coder, effort=e).bpp(photo) for e in (efforts[0], min(efforts[-1], 7)))
        assert high < low, coder


def test_name_and_version_contain_coder_effort_and_libraries():
    assert [Lossless(coder=c).name for c in ("jpegls", "jpegxl")] == ["jpegls", "jpegxl-e7"]
    version = Lossless(coder="jpegls").version
    assert version.startswith(f"jpegls imagecodecs {imagecodecs.__version__} charls ") and "rct" in version
    assert imagecodecs.jpegxl_version() in Lossless(coder="jpegxl", effort=1).version
    assert Lossless(coder="jpegxl", effort=1).version.startswith("jpegxl-e1 ")


def test_pickles_for_loader_workers(photo):
    lossless = Lossless(coder="jpegxl", effort=1)
    assert pickle.loads(pickle.dumps(lossless)).bpp(photo) == lossless.bpp(photo)


def test_unknown_coders_and_efforts_are_one_sentence():
    for options, words in [
        ({"coder": "gif"}, "jpegls, jpegxl, webp, png, jpeg2000, avif"),
        ({"coder": "jpegxl", "effort": 10}, "from 1 to 9"),
        ({"coder": "jpegls", "effort": 1}, "no effort"),
    ]:
        with pytest.raises(UserError, match=words):
            Lossless(**options)


def test_an_image_too_large_for_the_format_is_one_sentence():
    with pytest.raises(UserError, match="webp cannot code an image of 2 x 17000 pixels"):
        Lossless(coder="webp").encode(np.zeros((17000, 2, 3), np.uint8))


@pytest.mark.parametrize("coder", CODERS)
def test_bytes_of_another_kind_are_one_sentence(coder, photo):
    grey = {"jpegxl": imagecodecs.jpegxl_encode, "png": imagecodecs.png_encode}
    for data in [b"", b"no picture", *([grey[coder](photo[..., 0].copy())] if coder in grey else [])]:
        with pytest.raises(UserError, match="These bytes are not an"):
            Lossless(coder=coder).decode(data)


def test_missing_imagecodecs_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "imagecodecs":
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install imagecodecs"):
        Lossless()
