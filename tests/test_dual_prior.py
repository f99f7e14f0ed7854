"""Steps and dual prior of FLLIC: gradients against finite differences, and what each half depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fllic_examples import assert_equals_forward, image, mse, ready, tiny
from torch import Tensor

from jdcsuite.entropy.exact import is_exact
from jdcsuite.entropy.quantize import compand
from jdcsuite.models import haar
from jdcsuite.models.dual_prior import DualPriorCodec
from jdcsuite.models.flagship import Flagship
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.spatial_prior import SpatialPrior
from jdcsuite.types import UserError

# -- steps -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stepped() -> tuple[FLLIC, Tensor]:
    """A Haar initialisation in which all channel steps and local steps differ from 1 and from each other."""
    net = tiny(seed=3).train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        net.log2_channel_step.uniform_(0, 1.2, generator=generator)
        net.fusion[-1].module.bias[:32].uniform_(-0.5, 0.5, generator=generator)
    return net, torch.rand(48, 3, 64, 64, generator=generator)


@torch.no_grad()
def relaxed_mse(net: FLLIC, x: Tensor, factor: Tensor) -> float:
    """Expected MSE over u ~ U(-.5, .5) of a decoder that sees y + u * step, every step times ``factor`` (channels).

    Written from the method's formula; of the net only its transforms and its networks are used.
    """
    channel = torch.exp2(net.log2_channel_step)
    y = net.latent_gain * net.g_a(x - 0.5)
    z = torch.round(net.h_a(compand(y / channel)))
    plane = torch.zeros(len(x), 1, 4, 4)
    log2_local = net.fusion(torch.cat([net.h_s(compand(z)), plane], 1))[:, :32]
    width = channel * torch.exp2(log2_local) * factor.view(1, -1, 1, 1)
    u = torch.rand(y.shape, generator=torch.Generator().manual_seed(5)) - 0.5
    return sum(mse(net.g_s((y + s * u * width) / net.latent_gain) + 0.5, x).item() for s in (1, -1)) / 2


@pytest.mark.parametrize("which", ["channel", "local"])
def test_step_gradient_is_the_finite_difference_of_the_noise_relaxed_mse(stepped, which):
    net, x = stepped
    parameter = net.log2_channel_step if which == "channel" else net.fusion[-1].module.bias
    (gradient,) = torch.autograd.grad(mse(net(x).x_hat, x), parameter)
    gradient = gradient.flatten()[:32]
    for direction in (torch.ones(32), torch.arange(32) % 2, torch.linspace(-1, 2, 32)):
        e = 0.05
        up, down = (relaxed_mse(net, x, torch.exp2(sign * e * direction)) for sign in (1, -1))
        expected = (up - down) / (2 * e)
        scale = relaxed_mse(net, x, torch.ones(32)) - relaxed_mse(net, x, torch.zeros(32))
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=0.02, abs=0.01 * scale)
        assert abs(expected) > 0.1 * scale


def test_step_gradient_of_each_channel_equals_the_closed_form(stepped, monkeypatch):
    """For an orthonormal transform, MSE = sum of step^2 / 12, whose gradient by the log2 of a step is ln 2 / 6
    step^2."""
    monkeypatch.setattr(haar, "SMALL", 0.0)
    net, (_, x) = tiny(widths=[12, 48, 48], num_latents=48).train(), stepped
    with torch.no_grad():
        net.log2_channel_step.copy_(torch.linspace(0, 1.5, 48).view(1, -1, 1, 1))
    gradient = torch.autograd.grad(mse(net(x).x_hat, x), net.log2_channel_step)[0].flatten().numpy()
    step = 2 ** np.linspace(0, 1.5, 48) / net.latent_gain
    expected = math.log(2) / 6 * step**2 / (3 * 16 * 16)
    np.testing.assert_allclose(gradient, expected, rtol=0.3)  # 768 latents per channel: 3 % standard deviation each
    assert float(gradient.sum()) == pytest.approx(float(expected.sum()), rel=0.02)


def test_the_rate_widens_steps_and_can_lift_them_off_their_bound():
    net, x = tiny(), image(64, 64)
    with torch.no_grad():
        net.log2_channel_step.fill_(-3.0)
        net.fusion[-1].module.bias[:32] = -3.0
    output = net(x)
    y_bits = output.bpp(64 * 64)["y"].mean()
    rate = torch.autograd.grad(y_bits, (net.log2_channel_step, net.fusion[-1].module.bias), retain_graph=True)
    assert (rate[0].flatten() < 0).float().mean() > 0.9 and rate[0].sum() < 0
    assert rate[1][:32].sum() < 0
    # a gradient that would narrow them further is blocked
    (distortion,) = torch.autograd.grad(mse(output.x_hat, x), net.log2_channel_step)
    assert (distortion <= 0).all()


def test_steps_never_fall_below_a_half():
    net, x = tiny().eval(), image(64, 64)
    with torch.no_grad():
        net.log2_channel_step.fill_(-3.0)
        net.fusion[-1].module.bias[:32] = -3.0
        log2_step, log2_scales, _ = net._entropy_parameters(torch.zeros(1, 8, 1, 1), torch.zeros(1, 1))
        assert (net._channel_step() == 0.5).all() and (log2_step == -1).all()
        net.fusion[-1].module.bias[32:64] = -30.0
        assert (net._entropy_parameters(torch.zeros(1, 8, 1, 1), torch.zeros(1, 1))[1] == -3.25).all()
        assert log2_scales.min() > -1
        assert torch.isfinite(net(x).x_hat).all()


def test_fllic_u_has_steps_of_exactly_one_and_none_to_train():
    net, x = tiny(adaptive_steps=False), image(64, 64)
    with torch.no_grad():
        net.log2_channel_step.fill_(2.0)
        net.fusion[-1].module.bias[:32] = 2.0
    log2_step, _, _ = net._entropy_parameters(torch.randn(2, 8, 1, 1).round() * 9, torch.zeros(2, 1))
    assert torch.equal(log2_step, torch.zeros(2, 32, 4, 4))
    with torch.no_grad():
        assert torch.equal(net.analyse(x), 16 * net.g_a(x - 0.5))
    trained_names = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name, _ in net.named_parameters()} - trained_names == {"log2_channel_step"}
    assert "log2_channel_step" in {n for n, p in tiny().named_parameters() if p.requires_grad}
    with torch.no_grad():
        assert_equals_forward(ready(net).decompress(net.compress(x)), net(x).x_hat)


def test_wider_steps_cost_fewer_bits_and_more_distortion():
    net, x = tiny(), image(64, 64)
    rates, errors = [], []
    for log2_step in (0.0, 1.0, 2.0, 3.0):
        with torch.no_grad():
            net.log2_channel_step.fill_(log2_step)
            output = net.eval()(x)
        rates.append(output.bpp(64 * 64)["y"].item())
        errors.append(mse(output.x_hat, x).item())
    assert rates == sorted(rates, reverse=True) and errors == sorted(errors)
    assert errors[-1] > 1.2 * errors[0] and rates[-1] < 0.7 * rates[0]


# -- dual prior ------------------------------------------------------------------------------------------------


def in_pass(net: DualPriorCodec, number: int, v: Tensor) -> Tensor:
    return net.spatial_prior.mask(number, v).expand_as(v)


def test_two_passes_are_complementary_checkerboards():
    first = in_pass(tiny(), 0, torch.zeros(1, 32, 5, 4))[0]
    row, column = np.indices((5, 4))
    even = (row + column) % 2 == 0
    for channel in range(32):
        np.testing.assert_array_equal(first[channel].numpy(), even if channel < 16 else ~even)


def test_four_passes_code_each_latent_once_and_a_quarter_of_each_square():
    net = four_passes()
    masks = torch.stack([in_pass(net, number, torch.zeros(1, 32, 6, 8))[0] for number in range(4)]).int()
    assert torch.equal(masks.sum(0), torch.ones(32, 6, 8).int())
    squares = masks.view(4, 32, 3, 2, 4, 2).sum((3, 5))
    assert (squares == 1).all()  # every channel: one of each 2x2 square in each pass
    assert (masks.view(4, 8, 4, 6, 8).sum(2) == 1).all()  # every position: one of four adjacent channels in each pass
    row, column = np.indices((6, 8)) % 2
    by_hand = np.select([(row == 0) & (column == 0), (row == 1) & (column == 1), row == 0], [0, 1, 2], 3)
    for number in range(4):
        np.testing.assert_array_equal(masks[number, 5].numpy(), (by_hand + 5) % 4 == number)


def four_passes() -> Flagship:
    torch.manual_seed(6)
    net = Flagship(
        widths=[4, 4], blocks=[0, 0], num_latents=32, prior_width=8, embedding=4, magnitudes=True, passes=4
    ).eval()
    with torch.no_grad():
        net.spatial_prior[-1].module.weight.mul_(100)  # starts near zero
    return net


def flagship_parts(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand_like(v), torch.rand_like(v), torch.randn_like(v) * 5


def dual_prior(
    net: DualPriorCodec, v: Tensor, step: Tensor, scales: Tensor, means: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return net._dual_prior(step, scales, means, lambda means, scales, mask: torch.round(v - means) + means)


@pytest.mark.parametrize("make", [lambda: tiny(start="random").eval(), four_passes], ids=["two", "four"])
def test_parameters_of_a_pass_depend_on_the_latents_of_all_passes_before_and_on_no_others(make):
    net = make()
    v, means = torch.randn(2, 1, 32, 6, 8) * 5
    step, scales = torch.rand(2, 1, 32, 6, 8) + 0.5
    passes = [in_pass(net, number, v) for number in range(net.spatial_prior.passes)]
    with torch.no_grad():
        y_hat, s, m = dual_prior(net, v, step, scales, means)
        assert torch.equal(s[passes[0]], scales[passes[0]]) and torch.equal(m[passes[0]], means[passes[0]])
        np.testing.assert_array_equal(y_hat.numpy(), (torch.round(v - m) + m).numpy())
        for number, latents in enumerate(passes):
            _, s2, m2 = dual_prior(net, torch.where(latents, v + 7.0, v), step, scales, means)
            changed = (s2 != s) & (m2 != m)
            for other, place in enumerate(passes):
                if other > number:
                    assert changed[place].float().mean() > 0.9
                else:
                    assert torch.equal(s2[place], s[place]) and torch.equal(m2[place], m[place])


def test_the_spatial_prior_is_told_which_latents_it_knows():
    net, seen = four_passes(), []
    net.spatial_prior[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -4:]))
    v = torch.zeros(2, 32, 6, 8)
    with torch.no_grad():
        dual_prior(net, v, *flagship_parts(v))
    assert len(seen) == 3 and all(planes.shape == (2, 4, 6, 8) for planes in seen)
    for number, planes in enumerate(seen, 1):
        known = sum(in_pass(net, before, v)[:, :4].float() for before in range(number))
        assert torch.equal(planes, known)


def test_the_rate_of_symbols_has_their_gradient_for_scales_and_that_of_noise_for_residuals():
    net = Flagship(widths=[4, 4], blocks=[0, 0], num_latents=32, training_rate="symbols").train()
    residual = torch.tensor([0.2, -0.7, 3.1, 0.0]).repeat(50_000).requires_grad_()
    scale = torch.tensor([0.3, 1.0, 2.0, 0.12]).repeat(50_000).requires_grad_()
    bits = -torch.log2(net._likelihoods(residual, scale))
    symbols = torch.round(residual).detach()
    known = -torch.log2(net.prior_y(symbols, scale))
    torch.testing.assert_close(bits, known)
    by_scale, by_residual = torch.autograd.grad(bits.sum(), (scale, residual))
    torch.testing.assert_close(by_scale, torch.autograd.grad(known.sum(), scale)[0])
    # E over u of the derivative at r + u = difference of the bits of the bins half a step up and down
    up, down = (-torch.log2(net.prior_y(residual[:4] + half, scale[:4])) for half in (0.5, -0.5))
    torch.testing.assert_close(by_residual.view(-1, 4).mean(0), up - down, atol=0.05, rtol=0.02)
    net.eval()
    assert torch.equal(net._likelihoods(residual, scale), net.prior_y(symbols, scale))


def test_latents_that_are_always_zero_are_free_by_symbols_and_not_under_noise():
    residual, scale = torch.zeros(10_000), torch.full((10_000,), 2**-3.25)
    cost = {}
    for rate in ("noise", "symbols"):
        net = Flagship(widths=[4, 4], blocks=[0, 0], num_latents=32, training_rate=rate).train()
        cost[rate] = float(-torch.log2(net._likelihoods(residual, scale)).mean())
    assert cost["symbols"] < 1e-4 and cost["noise"] > 0.1


@pytest.mark.parametrize("size", [(12, 8), (5, 7), (1, 2)], ids=str)
@pytest.mark.parametrize(("passes", "magnitudes"), [(2, False), (4, False), (4, True)])
def test_coding_adds_parts_to_the_bits_of_the_whole(passes, magnitudes, size):
    torch.manual_seed(passes)
    net = SpatialPrior(num_latents=22, width=16, passes=passes, magnitudes=magnitudes)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p))
    assert is_exact(net)
    *by_z, y = torch.randn(4, 2, 22, *size, dtype=torch.float64) * torch.tensor([3.0, 300.0]).view(2, 1, 1, 1)
    contexts = [net.context(by_z, exact_side=side) for side in (None, 6)]
    known = torch.zeros_like(y)
    with torch.no_grad():
        for number in range(1, passes):
            known = torch.where(net.mask(number - 1, y), y, known)
            latents = net.mask(number, y).expand_as(y)
            whole, parts = (net(context, known, number) for context in contexts)
            for a, b in zip(whole, parts, strict=True):
                assert a[latents].std() > 1 and torch.equal(a[latents], b[latents])


@pytest.mark.parametrize("passes", [0, 1, 3, 8])
def test_other_numbers_of_passes_are_refused(passes):
    with pytest.raises(UserError, match=f"model.passes={passes}: give 2 or 4"):
        Flagship(widths=[4, 4], blocks=[1, 1], passes=passes)


def test_the_second_half_depends_on_step_scales_and_means():
    net = tiny(start="random").eval()
    v, means = torch.randn(2, 1, 32, 6, 8) * 5
    step, scales = torch.rand(2, 1, 32, 6, 8) + 0.5
    second = in_pass(net, 1, v)
    changed = [(step * 1.5, scales, means), (step, scales * 1.5, means), (step, scales, means + second * 1.0)]
    with torch.no_grad():
        _, scales_before, _ = dual_prior(net, v, step, scales, means)
        for parameters in changed:
            _, after, _ = dual_prior(net, v, *parameters)
            assert not torch.equal(after[second], scales_before[second])
