"""The clean-entropy network, and FLLIC guided by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fllic_examples import assert_equals_forward, image, mse, ready, tiny
from scipy import integrate

from jdcsuite.coding.container import unpack
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.models.clean_entropy import CleanEntropy, analytic_entropy
from jdcsuite.models.fllic import FLLIC
from jdcsuite.types import UserError


def small_guide(bits: float = 3.3, *, coder: str | None = "png") -> CleanEntropy:
    torch.manual_seed(5)
    guide = CleanEntropy(widths=[4, 4, 8], hidden=8, lossless=Lossless(coder=coder) if coder else None)
    with torch.no_grad():
        guide.head[-1].bias.fill_(bits / guide.unit)
    return guide


@pytest.fixture(scope="module")
def guided() -> FLLIC:
    return ready(tiny(guide=small_guide()))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (70, 33)])
def test_the_guide_is_stored_and_the_decoder_never_computes_it(guided, size, monkeypatch):
    x = image(*size)
    bpp_noisy = guided.guide.lossless.bpp(to_bytes(x[0]))
    with torch.no_grad():
        h_hat = guided.guide(x, sigma=torch.tensor([10.0]), bpp_noisy=torch.tensor([bpp_noisy])).h_hat.item()
        expected = guided(x, sigma=torch.tensor([10.0]), bpp_noisy=torch.tensor([bpp_noisy]))
    data = guided.compress(x, sigma=10.0)
    assert unpack(data).side.h == round(256 * h_hat) > 0
    assert expected.h_hat.item() == unpack(data).side.h / 256

    def never(*args, **kwargs):
        raise AssertionError("the decoder has no noisy image to measure")

    for owner, name in ((CleanEntropy, "forward"), (CleanEntropy, "estimate"), (Lossless, "encode")):
        monkeypatch.setattr(owner, name, never)
    assert_equals_forward(guided.decompress(data), expected.x_hat)


def test_sigma_is_estimated_if_it_is_not_given(guided):
    x = image(96, 96)
    with torch.no_grad():
        blind, informed, wrong = (guided.header(x, sigma=s).side.h for s in (None, estimate_sigma(x[0]), 60.0))
    assert blind == informed != wrong


def test_the_guide_reaches_scales_means_and_steps(guided):
    z = torch.randn(1, 8, 1, 1).round()
    with torch.no_grad():
        low, high = (guided._entropy_parameters(z, torch.tensor([[h / 8]])) for h in (1.0, 6.0))
    for a, b in zip(low, high, strict=True):
        assert (a != b).float().mean() > 0.9


def test_each_image_of_a_batch_has_its_own_guide(guided):
    z = torch.randn(1, 8, 1, 1).round().expand(2, -1, -1, -1)
    with torch.no_grad():
        both = guided._entropy_parameters(z, torch.tensor([[1.0], [6.0]]) / 8)
        for i, h in enumerate((1.0, 6.0)):
            for together, alone in zip(both, guided._entropy_parameters(z[:1], torch.tensor([[h / 8]])), strict=True):
                torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_guide_is_frozen_and_quantised_in_training_too():
    net = tiny(guide=small_guide()).train()
    x = image(64, 64).expand(3, -1, -1, -1)
    output = net(x, sigma=torch.tensor([5.0, 10.0, 40.0]), bpp_noisy=torch.tensor([9.0, 12.0, 15.0]))
    units = output.h_hat * 256
    assert torch.equal(units, units.round()) and len(set(units.tolist())) == 3
    assert not output.h_hat.requires_grad
    mse(output.x_hat, x).backward()
    assert all(p.grad is None and not p.requires_grad for p in net.guide.parameters())


@pytest.mark.parametrize(("bits", "sent"), [(-5.0, 0), (10_000.0, 2**16 - 1)])
def test_a_guide_outside_its_16_bits_is_clamped(bits, sent):
    net = ready(tiny(guide=small_guide(bits)))
    data = net.compress(image(16, 16), sigma=10.0)
    assert unpack(data).side.h == sent
    assert net.decompress(data).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 65), (64, 64)])
def test_clean_entropy_takes_any_size(size):
    x = image(*size).expand(2, -1, -1, -1)
    h_hat = small_guide()(x, sigma=torch.tensor([10.0, 50.0]), bpp_noisy=torch.tensor([12.0, 12.0])).h_hat
    assert h_hat.shape == (2,) and torch.isfinite(h_hat).all() and h_hat[0] != h_hat[1]


def test_clean_entropy_scales_with_its_unit():
    """An output of 1 means ``unit`` bits, and H(noisy) is scaled by the same unit."""
    x, outputs = image(16, 16), []
    for unit in (6.0, 8.0):
        guide = small_guide()
        guide.unit = unit
        with torch.no_grad():
            scalars = {"sigma": torch.tensor([10.0]), "bpp_noisy": torch.tensor([1.75 * unit])}
            outputs.append(guide(x, **scalars).h_hat.item() / unit)
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-5) and outputs[0] != 0


def test_clean_entropy_measures_the_inputs_that_training_provides():
    guide, x = small_guide(), image(40, 30)
    bpp_noisy = 8 * len(guide.lossless.encode(to_bytes(x[0]))) / (40 * 30)
    for sigma in (10.0, None):
        level = torch.tensor([estimate_sigma(x[0]) if sigma is None else sigma])
        with torch.no_grad():
            expected = guide(x, sigma=level, bpp_noisy=torch.tensor([bpp_noisy])).h_hat
        assert torch.equal(guide.estimate(x, sigma=sigma), expected)


def test_clean_entropy_reports_missing_inputs():
    x = image(8, 8)
    with pytest.raises(UserError, match="lossless"):
        small_guide(coder=None).estimate(x, sigma=10.0)
    for inputs in ({"sigma": torch.tensor([1.0])}, {"bpp_noisy": torch.tensor([1.0])}, {}):
        with pytest.raises(UserError, match="sigma and H"):
            small_guide()(x, **inputs)


def analytic_by_quadrature(std: float, sigma: float, *, first_order: bool) -> float:
    """Bits per pixel between noisy and clean for white clean images of ``std``, whose periodogram is exponential."""
    power, floor = std**2 + sigma**2, 1 / 12

    def bits(t: float) -> float:
        ratio = sigma**2 / max(power * t - sigma**2, floor)
        return (ratio / math.log(2) if first_order else math.log2(1 + ratio)) * math.exp(-t)

    knee = (sigma**2 + floor) / power
    parts = [integrate.quad(bits, a, b, limit=200)[0] for a, b in ((0, knee), (knee, knee + 1), (knee + 1, 40))]
    return 3 / 2 * sum(parts)


@pytest.mark.parametrize(("std", "sigma"), [(20, 10), (3, 10), (10, 5)])
def test_analytic_entropy_of_white_noise_equals_the_integral(std, sigma):
    white = np.random.default_rng(std).normal(127, math.hypot(std, sigma), (3, 256, 256)) / 255
    got = analytic_entropy(torch.from_numpy(white), sigma=float(sigma), bpp_noisy=15.0)
    assert got == pytest.approx(15 - analytic_by_quadrature(std, sigma, first_order=False), abs=0.08)
    got = analytic_entropy(torch.from_numpy(white), sigma=float(sigma), bpp_noisy=15.0, first_order=True)
    assert got == pytest.approx(15 - analytic_by_quadrature(std, sigma, first_order=True), rel=0.05)


def test_analytic_entropy_of_an_image_equals_numpy():
    x = image(24, 40)[0]
    pixels = x.double().numpy() * 255
    flat = pixels.reshape(3, -1) - pixels.reshape(3, -1).mean(1, keepdims=True)
    axes, _, _ = np.linalg.svd(flat, full_matrices=False)
    bits = 0.0
    for axis in axes.T:
        periodogram = np.abs(np.fft.fft2((axis @ flat).reshape(24, 40))) ** 2 / (24 * 40)
        eigenvalues = np.maximum(periodogram - 25.0, 1 / 12)
        bits += np.log2((eigenvalues + 25.0) / eigenvalues).sum() / 2
    assert analytic_entropy(x, sigma=5.0, bpp_noisy=12.0) == pytest.approx(12 - bits / (24 * 40), rel=1e-9)
    assert analytic_entropy(x, sigma=0.0, bpp_noisy=12.0) == 12
