"""Standard codecs with the interface of the learned ones: real bytes, any size, exact if lossless, rates that
increase."""

from __future__ import annotations

import io
from functools import cache

import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jdcsuite.baselines.standards import LADDERS, LOSSLESS, LOSSY, Standard, ladder, standard
from jdcsuite.types import UserError


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


@cache
def photo(sigma: float = 0.0, size: int = 192) -> np.ndarray:
    from jdcsuite.imaging.read import embedded

    image = dict(embedded("test"))["coffee.png"][100 : 100 + size, 200 : 200 + size]
    drawn = image + np.random.default_rng(1).normal(0, sigma, image.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def pixels(x: torch.Tensor) -> np.ndarray:
    """The image in 8 bits; checks that each sample is exactly a multiple of 1 / 255 in [0, 1]."""
    eight = (x * 255).round()
    assert x.dtype == torch.float32 and torch.equal(eight / 255, x)
    return eight[0].permute(1, 2, 0).numpy().astype(np.uint8)


def test_all_documented_names_exist():
    plain = {"jpeg", "jpeg-420", "jpeg2000", "jpegxl", "avif", "avif-420", "webp", "png", "jpegls"}
    lossless = {"jpeg2000-lossless", "jpegxl-lossless", "avif-lossless", "webp-lossless"}
    assert set(LADDERS) == plain | lossless
    assert set(LOSSLESS) == lossless | {"png", "jpegls"} and set(LOSSY) == plain - {"png", "jpegls"}


@pytest.mark.parametrize("codec", LADDERS)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_size_is_coded(codec, height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ladder = LADDERS[codec]
    standard = Standard(codec=codec, quality=ladder[seed % len(ladder)])
    data = standard.compress(tensor(image), sigma=10.0)
    x_hat = standard.decompress(data)
    assert isinstance(data, bytes) and x_hat.shape == (1, 3, height, width)
    assert x_hat.min() >= 0 and x_hat.max() <= 1
    if codec in LOSSLESS:
        np.testing.assert_array_equal(pixels(x_hat), image)


@pytest.mark.parametrize("codec", LADDERS)
def test_one_pixel(codec):
    standard = Standard(codec=codec, quality=LADDERS[codec][-1])
    assert standard.decompress(standard.compress(torch.full((1, 3, 1, 1), 0.5))).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("codec", LOSSY)
def test_the_rates_of_a_ladder_increase_over_the_relevant_range(codec):
    noisy, bpps, fits = photo(10.0), [], []
    for quality in LADDERS[codec]:
        standard = Standard(codec=codec, quality=quality)
        data = standard.compress(tensor(noisy))
        bpps.append(8 * len(data) / noisy.shape[0] / noisy.shape[1])
        fits.append(psnr(pixels(standard.decompress(data)), noisy))
    assert bpps == sorted(bpps), bpps
    assert bpps[0] < 0.35 and bpps[-1] > 4.5, bpps
    assert fits[0] < 26 < 29 < fits[-1] and len(bpps) >= 8, fits


def test_bytes_equal_those_of_the_library():
    """Against a second encoder (libjpeg and libwebp in Pillow) or a direct call of the library."""
    image, x = photo(5.0), tensor(photo(5.0))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=80, subsampling=0, optimize=True)
    ours = Standard(codec="jpeg", quality=80)
    assert len(ours.compress(x)) == pytest.approx(len(file.getvalue()), rel=0.01)
    np.testing.assert_allclose(pixels(ours.decompress(ours.compress(x))), np.asarray(Image.open(file)), atol=2)

    file = io.BytesIO()
    Image.fromarray(image).save(file, "webp", quality=80, method=4)
    assert len(Standard(codec="webp", quality=80).compress(x)) == pytest.approx(len(file.getvalue()), rel=0.02)

    by_hand = imagecodecs.jpegxl_encode(image, distance=1.5, effort=5)
    assert len(Standard(codec="jpegxl", quality=1.5, effort=5).compress(x)) == len(by_hand)
    by_hand = imagecodecs.avif_encode(image, level=60, speed=8, pixelformat="444")
    assert len(Standard(codec="avif", quality=60, effort=2).compress(x)) == len(by_hand)


def test_jpeg2000_reaches_the_requested_psnr():
    for target in (28, 34, 40):
        standard = Standard(codec="jpeg2000", quality=target)
        out = pixels(standard.decompress(standard.compress(tensor(photo(5.0)))))
        assert psnr(out, photo(5.0)) == pytest.approx(target, abs=2.0)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "jpegxl", "avif"])
def test_chroma_is_not_subsampled(codec):
    """Columns of alternating colour and equal luma survive at high quality; 4:2:0 would average them."""
    image = np.empty((64, 64, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (200, 60, 60), (44, 140, 60)
    standard = Standard(codec=codec, quality={"jpeg": 98, "jpeg2000": 45, "jpegxl": 0.1, "avif": 98}[codec])
    out = pixels(standard.decompress(standard.compress(tensor(image)))).astype(int)
    assert np.abs(out - image).mean() < 8


@pytest.mark.parametrize("codec", ["jpeg-420", "avif-420", "webp"])
def test_chroma_is_subsampled_where_the_name_says_so(codec):
    image = np.empty((64, 64, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (200, 60, 60), (44, 140, 60)
    half = Standard(codec=codec, quality=98)
    assert np.abs(pixels(half.decompress(half.compress(tensor(image)))).astype(int) - image).mean() > 20


def test_input_is_clamped_and_rounded():
    x = torch.tensor([-0.3, 0.4 / 255, 0.6 / 255, 1.7]).repeat(1, 3, 2, 1)
    standard = Standard(codec="png")
    expected = torch.tensor([0, 0, 1 / 255, 1]).repeat(1, 3, 2, 1)
    assert torch.equal(standard.decompress(standard.compress(x)), expected)
    assert standard.compress(x.requires_grad_()) == standard.compress(expected.double().float())


@pytest.mark.parametrize("codec", LADDERS)
def test_coding_is_deterministic(codec):
    image = tensor(photo(10.0)[:64, :64])
    one, two = (Standard(codec=codec, quality=LADDERS[codec][-2:][0]).compress(image) for _ in range(2))
    assert one == two


def test_names_and_versions():
    assert Standard(codec="jpegxl", quality=1).name == "jpegxl"
    assert Standard(codec="jpegxl", quality=1, effort=3).name == "jpegxl-e3"
    assert Standard(codec="jpegxl-lossless").name == "jpegxl-lossless"
    assert Standard(codec="jpegxl-lossless", effort=1).name == "jpegxl-lossless-e1"
    versions = {codec: Standard(codec=codec, quality=LADDERS[codec][0]).version for codec in LADDERS}
    for codec, library in {
        "jpeg": "libjpeg_turbo",
        "jpeg2000": "openjpeg",
        "avif-lossless": "libavif",
    }.items():
        assert f"imagecodecs {imagecodecs.__version__} {library}" in versions[codec]
    assert Standard(codec="avif", quality=50, effort=0).version.startswith("avif-e0 ")
    assert Standard(codec="avif-420", quality=50).version.startswith("avif-420-e6 ")
    assert standard("jpegxl-e9", 2).effort == 9 and standard("avif-420", 50).effort == 6
    assert ladder("avif-420-e4") == LADDERS["avif-420"] and ladder("avif-e") is ladder("avif-e444") is None


def test_wrong_arguments_are_one_sentence():
    for options, words in [
        ({"codec": "bpg", "quality": 1}, "jpeg, jpeg-420, jpeg2000, jpegxl, avif, avif-420, webp, .*jpegls"),
        ({"codec": "jpeg"}, "from 1 to 100 .*ladder: 1, 5"),
        ({"codec": "jpeg", "quality": 0}, "from 1 to 100"),
        ({"codec": "jpeg", "quality": 50.5}, "whole-number"),
        ({"codec": "jpegxl", "quality": 0}, "from 0.05 to 25 .*lower is better"),
        ({"codec": "avif", "quality": 100}, "from 0 to 99"),
        ({"codec": "jpeg2000", "quality": float("nan")}, "from 10 to 60"),
        ({"codec": "jpegxl-lossless", "quality": 2}, "loses nothing"),
        ({"codec": "jpeg", "quality": 50, "effort": 1}, "no effort"),
        ({"codec": "avif", "quality": 50, "effort": 11}, "from 0 to 10"),
        ({"codec": "webp-lossless", "effort": 7}, "from 0 to 6"),
    ]:
        with pytest.raises(UserError, match=words):
            Standard(**options)


def test_an_unsupported_size_is_one_sentence():
    with pytest.raises(UserError, match="jpeg cannot code an image of 66000 x 1 pixels"):
        Standard(codec="jpeg", quality=50).compress(torch.zeros(1, 3, 1, 66000))


@pytest.mark.parametrize("codec", LADDERS)
def test_bytes_of_another_format_are_one_sentence(codec):
    for data in (b"", b"no image"):
        with pytest.raises(UserError, match="These bytes are no"):
            Standard(codec=codec, quality=LADDERS[codec][0]).decompress(data)
