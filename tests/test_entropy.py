"""Entropy coding: what is put comes back, costs what theory says, and a damaged file is always noticed."""

from __future__ import annotations

import faulthandler
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from jdcsuite.entropy.coder import Decoder, Encoder, Tables
from jdcsuite.entropy.container import CorruptFile
from jdcsuite.entropy.priors import Gaussian, MonotoneCDF
from jdcsuite.entropy.quantize import add_noise, compand, round_ste

UNIT = 2.0**-16  # of a table
FAR = 2**22  # no latent of a picture is this many steps from its mean


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


def test_compand_is_asinh():
    x = np.linspace(-5000, 5000, 101)
    np.testing.assert_allclose(compand(torch.tensor(x)).numpy(), np.arcsinh(x), rtol=1e-12)


# -- tables ----------------------------------------------------------------------------------------------------

pmfs = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(
    lambda v: torch.tensor(v, dtype=torch.float64) / max(sum(v), 1e-3) * 0.999
)


def check_integer_tables(tables: Tables) -> None:
    """Every row: from 0 to 2^16 in strictly increasing integers, then zeros."""
    assert tables.cdf.dtype == tables.length.dtype == tables.offset.dtype == torch.int32
    for row, length in zip(tables.cdf, tables.length.tolist(), strict=True):
        used = row[:length]
        assert used[0] == 0 and used[-1] == 2**16 and (used.diff() > 0).all()
        assert (row[length:] == 0).all()


@given(st.lists(pmfs, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_probabilities_become_integer_tables_that_give_every_symbol_a_code(rows):
    tables = Tables.from_pmfs(rows, offsets=[-3] * len(rows))
    check_integer_tables(tables)
    assert tables.length.tolist() == [len(r) + 2 for r in rows]
    assert tables.offset.tolist() == [-3] * len(rows)


def test_the_escape_gets_what_the_probabilities_lack_to_one():
    tables = Tables.from_pmfs([torch.tensor([0.25, 0.25])], offsets=[0])
    assert tables.cdf[0, :4].tolist() == [0, 2**14, 2**15, 2**16]


def test_tables_survive_a_trip_through_flat_tensors():
    tables = Gaussian(levels=7).tables()
    back = Tables.from_state(tables.state("tables.y"), "tables.y")
    assert set(tables.state("tables.y")) == {"tables.y.cdf", "tables.y.length", "tables.y.offset"}
    assert all(torch.equal(getattr(back, n), getattr(tables, n)) for n in ("cdf", "length", "offset"))


# -- coder -----------------------------------------------------------------------------------------------------

GAUSSIAN = Gaussian().tables()
ODD = Tables.from_pmfs(
    [torch.tensor([1.0]), torch.tensor([0.5, 0.0, 0.4]), torch.full((300,), 1 / 300)], offsets=[0, -(2**20), 5]
)

symbol = st.integers(-40, 40) | st.integers(-FAR, FAR) | st.sampled_from([-FAR, FAR, -(2**20), 5, 304, 305])


@st.composite
def puts(draw):
    """(symbols, table indexes, tables, shifts or None) of one call."""
    tables = draw(st.sampled_from([GAUSSIAN, ODD]))
    n = draw(st.integers(0, 30))

    def column(cell) -> torch.Tensor:
        return torch.tensor(draw(st.lists(cell, min_size=n, max_size=n)), dtype=torch.int64)

    indexes = column(st.integers(0, len(tables.cdf) - 1)).int()
    shifts = column(st.integers(0, 16)).int() if draw(st.booleans()) else None
    return column(symbol), indexes, tables, shifts


@given(st.lists(puts(), max_size=4))
@settings(deadline=None, max_examples=150)
def test_whatever_is_put_is_read_back_in_order(calls):
    calls.append(
        (torch.zeros(4).int(), torch.zeros(4).int(), GAUSSIAN, None)
    )  # fewer symbols in all: see the next test
    encoder = Encoder()
    for symbols, indexes, tables, shifts in calls:
        encoder.put(symbols, indexes, tables, shifts=shifts)
    segments = encoder.segments()
    raw_bits = sum(int(shifts.sum()) for *_, shifts in calls if shifts is not None)
    assert len(segments[1]) == -(-raw_bits // 8)
    decoder = Decoder(segments)
    for symbols, indexes, tables, shifts in calls:
        out = decoder.get(indexes, tables, shifts=shifts)
        assert out.dtype == torch.int64 and out.device.type == "cpu"
        assert out.tolist() == symbols.tolist()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_symbols_than_the_coder_s_state_has_words(n):
    """In a process of its own, because what can go wrong is the memory of the process."""

    def trip() -> None:
        faulthandler.disable()
        symbols, indexes = torch.ones(n).int(), torch.zeros(n).int()  # in the table, at 16 bits each
        encoder = Encoder()
        encoder.put(symbols, indexes, GAUSSIAN)
        assert Decoder(encoder.segments()).get(indexes, GAUSSIAN).tolist() == symbols.tolist()

    child = multiprocessing.get_context("fork").Process(target=trip)
    child.start()
    child.join(20)
    assert child.exitcode == 0


@pytest.mark.parametrize("far", [-FAR, FAR, -FAR + 1, FAR - 1])
def test_a_symbol_far_outside_every_table_comes_back_among_likely_ones(far):
    symbols = torch.zeros(len(GAUSSIAN.cdf) * 2, dtype=torch.int64)
    symbols[::2] = far
    indexes = torch.arange(len(GAUSSIAN.cdf)).repeat_interleave(2).int()
    encoder = Encoder()
    encoder.put(symbols, indexes, GAUSSIAN)
    assert Decoder(encoder.segments()).get(indexes, GAUSSIAN).tolist() == symbols.tolist()


def test_raw_bits_that_end_early_are_a_corrupt_file():
    symbols, indexes, shifts = torch.arange(-50, 50), torch.full((100,), 127).int(), torch.full((100,), 3).int()
    encoder = Encoder()
    encoder.put(symbols, indexes, GAUSSIAN, shifts=shifts)
    stream, raw = encoder.segments()
    with pytest.raises(CorruptFile, match="raw bits"):
        Decoder([stream, raw[:-1]]).get(indexes, GAUSSIAN, shifts=shifts)


def ideal_bits(symbols: np.ndarray, scale: float) -> float:
    """-log2 of the probability that a normal of ``scale`` gives to the unit bins around ``symbols``."""
    far, near = -(np.abs(symbols) - 0.5) / scale, -(np.abs(symbols) + 0.5) / scale
    return float(-np.log2(norm.cdf(far) - norm.cdf(near)).sum())


def coded_bits(symbols: np.ndarray, scale: float) -> int:
    prior = Gaussian()
    indexes, shifts = prior.index(torch.full(symbols.shape, scale))
    encoder = Encoder()
    encoder.put(torch.from_numpy(symbols), indexes, GAUSSIAN, shifts=shifts)
    return 8 * sum(map(len, encoder.segments()))


SCALES = [0.11, 0.13, 0.2, 0.5, 1, 2.5, 8, 16.5, 31, 32.5, 63, 100, 333, 1024, 5000]


def gaussian_symbols(scale: float, n: int = 100_000) -> np.ndarray:
    """Rounded quantiles of a normal: a sample without the luck of the draw."""
    return np.rint(scale * norm.ppf((np.arange(n) + 0.5) / n)).astype(np.int64)


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_symbols_cost_what_their_entropy_says(scale):
    symbols = gaussian_symbols(scale)
    ideal, coded = ideal_bits(symbols, scale), coded_bits(symbols, scale)
    # 5e-4 bit a symbol: what a 16-bit table resolves where symbols are nearly free; 64 bits: the coder's state
    assert 0.995 * ideal < coded < 1.01 * ideal + 5e-4 * len(symbols) + 64


@pytest.mark.parametrize("scale", [16.5, 20, 31.5])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_raw_low_bits_cost_almost_nothing_over_the_same_table_without_them(scale, k):
    """Without the centring of the k low bits this is over 1e-3 bit a symbol at 16.5."""

    def excess(scale: float) -> float:
        symbols = gaussian_symbols(scale)
        return (coded_bits(symbols, scale) - ideal_bits(symbols, scale)) / len(symbols)

    assert excess(scale * 2**k) - excess(scale) < 6e-4


# -- Gaussian prior --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_likelihood_is_the_difference_of_two_cdfs(scale):
    residual = np.concatenate([np.linspace(-8, 8, 401) * scale, np.linspace(-3, 3, 61)])
    scale32 = np.float32(scale)
    expected = norm.cdf(-(np.abs(residual) - 0.5) / scale32) - norm.cdf(-(np.abs(residual) + 0.5) / scale32)
    got = Gaussian()(torch.tensor(residual).float(), torch.full((len(residual),), float(scale32))).numpy()
    # float32: within an ulp of 1 near the mean, relative in the tails
    np.testing.assert_allclose(got, np.maximum(expected, 1e-9), rtol=2e-3, atol=1.3e-7)
    tail = np.abs(residual) > 3 * scale + 0.5
    np.testing.assert_allclose(got[tail], np.maximum(expected, 1e-9)[tail], rtol=5e-3)


def test_gaussian_likelihood_never_falls_below_its_floor_and_its_gradient_stays_finite():
    residual = torch.tensor([0.0, 0.5, 3, 40, 1e3, 1e6, -1e6], requires_grad=True)
    for value in (0.11, 1.0, 300.0, 16384.0):
        scale = torch.full_like(residual, value, requires_grad=True)
        p = Gaussian()(residual, scale)
        assert (p >= 1e-9).all() and (p <= 1).all()
        assert p[-1].item() == (pytest.approx(1e-9) if value < 1e5 else p[-1].item())
        for gradient in torch.autograd.grad(-torch.log2(p).sum(), (residual, scale)):
            assert torch.isfinite(gradient).all()


def test_gradient_of_the_bits_against_the_closed_form():
    r, s = np.meshgrid([-7.3, -2.0, -0.4, 0.1, 1.0, 5.5], [0.7, 1.9, 6.0, 25.0])
    low, high = (r - 0.5) / s, (r + 0.5) / s
    p = norm.cdf(high) - norm.cdf(low)
    by_r = -(norm.pdf(high) - norm.pdf(low)) / s / p / np.log(2)
    by_s = (high * norm.pdf(high) - low * norm.pdf(low)) / s / p / np.log(2)
    residual, scale = (torch.tensor(a.ravel(), requires_grad=True) for a in (r, s))
    bits = -torch.log2(Gaussian()(residual, scale)).sum()
    got_r, got_s = torch.autograd.grad(bits, (residual, scale))
    likely = p.ravel() > 1e-8  # above the floor
    np.testing.assert_allclose(got_r.numpy()[likely], by_r.ravel()[likely], rtol=1e-6)
    np.testing.assert_allclose(got_s.numpy()[likely], by_s.ravel()[likely], rtol=1e-6)


LEVELS = 0.11 * (32 / 0.11) ** (np.arange(128) / 127)


def test_gaussian_tables_are_those_of_scipy_at_log_spaced_scales():
    check_integer_tables(GAUSSIAN)
    assert len(GAUSSIAN.cdf) == 128
    for scale, row, length, offset in zip(LEVELS, *GAUSSIAN.lists, strict=True):
        symbols = offset + np.arange(length - 2)
        assert symbols[0] == -symbols[-1]
        expected = norm.cdf((symbols + 0.5) / scale) - norm.cdf((symbols - 0.5) / scale)
        np.testing.assert_allclose(np.diff(row)[:-1] * UNIT, expected, atol=6 * UNIT)
        kept = expected > 1e-12
        lost = expected[kept] * np.log2(expected[kept] / np.diff(row)[:-1][kept] / UNIT)
        assert lost.sum() < 0.006  # bits a symbol
        beyond = norm.sf((symbols[-1] + 0.5) / scale)
        assert beyond <= 2.0**-17 and norm.sf((symbols[-1] - 1.5) / scale) > 2.0**-17  # neither short nor lavish


@given(st.floats(0.001, 2.0**21))
@settings(deadline=None)
def test_every_scale_finds_its_nearest_table(scale):
    index, k = (int(t) for t in Gaussian().index(torch.tensor([scale])))
    if scale <= 32 * (1 - 1e-6):
        assert k == 0
    elif k < 16:
        assert 16 * (1 - 1e-6) < scale / 2**k <= 32 * (1 + 1e-6)
    else:
        assert k == 16
    distance = np.abs(np.log(LEVELS) - np.log(np.float32(scale) / 2**k))
    assert distance[index] <= distance.min() + 1e-4


def test_the_index_of_a_scale_does_not_depend_on_its_neighbours():
    scales = torch.logspace(-2, 4, 1001)
    index, k = Gaussian().index(scales)
    for part in (slice(3, 4), slice(1, 8), slice(None, None, 5)):
        some, some_k = Gaussian().index(scales[part])
        assert torch.equal(some, index[part]) and torch.equal(some_k, k[part])
    assert index.dtype == k.dtype == torch.int32


# -- monotone CDF ----------------------------------------------------------------------------------------------


def rough(n: int = 5, *, spread: float = 3.0, seed: int = 0) -> MonotoneCDF:
    """Densities far from their start: skewed, shifted, some with several modes."""
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


def test_monotone_cdf_starts_as_a_centred_density_of_the_asked_spread():
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
def test_monotone_cdf_tables_are_those_of_numpy_with_a_tail_for_the_escape(prior):
    tables = prior.tables()
    check_integer_tables(tables)
    for i, (row, length, offset) in enumerate(zip(*tables.lists, strict=True)):
        symbols = offset + np.arange(length - 2)
        expected = reference_cdf(prior, i, symbols + 0.5) - reference_cdf(prior, i, symbols - 0.5)
        table = np.diff(row)[:-1] * UNIT
        np.testing.assert_allclose(table, expected, atol=16 * UNIT)
        seen = expected > 0
        entropy = -(expected[seen] * np.log2(expected[seen])).sum()
        assert (expected[seen] * np.log2(expected[seen] / table[seen])).sum() < 0.001 + 0.03 * entropy
        below, above = reference_cdf(prior, i, symbols[0] - 0.5), 1 - reference_cdf(prior, i, symbols[-1] + 0.5)
        assert max(below, above) <= 2.0**-17
        if length > 40:  # narrow densities keep a grid of a fixed width
            inner = (reference_cdf(prior, i, symbols[0] + 1.5), 1 - reference_cdf(prior, i, symbols[-1] - 1.5))
            assert min(inner) > 2.0**-17


def test_tables_depend_on_the_weights_and_on_nothing_else():
    prior = rough()
    first = prior.tables()
    prior(torch.randn(3, 5, 2, 2) * 9)
    twin = MonotoneCDF(num_distributions=5)
    twin.load_state_dict(prior.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        others = [prior.tables(), prior.train().tables(), twin.eval().tables()]
    for other in others:
        assert all(torch.equal(getattr(first, n), getattr(other, n)) for n in ("cdf", "length", "offset"))
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
    segments = encoder.segments()
    estimate = -torch.log2(p).sum().item()
    assert 8 * len(segments[0]) == pytest.approx(estimate, rel=0.005)
    assert Decoder(segments).get(indexes, tables).tolist() == z.ravel().tolist()
