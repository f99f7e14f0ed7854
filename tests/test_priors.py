"""Priors: likelihoods and tables against references, and what coded symbols cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from coder_examples import GAUSSIAN, UNIT, check_integer_tables, read, written
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import logistic, norm

from jdcsuite.entropy.coder import Decoder, Encoder
from jdcsuite.entropy.priors import Gaussian, Logistic, MonotoneCDF

# -- cost of symbols -------------------------------------------------------------------------------------------


def ideal_bits(symbols: np.ndarray, scale: float) -> float:
    """-log2 of the probabilities of the unit bins around ``symbols`` under a normal distribution of ``scale``."""
    far, near = -(np.abs(symbols) - 0.5) / scale, -(np.abs(symbols) + 0.5) / scale
    return float(-np.log2(norm.cdf(far) - norm.cdf(near)).sum())


def coded_bits(symbols: np.ndarray, scale: float) -> int:
    prior = Gaussian()
    indexes, shifts = prior.index(torch.full(symbols.shape, scale, dtype=torch.float64).log2())
    encoder = Encoder()
    encoder.put(torch.from_numpy(symbols), indexes, GAUSSIAN, shifts=shifts)
    return 8 * len(encoder.segment())


SCALES = [0.11, 0.13, 0.2, 0.5, 1, 2.5, 8, 16.5, 31, 32.5, 63, 100, 333, 1024, 5000]


def gaussian_symbols(scale: float, n: int = 100_000) -> np.ndarray:
    """Rounded quantiles of a normal distribution, a sample without randomness."""
    return np.rint(scale * norm.ppf((np.arange(n) + 0.5) / n)).astype(np.int64)


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_symbols_cost_their_entropy(scale):
    symbols = gaussian_symbols(scale)
    ideal, coded = ideal_bits(symbols, scale), coded_bits(symbols, scale)
    # 5e-4 bit per symbol is the resolution of a 16-bit table for nearly free symbols; 64 bits are the state
    assert 0.995 * ideal < coded < 1.001 * ideal + 5e-4 * len(symbols) + 64


@pytest.mark.parametrize("level", [0, 40, 52, 84, 132])
def test_the_coder_adds_no_cost_to_its_tables(level):
    """Against -log2 of the probabilities in the table, so that the difference is due to the coder."""
    row, length, offset = (a[level] for a in GAUSSIAN.arrays)
    units, n = np.diff(row[:length]), 100_000
    places = np.searchsorted(row[1:length], (np.arange(n) + 0.5) / n * 2**16, side="right")
    places = np.random.default_rng(0).permutation(places[places < length - 2])
    ideal = -np.log2(units[places] * UNIT).sum()
    segment = written((torch.from_numpy(places + offset), torch.full((len(places),), level).int(), GAUSSIAN, None))
    assert -32 < 8 * len(segment) - ideal < 64 + 32 + 1e-4 * ideal


@pytest.mark.parametrize("scale", [16.5, 20, 31.5])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_raw_low_bits_cost_almost_nothing(scale, k):
    """Without centring the k low bits, the loss is over 1e-3 bit per symbol at 16.5."""

    def excess(scale: float) -> float:
        symbols = gaussian_symbols(scale)
        return (coded_bits(symbols, scale) - ideal_bits(symbols, scale)) / len(symbols)

    assert excess(scale * 2**k) - excess(scale) < 6e-4


# -- priors of residuals ---------------------------------------------------------------------------------------

# with scipy's distribution of standard deviation 1
DISTRIBUTIONS = [(Gaussian(), norm()), (Logistic(), logistic(scale=math.sqrt(3) / math.pi))]
both = pytest.mark.parametrize(("prior", "known"), DISTRIBUTIONS, ids=["gaussian", "logistic"])


@both
def test_scales_are_standard_deviations(prior, known):
    assert known.std() == pytest.approx(1)
    symbols = torch.arange(-500.0, 501)
    p = prior(symbols, torch.full_like(symbols, 30.0)).double()
    assert float((p * symbols.double().square()).sum().sqrt()) == pytest.approx(30, rel=1e-3)


@both
@pytest.mark.parametrize("scale", SCALES)
def test_likelihood_is_the_difference_of_two_cdfs(prior, known, scale):
    residual = np.concatenate([np.linspace(-8, 8, 401) * scale, np.linspace(-3, 3, 61)])
    scale32 = np.float32(scale)
    expected = known.cdf(-(np.abs(residual) - 0.5) / scale32) - known.cdf(-(np.abs(residual) + 0.5) / scale32)
    got = prior(torch.tensor(residual).float(), torch.full((len(residual),), float(scale32))).numpy()
    # float32: within an ulp of 1 near the mean, relative in the tails
    np.testing.assert_allclose(got, np.maximum(expected, 1e-9), rtol=2e-3, atol=1.3e-7)
    tail = np.abs(residual) > 3 * scale + 0.5
    np.testing.assert_allclose(got[tail], np.maximum(expected, 1e-9)[tail], rtol=5e-3)


@both
def test_likelihood_stays_above_its_floor_with_a_finite_gradient(prior, known):
    residual = torch.tensor([0.0, 0.5, 3, 40, 1e3, 1e6, -1e6], requires_grad=True)
    for value in (0.11, 1.0, 300.0, 16384.0):
        scale = torch.full_like(residual, value, requires_grad=True)
        p = prior(residual, scale)
        assert (p >= 1e-9).all() and (p <= 1).all()
        assert p[-1].item() == (pytest.approx(1e-9) if value < 1e5 else p[-1].item())
        for gradient in torch.autograd.grad(-torch.log2(p).sum(), (residual, scale)):
            assert torch.isfinite(gradient).all()


@both
def test_gradient_of_the_bits_equals_the_closed_form(prior, known):
    r, s = np.meshgrid([-7.3, -2.0, -0.4, 0.1, 1.0, 5.5], [0.7, 1.9, 6.0, 25.0])
    low, high = (r - 0.5) / s, (r + 0.5) / s
    p = known.cdf(high) - known.cdf(low)
    by_r = -(known.pdf(high) - known.pdf(low)) / s / p / np.log(2)
    by_s = (high * known.pdf(high) - low * known.pdf(low)) / s / p / np.log(2)
    residual, scale = (torch.tensor(a.ravel(), requires_grad=True) for a in (r, s))
    bits = -torch.log2(prior(residual, scale)).sum()
    got_r, got_s = torch.autograd.grad(bits, (residual, scale))
    likely = p.ravel() > 1e-8  # above the floor
    np.testing.assert_allclose(got_r.numpy()[likely], by_r.ravel()[likely], rtol=1e-6)
    np.testing.assert_allclose(got_s.numpy()[likely], by_s.ravel()[likely], rtol=1e-6)


LEVELS = 2 ** (-3.25 + np.arange(133) / 16)


@both
def test_tables_equal_scipy_at_log_spaced_scales(prior, known):
    tables = prior.tables()
    check_integer_tables(tables)
    assert len(tables.cdf) == 133 and LEVELS[-1] == 32
    for scale, row, length, offset in zip(LEVELS, *tables.arrays, strict=True):
        row = row[:length]
        symbols = offset + np.arange(length - 2)
        assert symbols[0] == -symbols[-1]
        expected = known.cdf((symbols + 0.5) / scale) - known.cdf((symbols - 0.5) / scale)
        np.testing.assert_allclose(np.diff(row)[:-1] * UNIT, expected, atol=6 * UNIT)
        kept = expected > 1e-12
        lost = expected[kept] * np.log2(expected[kept] / np.diff(row)[:-1][kept] / UNIT)
        assert lost.sum() < 0.0015  # bits per symbol
        beyond = known.sf((symbols[-1] + 0.5) / scale)
        assert beyond <= 2.0**-17 and known.sf((symbols[-1] - 1.5) / scale) > 2.0**-17  # neither too short nor too long


@given(st.floats(-10, 21))
@settings(deadline=None)
def test_every_scale_uses_its_nearest_table(log2_scale):
    index, k = (int(t) for t in Gaussian().index(torch.tensor([log2_scale], dtype=torch.float64)))
    if log2_scale <= 5:
        assert k == 0
    elif k < 16:
        assert 4 < log2_scale - k <= 5
    else:
        assert k == 16
    distance = np.abs(np.log2(LEVELS) - (log2_scale - k))
    assert distance[index] <= distance.min() + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_index_of_a_scale_does_not_depend_on_its_neighbours(dtype):
    scales = torch.linspace(-6, 14, 1001, dtype=dtype)
    index, k = Gaussian().index(scales)
    for part in (slice(3, 4), slice(1, 8), slice(None, None, 5)):
        some, some_k = Gaussian().index(scales[part])
        assert torch.equal(some, index[part]) and torch.equal(some_k, k[part])
    assert index.dtype == torch.int32 and k.dtype == torch.uint8


# -- monotone CDF ----------------------------------------------------------------------------------------------


def rough(n: int = 5, *, spread: float = 3.0, seed: int = 0) -> MonotoneCDF:
    """Densities far from their initialisation: skewed, shifted, some with several modes."""
    torch.manual_seed(seed)
    prior = MonotoneCDF(num_distributions=n, init_spread=spread)
    with torch.no_grad():
        for p, size in ((prior.h, 0.5), (prior.b, 1.5), (prior.a, 1.5)):
            p.add_(torch.randn(p.shape) * size)
    return prior


def reference_cdf(prior: MonotoneCDF, i: int, x: np.ndarray) -> np.ndarray:
    """Distribution i in float64 numpy: three stages of slope, shift and bump, then a slope and a shift."""
    h, b, a = (p.detach().double().numpy()[:, i] for p in (prior.h, prior.b, prior.a))
    for stage in range(3):
        x = np.logaddexp(0, h[stage]) * x + b[stage]
        x = x + np.tanh(a[stage]) * np.tanh(x)
    return expit(np.logaddexp(0, h[3]) * x + b[3])


def test_monotone_cdf_likelihood_against_numpy():
    prior = rough()
    z = torch.linspace(-30, 30, 4 * 5 * 6 * 2).view(4, 6, 2, 5).permute(0, 3, 1, 2).contiguous()
    got = prior(z).detach().numpy()
    assert got.shape == (4, 5, 6, 2)
    for i in range(5):
        x = z.double().numpy()[:, i]
        expected = reference_cdf(prior, i, x + 0.5) - reference_cdf(prior, i, x - 0.5)
        np.testing.assert_allclose(got[:, i], np.maximum(expected, 1e-9), rtol=5e-5, atol=2e-7)


def test_monotone_cdf_is_monotone_and_its_integers_sum_to_one():
    prior = rough(20, seed=3)
    x = torch.linspace(-50, 50, 4001, dtype=torch.float64).expand(20, -1)
    logits = prior.logits(x)
    assert (logits.diff(dim=1) > 0).all()
    integers = torch.arange(-400, 401).float().view(1, 1, -1, 1).expand(1, 20, -1, 1)
    np.testing.assert_allclose(prior(integers).sum((0, 2, 3)).detach().numpy(), 1, atol=3e-5)


def test_monotone_cdf_is_initialised_as_a_centred_density_of_init_spread():
    for spread in (0.5, 2.0, 20.0):
        prior = MonotoneCDF(num_distributions=3, init_spread=spread)
        x = np.linspace(-5 * spread, 5 * spread, 101)
        for i in range(3):
            np.testing.assert_allclose(reference_cdf(prior, i, x), expit(x / spread), atol=0.06)


def test_monotone_cdf_floor_keeps_far_values_finite():
    z = torch.tensor([-1e4, 1e4]).view(1, 1, 2, 1).requires_grad_()
    prior = MonotoneCDF(num_distributions=1)
    p = prior(z)
    assert p.flatten().tolist() == [pytest.approx(1e-9)] * 2
    for gradient in torch.autograd.grad(-torch.log2(p).sum(), (z, prior.h, prior.b, prior.a)):
        assert torch.isfinite(gradient).all()


def test_monotone_cdf_at_the_exact_centre_of_a_symmetric_density():
    prior = MonotoneCDF(num_distributions=1)
    with torch.no_grad():
        prior.b.zero_()
    expected = reference_cdf(prior, 0, np.array(0.5)) - reference_cdf(prior, 0, np.array(-0.5))
    assert prior(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("prior", [rough(), rough(3, spread=200.0, seed=1), rough(4, spread=0.05, seed=2)])
def test_monotone_cdf_tables_equal_numpy_with_a_tail_for_the_escape(prior):
    tables = prior.tables()
    check_integer_tables(tables)
    for i, (row, length, offset) in enumerate(zip(*tables.arrays, strict=True)):
        row = row[:length]
        symbols = offset + np.arange(length - 2)
        expected = reference_cdf(prior, i, symbols + 0.5) - reference_cdf(prior, i, symbols - 0.5)
        table = np.diff(row)[:-1] * UNIT
        np.testing.assert_allclose(table, expected, atol=16 * UNIT)
        seen = expected > 0
        entropy = -(expected[seen] * np.log2(expected[seen])).sum()
        assert (expected[seen] * np.log2(expected[seen] / table[seen])).sum() < 0.001 + 0.03 * entropy
        below, above = reference_cdf(prior, i, symbols[0] - 0.5), 1 - reference_cdf(prior, i, symbols[-1] + 0.5)
        assert max(below, above) <= 2.0**-17
        inner = (reference_cdf(prior, i, symbols[0] + 0.5), 1 - reference_cdf(prior, i, symbols[-1] - 0.5))
        assert length == 3 or min(inner) > 2.0**-17  # not too long


@pytest.mark.parametrize("spread", [1400.0, 20_000.0])
def test_a_density_wider_than_any_table_leaves_the_rest_to_the_escape(spread):
    """A dead channel beside it, always 0, still costs nothing."""
    prior = MonotoneCDF(num_distributions=2, init_spread=spread)
    with torch.no_grad():
        prior.h[:, 1] = math.log(math.expm1(0.01**-0.25))
        prior.b[:, 1] = prior.a[:, 1] = 0
    tables = prior.tables()
    check_integer_tables(tables)
    assert tables.length[0] > 2**14 and tables.length[1] == 3 and tables.offset[1] == 0
    z = torch.tensor([-100_000, 100_000, -9000, 9000, 0, 1, *[0] * 1000])
    indexes = (torch.arange(len(z)) > 4).int()
    segment = written((z, indexes, tables, None))
    assert len(segment) < 8 + 32
    assert read(segment, (z, indexes, tables, None)) == [z.tolist()]


def test_tables_depend_only_on_the_weights():
    prior = rough()
    first = prior.tables()
    prior(torch.randn(3, 5, 2, 2) * 9)
    twin = MonotoneCDF(num_distributions=5)
    twin.load_state_dict(prior.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        others = [prior.tables(), prior.train().tables(), twin.eval().tables()]
    for other in others:
        assert all(torch.equal(getattr(first, n), getattr(other, n)) for n in ("cdf", "length", "offset"))
    generator = torch.get_rng_state()
    prior.tables(), Gaussian().tables()
    assert torch.equal(torch.get_rng_state(), generator)
    again = Gaussian().tables()
    assert all(torch.equal(getattr(GAUSSIAN, n), getattr(again, n)) for n in ("cdf", "length", "offset"))
    with torch.no_grad():
        prior.b[3] += 2.0
    assert not torch.equal(prior.tables().offset, first.offset)


def test_symbols_of_the_monotone_cdf_cost_their_estimate():
    prior, random = rough(), np.random.default_rng(0)
    draws = random.uniform(1e-4, 1 - 1e-4, (5, 4000))
    grid = np.arange(-2000, 2001) + 0.5
    z = np.stack([np.searchsorted(reference_cdf(prior, i, grid), row) for i, row in enumerate(draws)]) - 2000
    p = prior(torch.from_numpy(z).float()[None, :, None])
    indexes = torch.arange(5).repeat_interleave(4000).int()
    tables, encoder = prior.tables(), Encoder()
    encoder.put(torch.from_numpy(z).flatten(), indexes, tables)
    segment = encoder.segment()
    estimate = -torch.log2(p).sum().item()
    assert 8 * len(segment) == pytest.approx(estimate, rel=0.005)
    assert Decoder(segment).get(indexes, tables).tolist() == z.ravel().tolist()
