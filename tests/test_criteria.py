"""Criteria: every loss against numpy, and which of them ignore the clean image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.models.fllic import FLLIC
from jdcsuite.training.criteria import EntropyGuided, EntropyRegression, RateDistortion
from jdcsuite.training.supervision import NoisyTarget, Recorrupted, Supervised
from jdcsuite.types import Output, Pair, UserError

SIDE = 16


def pair(b: int = 3, *, sigma: float = 10.0, seed: int = 0, side: int = SIDE) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(b, 3, side, side, generator=generator) * 0.8 + 0.1
    noisy = GaussianNoise(sigma=sigma)(clean, Draw.whole(b, seed=seed))
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((b,), sigma))


def output(x_hat: Tensor, bpp: list[float], *, h_hat: list[float] | None = None) -> Output:
    """An Output that spends ``bpp`` bits per pixel, a quarter of them on z."""
    pixels = x_hat.shape[-2] * x_hat.shape[-1]

    def spread(share: float, shape: tuple[int, ...]) -> Tensor:
        bits = torch.tensor(bpp, dtype=torch.float64) * pixels * share / math.prod(shape)
        return torch.exp2(-bits).float().view(-1, 1, 1, 1).expand(-1, *shape).clone().requires_grad_()

    likelihoods = {"y": spread(0.75, (8, 8, 8)), "z": spread(0.25, (2, 4, 4))}
    return Output(x_hat=x_hat, likelihoods=likelihoods, h_hat=None if h_hat is None else torch.tensor(h_hat))


def guess(it: Pair, error: float = 0.02) -> Tensor:
    return (it.clean + error * torch.randn(it.clean.shape, generator=torch.Generator().manual_seed(9))).requires_grad_()


def squared_error(x_hat: Tensor, target: Tensor) -> np.ndarray:
    return ((x_hat.detach().double().numpy() - target.double().numpy()) ** 2).mean((1, 2, 3))


# -- rate and distortion ---------------------------------------------------------------------------------------


def test_rate_distortion_equals_numpy():
    it = pair()
    out = output(guess(it), [0.5, 2.0, 4.0])
    parts = RateDistortion(lmbda=300.0, supervision=Supervised())(out, it)
    error = squared_error(out.x_hat, it.clean)
    assert parts["loss"].item() == pytest.approx((np.array([0.5, 2, 4]) + 300 * error).mean(), rel=1e-5)
    expected = {"bpp": 6.5 / 3, "mse": error.mean(), "bpp_y": 6.5 / 4, "bpp_z": 6.5 / 12}
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-5)
        assert not parts[name].requires_grad
    assert parts["loss"].requires_grad and set(parts) == {"loss", *expected}


def test_ms_ssim_replaces_the_mse():
    """Compared with another implementation, which treats borders slightly differently."""
    from pytorch_msssim import ms_ssim

    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 24, 24, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, size=(192, 192), mode="bilinear")
    it = replace(pair(2, side=192), clean=clean)
    out = output((clean + 0.05 * torch.randn(clean.shape, generator=generator)).requires_grad_(), [0.005, 0.02])
    parts = RateDistortion(lmbda=32.0, supervision=Supervised(), distance="ms_ssim")(out, it)
    expected = ms_ssim(out.x_hat.detach(), clean, data_range=1.0, size_average=False)
    assert expected.min() > 0.5 and expected.max() < 0.99
    assert parts["ms_ssim"].item() == pytest.approx(expected.mean().item(), abs=5e-3)
    assert parts["loss"].item() == pytest.approx(0.0125 + 32 * (1 - parts["ms_ssim"].item()), rel=1e-5)
    assert parts["mse"].item() == pytest.approx(squared_error(out.x_hat, clean).mean(), rel=1e-4)
    (gradient,) = torch.autograd.grad(parts["loss"], out.x_hat)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("side", "weight", "message"), [(175, None, "176 pixels or more"), (176, 1.0, "cannot leave out clipped samples")]
)
def test_ms_ssim_refuses_small_crops_and_weights(side: int, weight: float | None, message: str):
    it = pair(1, side=side)
    it = replace(it, weight=None if weight is None else torch.full_like(it.clean, weight))
    criterion = RateDistortion(lmbda=32.0, supervision=Supervised(), distance="ms_ssim")
    with pytest.raises(UserError, match=message):
        criterion(output(guess(it), [1.0]), it)
    with pytest.raises(UserError, match="distance=l1 is unknown: choose mse or ms_ssim"):
        RateDistortion(lmbda=32.0, supervision=Supervised(), distance="l1")


def test_the_error_of_an_unclamped_reconstruction_counts():
    it = pair(1)
    parts = RateDistortion(lmbda=1.0, supervision=Supervised())(output(it.clean + 2.0, [1.0]), it)
    assert parts["mse"].item() == pytest.approx(4.0, rel=1e-5)


def test_samples_of_weight_zero_do_not_count():
    it = pair()
    weight = (torch.rand(it.clean.shape, generator=torch.Generator().manual_seed(4)) > 0.3).float()
    weight[2] = 0  # all of this image
    x_hat = guess(it)
    criterion = RateDistortion(lmbda=50.0, supervision=Supervised())
    out = output(x_hat, [1.0, 1.0, 1.0])
    parts = criterion(out, replace(it, weight=weight))
    square = (x_hat.detach() - it.clean).double().numpy() ** 2
    w = weight.double().numpy()
    expected = (square * w).sum((1, 2, 3)) / np.maximum(w.sum((1, 2, 3)), 1)
    assert parts["mse"].item() == pytest.approx(expected.mean(), rel=1e-5) and expected[2] == 0
    (gradient,) = torch.autograd.grad(parts["loss"], x_hat)
    assert (gradient[weight == 0] == 0).all() and (gradient[weight == 1] != 0).all()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_lmbda_and_rate_scale_have_to_be_positive(value):
    with pytest.raises(UserError, match="lmbda="):
        RateDistortion(lmbda=value, supervision=Supervised())
    with pytest.raises(UserError, match="lmbda="):
        EntropyGuided(lmbda=value, target="codec")
    with pytest.raises(UserError, match="rate_scale="):
        EntropyGuided(lmbda=1.0, target="codec", rate_scale=value)


# -- what supervises -------------------------------------------------------------------------------------------

BLIND = {
    "noisy": lambda: RateDistortion(lmbda=100.0, supervision=NoisyTarget()),
    "recorrupted": lambda: RateDistortion(lmbda=100.0, supervision=Recorrupted()),
    "guided": lambda: EntropyGuided(lmbda=100.0, target="codec"),
    "as_written": lambda: EntropyGuided(lmbda=100.0, target="lossless", as_written=True),
    "distortion": lambda: EntropyGuided(lmbda=100.0, target="distortion"),
}


@pytest.mark.parametrize("name", BLIND)
def test_methods_for_noisy_images_ignore_the_clean_ones(name):
    it = pair()
    unknown = replace(it, clean=torch.full_like(it.clean, math.nan))
    x_hat, losses = guess(it).detach(), []
    for data in (it, unknown):
        criterion = BLIND[name]()
        torch.manual_seed(0)
        prepared = criterion.prepare(data)
        losses.append(criterion(output(x_hat, [1.0, 2.0, 3.0], h_hat=[1.5, 1.5, 1.5]), prepared)["loss"].item())
    assert losses[0] == losses[1] and math.isfinite(losses[0])


# -- entropy-guided --------------------------------------------------------------------------------------------


def test_guided_loss_equals_numpy_with_the_lean_of_each_crop():
    it = pair()
    criterion = EntropyGuided(lmbda=200.0, target="codec", rate_scale=0.8, lean=0.7).train()
    prepared = criterion.prepare(it)
    bpp, h = np.array([1.0, 2.0, 6.0]), np.array([2.5, 2.5, 2.5])
    out = output(guess(it), bpp.tolist(), h_hat=h.tolist())
    parts = criterion(out, prepared)
    shortfall = np.log(0.8 * h / bpp)
    mu = 200 * np.exp(0.7 * shortfall)
    error = squared_error(out.x_hat, it.noisy)
    assert parts["loss"].item() == pytest.approx((bpp + mu * error).mean(), rel=1e-5)
    assert parts["shortfall"].item() == pytest.approx(shortfall.mean(), abs=1e-5)
    assert mu[0] > mu[1] > mu[2]  # the crop that spends too little weighs its MSE more
    (by_x_hat,) = torch.autograd.grad(parts["loss"], out.x_hat)
    expected = 2 * mu[:, None, None, None] * (out.x_hat.detach() - it.noisy).numpy() / it.noisy.numel()
    np.testing.assert_allclose(by_x_hat.numpy(), expected, rtol=1e-3, atol=1e-9)


def test_guided_priors_always_minimise_bits():
    """A bit costs the same above and below the target rate."""
    it, pixels = pair(), SIDE * SIDE
    for h in (0.1, 0.8, 5.0, 50.0):
        criterion = EntropyGuided(lmbda=10.0, target="lossless")
        out = output(guess(it), [1.0, 2.0, 3.0], h_hat=[h] * 3)
        loss = criterion(out, criterion.prepare(it))["loss"]
        for p in out.likelihoods.values():
            (gradient,) = torch.autograd.grad(loss, p, retain_graph=True)
            np.testing.assert_allclose(
                gradient.numpy(), -1 / (p.detach().numpy() * math.log(2) * pixels * 3), rtol=1e-5
            )


@pytest.mark.parametrize(("h", "direction"), [(4.0, 1), (1.0, -1), (2.0, 0)])
def test_dual_ascent_raises_mu_where_too_few_bits_are_spent_and_lowers_it_where_too_many(h, direction):
    it = pair()
    criterion = EntropyGuided(lmbda=100.0, target="codec", dual_rate=0.05).train()
    for step in range(1, 4):
        parts = criterion(output(guess(it), [2.0] * 3, h_hat=[h] * 3), criterion.prepare(it))
        expected = 100 * math.exp(0.05 * step * math.log(h / 2))
        assert parts["mu"].item() == pytest.approx(expected, rel=1e-4)
    assert np.sign(round(parts["mu"].item() - 100, 3)) == direction


def test_dual_ascent_steps_are_bounded_and_happen_in_training_only():
    it = pair()
    criterion = EntropyGuided(lmbda=100.0, target="codec", dual_rate=0.05)
    out = output(guess(it), [1.0] * 3, h_hat=[1e4] * 3)
    criterion.eval()(out, criterion.prepare(it))
    assert criterion.log_mu.item() == pytest.approx(math.log(100))
    criterion.train()(out, criterion.prepare(it))
    assert criterion.log_mu.item() == pytest.approx(math.log(100) + 0.05 * 2)
    broken = replace(out, h_hat=torch.tensor([math.nan, 1.0, 1.0]))
    criterion(broken, criterion.prepare(it))
    assert criterion.log_mu.item() == pytest.approx(math.log(100) + 0.05 * 2)


def test_mu_is_a_buffer_that_checkpoints_keep():
    criterion = EntropyGuided(lmbda=100.0, target="codec")
    assert criterion.state_dict()["log_mu"].item() == pytest.approx(math.log(100))
    assert list(criterion.parameters()) == []


@pytest.mark.parametrize("target_bpp", [0.7, 3.0])
def test_dual_ascent_finds_the_mu_that_meets_the_rate(target_bpp):
    """A codec with bpp = log2(mu) / 2 - 2, as in high-rate theory, for the mu of each crop."""
    it = pair()
    criterion = EntropyGuided(lmbda=64.0, target="codec", dual_rate=0.1).train()
    prepared, bpp = criterion.prepare(it), np.full(3, 1.0)
    offset = np.array([-0.2, 0.0, 0.2])  # crops differ
    for _ in range(400):
        shortfall = np.log(target_bpp / bpp)
        log_mu = criterion.log_mu.item()
        criterion(output(it.noisy, bpp.tolist(), h_hat=[target_bpp] * 3), prepared)
        wanted = np.maximum((log_mu + shortfall) / math.log(2) / 2 - 2 + offset, 0.05)
        bpp += 0.2 * (wanted - bpp)
    assert bpp.mean() == pytest.approx(target_bpp, rel=0.02)


@pytest.mark.parametrize("sigma", [5.0, 10.0, 25.0, 50.0])
def test_distortion_target_is_the_power_of_clipped_and_rounded_noise(sigma):
    """A reconstruction equal to the clean image differs from the noisy one by the noise, so its shortfall is 0."""
    generator = torch.Generator().manual_seed(3)
    clean = (torch.rand(2, 3, 256, 256, generator=generator) * 255).round() / 255
    it = Pair(
        noisy=GaussianNoise(sigma=sigma)(clean, Draw.whole(2, seed=1)), clean=clean, sigma=torch.full((2,), sigma)
    )
    criterion = EntropyGuided(lmbda=1.0, target="distortion")
    prepared = criterion.prepare(it)
    monte_carlo = ((it.noisy - clean) ** 2).mean().item()
    assert monte_carlo < 0.98 * (sigma / 255) ** 2 or sigma < 20  # clipping has an effect
    assert criterion(output(clean, [1.0, 1.0]), prepared)["shortfall"].item() == pytest.approx(0, abs=0.04)
    twice = clean + (clean - it.noisy) * (math.sqrt(2) - 1)
    assert criterion(output(twice, [1.0, 1.0]), prepared)["shortfall"].item() == pytest.approx(math.log(2), abs=0.04)


def test_distortion_target_without_saturation_is_sigma_squared_plus_rounding():
    for sigma in (0.5, 3.0, 20.0):
        noisy = torch.full((1, 3, 8, 8), 0.5)
        it = Pair(noisy=noisy, clean=noisy, sigma=torch.tensor([sigma]))
        criterion = EntropyGuided(lmbda=1.0, target="distortion")
        x_hat = noisy + math.sqrt(sigma**2 + 1 / 12) / 255
        assert criterion(output(x_hat, [1.0]), criterion.prepare(it))["shortfall"].item() == pytest.approx(0, abs=1e-3)


def test_the_weight_of_a_crop_has_no_gradient():
    """Otherwise a crop could lower its loss by changing its own constraint."""
    it = pair()
    criterion = EntropyGuided(lmbda=100.0, target="distortion")
    prepared = criterion.prepare(it)
    out = output((it.noisy + 0.05).requires_grad_(), [1.0, 2.0, 3.0])
    parts = criterion(out, prepared)
    (gradient,) = torch.autograd.grad(parts["loss"], out.x_hat)
    mu = (parts["loss"].item() - 2.0) / 0.05**2
    np.testing.assert_allclose(gradient.sum((1, 2, 3)).mean().item(), 2 * mu * 0.05 / 3, rtol=1e-3)


def test_distortion_target_raises_mu_where_the_error_is_above_the_noise():
    it = pair()
    for error, grows in ((0.2, True), (1e-4, False)):
        criterion = EntropyGuided(lmbda=100.0, target="distortion").train()
        prepared = criterion.prepare(it)
        parts = criterion(output(it.noisy + error, [1.0] * 3), prepared)
        assert (parts["mu"].item() > 100) is grows


def test_as_written_is_the_penalty_of_the_paper():
    it = pair()
    criterion = EntropyGuided(lmbda=30.0, target="lossless", rate_scale=0.5, as_written=True).train()
    out = output(guess(it), [1.0, 2.0, 6.0], h_hat=[6.0, 6.0, 6.0])
    parts = criterion(out, criterion.prepare(it))
    error = squared_error(out.x_hat, it.noisy)
    assert parts["loss"].item() == pytest.approx((np.array([2.0, 1.0, 3.0]) + 30 * error).mean(), rel=1e-5)
    assert parts["h_hat"].item() == 6 and criterion.log_mu.item() == pytest.approx(math.log(30))
    (by_p,) = torch.autograd.grad(parts["loss"], out.likelihoods["y"])
    signs = np.sign(by_p.numpy())  # below H, spending more bits lowers the loss
    assert (signs[:2] > 0).all() and (signs[2] < 0).all()


def test_unknown_and_contradictory_targets_are_refused():
    with pytest.raises(UserError, match="target=entropy"):
        EntropyGuided(lmbda=1.0, target="entropy")
    with pytest.raises(UserError, match="as_written"):
        EntropyGuided(lmbda=1.0, target="distortion", as_written=True)
    with pytest.raises(UserError, match=r"rate_scale=0\.7 has no effect with target=distortion"):
        EntropyGuided(lmbda=1.0, target="distortion", rate_scale=0.7)


# -- regression of the entropy ---------------------------------------------------------------------------------


def test_regression_on_lossless_lengths_is_smooth_l1():
    it = replace(pair(), bpp_clean=torch.tensor([8.0, 9.0, 10.0]))
    h_hat = torch.tensor([8.5, 12.0, 9.9], requires_grad=True)
    parts = EntropyRegression()(Output(h_hat=h_hat), it)
    error = np.array([0.5, 3.0, 0.1])
    smooth = np.where(error < 1, error**2 / 2, error - 0.5)
    assert parts["loss"].item() == pytest.approx(smooth.mean(), rel=1e-5)
    assert parts["rmse"].item() == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert parts["h_clean"].item() == 9 and not parts["rmse"].requires_grad
    (gradient,) = torch.autograd.grad(parts["loss"], h_hat)
    np.testing.assert_allclose(gradient.numpy(), np.array([0.5, 1, -0.1]) / 3, rtol=1e-4)


def test_regression_without_code_lengths_is_refused():
    with pytest.raises(UserError, match="lossless"):
        EntropyRegression().prepare(pair())


def test_regression_on_a_codec_learns_its_rate_and_never_trains_it():
    torch.manual_seed(0)
    codec = FLLIC(widths=[8, 8, 16], num_latents=16, prior_width=4)
    it = pair(side=70)
    with torch.no_grad():
        likelihoods = codec.eval()(it.noisy).likelihoods
    expected = sum(-np.log2(p.numpy()).sum((1, 2, 3)) for p in likelihoods.values()) / 70**2
    before = {name: t.clone() for name, t in codec.state_dict().items()}

    criterion = EntropyRegression(codec=codec)
    h_hat = torch.zeros(3, requires_grad=True)
    assert not any(p.requires_grad for p in criterion.parameters())
    optimizer = torch.optim.SGD([h_hat, *criterion.parameters()], lr=0.1)
    for _ in range(2):
        criterion.train()  # as Lightning does
        parts = criterion(Output(h_hat=h_hat), criterion.prepare(it))
        np.testing.assert_allclose(criterion.prepare(it).bpp_clean.numpy(), expected, rtol=1e-5)
        assert parts["h_clean"].item() == pytest.approx(expected.mean(), rel=1e-5)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert (h_hat > 0).all()
    assert all(torch.equal(before[name], t) for name, t in codec.state_dict().items())
    assert all(p.grad is None for p in codec.parameters())
    blind = criterion.prepare(replace(it, clean=torch.full_like(it.clean, math.nan))).bpp_clean
    np.testing.assert_allclose(blind.numpy(), expected, rtol=1e-5)
