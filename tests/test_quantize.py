"""Rounding, its noise relaxation and companding: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jdcsuite.entropy.quantize import LowerBound, add_noise, compand, expand, round_ste

# -- quantize --------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32)
        | st.floats(-3, 3, width=32)
        | st.sampled_from([0.5, -0.5, 1.5, 2.5]),
        min_size=1,
    )
)
@settings(deadline=None)
def test_round_ste_is_exactly_rounding_with_the_gradient_of_the_identity(values):
    x = torch.tensor(values, requires_grad=True)
    weights = torch.linspace(-3, 3, len(values))
    rounded = round_ste(x)
    np.testing.assert_array_equal(rounded.detach().numpy(), np.rint(np.float32(values)))
    (rounded * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_noise_is_uniform_over_one_unit_and_centred():
    torch.manual_seed(0)
    x = torch.full((100_000,), 7.0, requires_grad=True)
    noise = add_noise(x) - 7
    assert noise.min() >= -0.5 and noise.max() <= 0.5
    assert abs(noise.mean().item()) < 0.004 and abs(noise.var().item() - 1 / 12) < 0.001
    noise.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compand_is_log2_of_one_plus_the_magnitude_linear_between_powers_of_two(dtype):
    knots = 2.0 ** np.arange(30)
    x = np.concatenate([np.linspace(-5000, 5000, 101), np.geomspace(1e-6, 2**28, 400), knots - 1, 1 - knots])
    x = x.astype(dtype)
    got = compand(torch.from_numpy(x)).numpy()
    assert got.dtype == dtype
    straight = np.sign(x) * np.interp(np.abs(x) + dtype(1), knots, np.arange(30))
    np.testing.assert_allclose(got, straight, rtol=4 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).eps)
    # the chord of log2 between two powers of two is at most .0861 below it
    bow = np.log2(np.abs(x).astype(float) + 1) - np.abs(got)
    assert bow.min() > -1e-6 and bow.max() < 0.0861
    assert np.array_equal(compand(torch.from_numpy(knots - 1)).numpy(), np.arange(30))


def test_gradient_of_compand_is_the_slope_of_its_segments():
    x = torch.tensor([-6.5, -2.0, -0.25, 0.25, 0.75, 1.5, 4.0, 100.0, 1e6], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(compand(x).sum(), x)
    assert gradient.tolist() == (2 ** -torch.floor(torch.log2(1 + x.detach().abs()))).tolist()


def test_the_lower_bound_is_compressai_s() -> None:
    from compressai.ops import LowerBound as Reference

    own, reference = LowerBound(0.11), Reference(0.11)
    assert own.state_dict().keys() == reference.state_dict().keys() and torch.equal(own.bound, reference.bound)
    x = torch.linspace(-1, 1, 101)
    for direction in (1.0, -1.0):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [bounded(value) for bounded, value in zip((own, reference), inputs, strict=True)]
        for output in outputs:
            (direction * output).sum().backward()
        assert torch.equal(*outputs) and torch.equal(*(value.grad for value in inputs))


def test_expand_is_the_inverse_of_compand() -> None:
    x = torch.cat([torch.linspace(-3, 3, 61), 10.0 ** torch.linspace(-3, 5, 81), -(2.0 ** torch.arange(12))]).double()
    torch.testing.assert_close(expand(compand(x)), x, rtol=1e-9, atol=1e-12)
