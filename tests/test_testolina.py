"""Testolina: number of operations, prior, files, and batches with synthetic noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from jdcsuite.coding.container import header_bytes, unpack
from jdcsuite.data.noise import PoissonGaussian
from jdcsuite.models.testolina import LaplaceConditional, Testolina


def test_the_decoder_is_as_large_as_published() -> None:
    """About 107 kMAC per pixel, including the 192 x 192 products of each inverse GDN."""
    net = Testolina()
    macs, side = 0.0, 1 / 16
    for layer in net.net.g_s:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            macs += side**2 * layer.weight.numel()
            side *= 2 if isinstance(layer, torch.nn.ConvTranspose2d) else 1
        elif not isinstance(layer, torch.nn.ReLU):
            macs += side**2 * 192 * 192
    assert side == 1 and macs / 1000 == pytest.approx(107, abs=0.2)


def test_the_conditional_is_laplace() -> None:
    prior = LaplaceConditional(None)
    y, scale = torch.linspace(-6, 6, 25), torch.tensor([0.3, 1.0, 4.0])[:, None].expand(3, 25)
    p = prior._likelihood(y.expand(3, 25), scale).numpy()
    expected = stats.laplace.cdf(y.numpy() + 0.5, scale=scale) - stats.laplace.cdf(y.numpy() - 0.5, scale=scale)
    np.testing.assert_allclose(p, expected, rtol=1e-4, atol=1e-7)
    assert prior._standardized_quantile(1e-6) == pytest.approx(stats.laplace.ppf(1e-6))


def test_a_file_decodes_to_the_image_of_forward_and_has_the_estimated_size() -> None:
    torch.manual_seed(0)
    net = Testolina(num_channels=8, num_latents=12)
    with torch.no_grad():
        net.net.g_a[-1].weight *= 4
    net.eval().update()
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 24), size=(160, 190), mode="bilinear")
    data = net.compress(x)
    with torch.no_grad():
        output = net(x)
    assert torch.allclose(net.decompress(data), output.x_hat.clamp(0, 1), atol=1e-6)
    bits = sum(float(-torch.log2(p).sum()) for p in output.likelihoods.values())
    assert 8 * (len(data) - header_bytes(unpack(data))) == pytest.approx(bits, rel=0.02, abs=130)


def test_its_batches_are_clean_images_with_synthetic_noise() -> None:
    from real_pairs import batches, module

    synthetic = module(None, synthetic=PoissonGaussian(a=0.04, b=0.04), cell=256)
    plain = module(None, cell=256)
    for pair, recorded in zip(batches(synthetic), batches(plain), strict=True):
        assert torch.equal(pair.clean, recorded.clean) and not torch.equal(pair.noisy, recorded.noisy)
        assert all((n - c).abs().mean() > 0.005 for n, c in zip(pair.noisy, pair.clean, strict=True))
        assert pair.sigma.isnan().all()
