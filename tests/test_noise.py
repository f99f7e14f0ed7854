"""Test noise depends on the image only, training noise on the sample only, and both have their level."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jdcsuite.data.draw import Draw
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.data.noise import GaussianNoise, PoissonGaussian
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.types import UserError


def grey(height: int = 64, width: int = 64, level: float = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def of(*seeds: int) -> Draw:
    """A draw for noise that is drawn image by image."""
    return Draw(numbers=range(len(seeds)), seeds=seeds, batch=len(seeds), seed=0, device="cpu")


def gradient(height: int, width: int) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    return np.stack([60 + row / 4, 90 + column / 5, 200 - (row + column) / 6], 2).astype(np.uint8)


def by_numpy(clean: np.ndarray, sigma: float, seed: int, text: str) -> np.ndarray:
    """Independent implementation: SHA-256 of pixels, shape, sigma and seed into numpy's legacy generator."""
    digest = hashlib.sha256(clean.tobytes() + text.encode()).digest()
    random = np.random.RandomState(np.frombuffer(digest, "<u4"))
    return clean + sigma * random.standard_normal(clean.shape)


# -- test noise ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    clean=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda s: arrays(np.uint8, (*s, 3))),
    sigma=st.sampled_from([0.0, 2.5, 10.0, 50.0]),
    seed=st.integers(0, 2**31),
)
def test_fixed_noise_against_numpy(clean, sigma, seed):
    height, width, _ = clean.shape
    expected = by_numpy(clean, sigma, seed, f"({height}, {width}, 3) {sigma:g} {seed}")
    drawn = GaussianNoise(sigma=sigma, protocol="float").fixed(clean, seed=seed)
    assert drawn.shape == (3, height, width) and drawn.dtype == torch.float32 and drawn.is_contiguous()
    np.testing.assert_allclose(drawn.permute(1, 2, 0).numpy() * 255, expected, atol=1e-4)
    clipped = GaussianNoise(sigma=sigma).fixed(clean, seed=seed).permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(clipped, np.clip(expected, 0, 255), atol=0.5001)
    np.testing.assert_allclose(clipped, np.rint(clipped), atol=1e-4)


GOLDEN = [52, 49, 60, 62, 97, 86, 102, 81, 187, 200, 209, 201]  # of gradient(2, 2) at sigma 10, seed 0


def test_fixed_noise_never_changes_between_versions():
    """Results of different machines and years are compared image by image."""
    noisy = GaussianNoise(sigma=10).fixed(gradient(2, 2), seed=0)
    assert (noisy * 255).round().int().flatten().tolist() == GOLDEN


def test_fixed_noise_is_independent_of_global_state():
    noise, pictures = GaussianNoise(sigma=10), [grey(8, 9, level) for level in (10, 120, 240)]
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    there = [noise.fixed(p, seed=0) for p in pictures]
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    back = [GaussianNoise(sigma=10).fixed(p.copy(order="F"), seed=0) for p in reversed(pictures)]
    assert all(torch.equal(a, b) for a, b in zip(there, reversed(back), strict=True))


def test_fixed_noise_differs_by_pixels_shape_sigma_and_seed():
    def standardised(clean: np.ndarray, sigma: float = 10.0, seed: int = 0) -> np.ndarray:
        noisy = GaussianNoise(sigma=sigma, protocol="float").fixed(clean, seed=seed)
        return (noisy.permute(1, 2, 0).numpy() * 255.0 - clean).ravel() / sigma

    one_off = grey(12, 8)
    one_off[0, 0, 0] += 1
    base = standardised(grey(12, 8))
    others = [
        standardised(one_off), standardised(grey(8, 12)), standardised(grey(12, 8), sigma=10.5),
        standardised(grey(12, 8), seed=1),
    ]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.25


# -- training noise --------------------------------------------------------------------------------------------


def test_training_noise_depends_on_the_sample_not_the_rank():
    noise, clean = GaussianNoise(sigma=15), torch.rand(4, 3, 16, 16)

    def at(*places: int, step: int = 2, seed: int = 3) -> torch.Tensor:
        numbers = [4 * step + place for place in places]
        return noise(clean[list(places)], Draw(numbers=numbers, seeds=numbers, batch=4, seed=seed, device="cpu"))

    torch.manual_seed(1)
    batch = at(0, 1, 2, 3)
    torch.manual_seed(2)
    for places in ([1], [3], [0, 2], [1, 3], [2, 0], [0, 3], [0, 1, 3]):
        assert torch.equal(at(*places), batch[places]), places
    assert not torch.equal(batch, at(0, 1, 2, 3, step=3)) and not torch.equal(batch, at(0, 1, 2, 3, seed=4))
    first = Draw.whole(2, seed=1)
    assert not torch.equal(first.normal(4), first.normal(4)), "every call gives new numbers"
    assert first.uniform(1000).min() >= 0 and first.uniform(1000).max() < 1


def test_training_noise_of_different_places_and_colours_is_independent():
    noise = GaussianNoise(sigma=20, protocol="float")
    drawn = noise(torch.full((6, 3, 64, 64), 0.5), Draw.whole(6, seed=0)) - 0.5
    correlation = np.corrcoef(drawn.view(18, -1).numpy())
    assert np.abs(correlation - np.eye(18)).max() < 0.08  # 5 standard deviations


@pytest.mark.parametrize("protocol", ["float", "clip8"])
@pytest.mark.parametrize("sigma", [1.0, 10.0, 40.0])
def test_noise_has_its_deviation_and_zero_mean(sigma, protocol):
    noise = GaussianNoise(sigma=sigma, protocol=protocol)
    rounding = 1 / 12 if protocol == "clip8" else 0.0
    trained = noise(torch.full((2, 3, 128, 128), 128 / 255), Draw.whole(2, seed=3)) * 255 - 128
    tested = noise.fixed(grey(128, 256), seed=0) * 255 - 128
    for drawn in (trained, tested):
        assert drawn.std().item() == pytest.approx((sigma**2 + rounding) ** 0.5, rel=0.01)
        assert abs(drawn.mean().item()) < 4 * sigma / drawn.numel() ** 0.5


def test_clip8_pictures_are_8_bit_pictures():
    noise, clean = GaussianNoise(sigma=60), torch.rand(2, 3, 32, 32)
    for noisy in (*noise(clean, Draw.whole(2, seed=1)), noise.fixed(grey(32, 32, 250), seed=0)):
        assert noisy.min() == 0 or noisy.max() == 1
        levels = noisy.double().numpy() * 255
        np.testing.assert_allclose(levels, np.rint(levels), atol=2e-5)
        assert torch.equal(to_tensor(to_bytes(noisy)), noisy)


def test_the_float_protocol_neither_rounds_nor_clips():
    noisy = GaussianNoise(sigma=60, protocol="float")(torch.rand(1, 3, 32, 32), Draw.whole(1, seed=1))
    assert noisy.min() < 0 and noisy.max() > 1
    assert ((noisy * 255 - (noisy * 255).round()).abs() > 0.1).float().mean() > 0.7


def test_sigma_zero_changes_nothing():
    clean = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    for protocol in ("clip8", "float"):
        noise = GaussianNoise(sigma=0, protocol=protocol)
        np.testing.assert_array_equal(to_bytes(noise.fixed(clean, seed=3)), clean)
        np.testing.assert_array_equal(to_bytes(noise(to_tensor(clean)[None], Draw.whole(1, seed=3))[0]), clean)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf"), float("-inf"), True])
def test_an_impossible_sigma_is_refused(sigma):
    with pytest.raises(UserError, match="sigma="):
        GaussianNoise(sigma=sigma)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UserError, match="clip8 or float"):
        GaussianNoise(sigma=1, protocol="clip16")


# -- bytes, tensors, blind estimate ----------------------------------------------------------------------------


@given(arrays(np.uint8, (3, 4, 3)))
@settings(deadline=None, max_examples=50)
def test_bytes_and_tensors_are_inverse(image):
    tensor = to_tensor(image)
    assert tensor.shape == (3, 3, 4) and tensor.dtype == torch.float32
    assert tensor[2, 1, 3].item() == np.float32(image[1, 3, 2]) / np.float32(255)
    np.testing.assert_array_equal(to_bytes(tensor), image)


def test_to_bytes_rounds_and_clips():
    image = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 3.0]).view(1, 1, 6).expand(3, -1, -1)
    assert to_bytes(image)[0, :, 1].tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("sigma", [3, 10, 30])
def test_blind_estimate_is_within_five_percent_on_a_smooth_picture(sigma):
    noisy = GaussianNoise(sigma=sigma).fixed(gradient(256, 256), seed=0)
    assert estimate_sigma(noisy) == pytest.approx(sigma, rel=0.05)


def test_blind_estimate_is_scikit_images() -> None:
    from skimage.restoration import estimate_sigma as expected

    for noisy in (torch.rand(3, 37, 41), GaussianNoise(sigma=5).fixed(gradient(64, 48), seed=0)):
        assert estimate_sigma(noisy) == pytest.approx(
            255 * expected(noisy.numpy(), channel_axis=0, average_sigmas=True)
        )


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_blind_estimate_of_a_black_or_white_picture_is_zero_not_nan(level: float) -> None:
    picture = torch.full((3, 64, 64), level)
    assert estimate_sigma(picture) == pytest.approx(0, abs=1e-4)
    picture[:, :, 32:] = 0
    assert estimate_sigma(picture) == pytest.approx(0, abs=1e-4), "an edge has no diagonal details"


def test_blind_estimate_of_a_tiny_picture_is_zero():
    for shape in ((3, 1, 1), (3, 3, 200), (3, 200, 3)):
        assert estimate_sigma(torch.rand(shape)) == 0.0
    assert estimate_sigma(torch.rand(3, 4, 4)) > 0


# -- signal-dependent noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["training", "test"])
@pytest.mark.parametrize("grey", [0.25, 0.5])
def test_poisson_gaussian_has_the_variance_of_its_formula(how: str, grey: float) -> None:
    noise = PoissonGaussian(a=0.002, b=0.03, protocol="float")
    value = round(grey * 255) / 255
    if how == "training":
        noisy = noise(torch.full((2, 3, 128, 128), value), Draw.whole(2, seed=1))
    else:
        noisy = noise.fixed(np.full((128, 128, 3), round(grey * 255), np.uint8), seed=0)
    assert float(noisy.mean()) == pytest.approx(value, abs=0.001)
    assert float(noisy.var()) == pytest.approx(0.002 * value + 0.03**2, rel=0.03)


def test_poisson_gaussian_is_a_function_of_the_seed_and_of_the_pixels() -> None:
    noise, clean = PoissonGaussian(a=[0.001, 0.1], b=[0.001, 0.1]), torch.rand(2, 3, 32, 32)
    assert torch.equal(noise(clean, of(5, 6))[1], noise(clean[1:], of(6))[0])
    assert not torch.equal(noise(clean, of(5, 6))[0], noise(clean, of(7, 6))[0])
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert torch.equal(noise.fixed(image, seed=1), noise.fixed(image.copy(), seed=1))
    assert not torch.equal(noise.fixed(image, seed=1), noise.fixed(image, seed=2))
    levels = [float((noise(clean[:1], of(seed)) - clean[:1]).std()) for seed in range(30)]
    assert max(levels) > 4 * min(levels), "each image has its own level"
    assert np.isnan(noise.sigma) and noise.protocol == "poisson-gaussian clip8"
    for noisy in (noise(clean, of(0, 1)), noise.fixed(image, seed=0)):
        assert noisy.min() >= 0 and noisy.max() <= 1 and torch.allclose(noisy * 255, (noisy * 255).round(), atol=1e-4)


@pytest.mark.parametrize("wrong", [{"a": 0.0}, {"b": [0.1, 0.01]}, {"a": [0.1]}, {"protocol": "raw"}])
def test_poisson_gaussian_refuses_unusable_levels(wrong: dict) -> None:
    with pytest.raises(UserError):
        PoissonGaussian(**wrong)
