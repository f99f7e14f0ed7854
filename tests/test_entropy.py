"""Entropy coding: symbols decode exactly, cost their theoretical length, and damaged streams are always detected."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compressai._CXX import pmf_to_quantized_cdf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from jdcsuite.entropy import rans
from jdcsuite.entropy.coder import LARGEST, Decoder, Encoder, Tables
from jdcsuite.entropy.priors import Gaussian, MonotoneCDF
from jdcsuite.entropy.quantize import add_noise, compand, round_ste
from jdcsuite.types import CorruptFile

UNIT = 2.0**-16  # smallest probability of a table
FAR = 2**22  # steps: farther from its mean than any latent of an image


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


# -- tables ----------------------------------------------------------------------------------------------------

pmfs = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(
    lambda v: torch.tensor(v, dtype=torch.float64) / max(sum(v), 1e-3) * 0.999
)


def check_integer_tables(tables: Tables) -> None:
    """Every row strictly increases from 0 to 2^16 and is then zero."""
    assert tables.cdf.dtype == tables.length.dtype == tables.offset.dtype == torch.int32
    for row, length in zip(tables.cdf, tables.length.tolist(), strict=True):
        used = row[:length]
        assert used[0] == 0 and used[-1] == 2**16 and (used.diff() > 0).all()
        assert (row[length:] == 0).all()


@given(st.lists(pmfs, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_probabilities_become_integer_tables_in_which_every_symbol_has_a_code(rows):
    tables = Tables.from_pmfs(rows, offsets=[-3] * len(rows))
    check_integer_tables(tables)
    assert tables.length.tolist() == [len(r) + 2 for r in rows]
    assert tables.offset.tolist() == [-3] * len(rows)


def test_the_escape_gets_the_missing_probability():
    tables = Tables.from_pmfs([torch.tensor([0.25, 0.25])], offsets=[0])
    assert tables.cdf[0, :4].tolist() == [0, 2**14, 2**15, 2**16]


def test_tables_survive_a_round_trip_through_flat_tensors():
    tables = Gaussian(highest=2, density=2).tables()
    assert len(tables.cdf) == 11
    back = Tables.from_state(tables.state("tables.y"), "tables.y")
    assert set(tables.state("tables.y")) == {"tables.y.cdf", "tables.y.length", "tables.y.offset"}
    assert all(torch.equal(getattr(back, n), getattr(tables, n)) for n in ("cdf", "length", "offset"))


@st.composite
def distributions(draw):
    """Probabilities of 1 to 400 symbols, from uniform to mostly under one unit, whose sum misses up to 100 units."""
    n, power, seed = draw(st.integers(1, 400)), draw(st.sampled_from([1, 4, 40])), draw(st.integers(0, 2**32 - 1))
    p = np.random.default_rng(seed).random(n) ** power
    if draw(st.booleans()):
        p = np.exp(-np.abs(np.arange(n) - n / 2) * draw(st.floats(0.01, 5)))
    return p / p.sum() * (1 - draw(st.integers(1, 100)) * UNIT)


@given(distributions())
@settings(deadline=None, max_examples=200)
def test_a_table_never_costs_more_than_compressai_s_quantisation_of_it(p):
    whole = np.append(p, 1 - p.sum())
    row, length, _ = (a[0] for a in Tables.from_pmfs([torch.from_numpy(p)], offsets=[0]).arrays)
    theirs = np.diff(pmf_to_quantized_cdf(whole.tolist(), rans.PRECISION))
    ours, seen = np.diff(row[:length]), whole > 0
    assert len(ours) == len(theirs) and ours.sum() == theirs.sum() == 2**16
    cost = [-(whole[seen] * np.log2(units[seen] * UNIT)).sum() for units in (ours, theirs)]
    # largest remainders are not exactly optimal: one case in thousands costs 3e-7 bit more
    assert cost[0] <= cost[1] + 1e-5


def test_a_table_too_long_for_its_units_is_refused():
    assert len(Tables.from_pmfs([torch.full((2**15 - 1,), 2.0**-15)], offsets=[0]).cdf[0]) == 2**15 + 1
    with pytest.raises(ValueError, match="too long"):
        Tables.from_pmfs([torch.full((2**15,), 2.0**-15)], offsets=[0])


# rows [0, 9, 2**16] and [0, 1, 2, 2**16]; the last entry of a row is not stored
GOOD = {"cdf": [0, 9, 0, 1, 2], "length": [3, 4], "offset": [-1, 5]}
BAD = [
    {"cdf": [0, 9, 0, 1]}, {"cdf": [0, 9, 0, 1, 2, 3]}, {"cdf": []},  # a search would run past the row
    {"cdf": [1, 9, 0, 1, 2]}, {"cdf": [0, 9, 1, 2, 3]}, {"cdf": [0, 9, 2**16 - 1, 1, 2]},
    {"cdf": [0, 0, 0, 1, 2]},  # a symbol of probability zero divides by zero
    {"cdf": [0, 9, 0, 2, 1]}, {"cdf": [0, 9, 0, 2, 2]}, {"cdf": [0, 2**16 - 1, 0, 2**16 - 1, 2]},
    {"length": [3, 5]}, {"length": [3, 3]}, {"length": [4, 3]}, {"length": [1, 6]}, {"length": [0, 7]},
    {"length": [-3, 10]}, {"length": [2**31 - 1, 4]}, {"length": [3, -(2**31)]}, {"length": [2**31 - 1, -(2**31) + 8]},
    {"length": [7]}, {"length": [3, 2, 3]}, {"length": [[3, 4]]}, {"length": 7}, {"length": [7], "offset": 0},
    {"offset": [0]}, {"offset": [0, 0, 0]}, {"offset": [[0, 0]]}, {"offset": [0, 2**30]}, {"offset": [0, -(2**31)]},
    {"cdf": [[0, 9], [0, 1]]}, {"cdf": [[0, 9, 0, 1, 2]]}, {"cdf": [], "length": [], "offset": []},
    {"cdf": [0] * 2, "length": [2, 2], "offset": []},
    {"cdf": [*range(2**16), 0], "length": [2**16 + 2], "offset": [0]},
]  # fmt: skip
TYPES = {"cdf": torch.uint16, "length": torch.int32, "offset": torch.int32}


def flat_state(parts: dict[str, list], **types: torch.dtype) -> dict[str, torch.Tensor]:
    return {f"tables.y.{n}": torch.tensor(value, dtype=(TYPES | types)[n]) for n, value in parts.items()}


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: " ".join(changes))
def test_malformed_tables_are_refused(changes):
    good = Tables.from_state(flat_state(GOOD), "tables.y")
    assert good.cdf.tolist() == [[0, 9, 2**16, 0], [0, 1, 2, 2**16]]
    with pytest.raises(ValueError, match="probability table"):
        Tables.from_state(flat_state(GOOD | changes), "tables.y")


@pytest.mark.parametrize("name", ["cdf", "length", "offset"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.float32])
def test_tables_of_another_type_are_refused(name, dtype):
    if dtype == TYPES[name]:
        pytest.skip("this is their type")
    parts = {name: [abs(v) for v in value] for name, value in GOOD.items()}
    Tables.from_state(flat_state(parts), "tables.y")
    with pytest.raises(ValueError, match="must be uint16"):
        Tables.from_state(flat_state(parts, **{name: dtype}), "tables.y")


def test_the_longest_table_has_one_unit_per_symbol():
    state = {"cdf": list(range(2**16)), "length": [2**16 + 1], "offset": [-5]}
    tables = Tables.from_state(flat_state(state), "tables.y")
    assert torch.equal(tables.cdf[0], torch.arange(2**16 + 1).int())
    symbols, indexes = torch.tensor([-5, 2**16 - 7, -6, 2**16 - 6]), torch.zeros(4).int()  # the last two escape
    assert Decoder(written((symbols, indexes, tables, None))).get(indexes, tables).tolist() == symbols.tolist()


def test_few_bytes_cannot_claim_much_memory():
    """One long row among many short ones, whose matrix would be hundreds of times as large as the file."""
    state = flat_state({"cdf": [*range(2**16)] + [0] * 600, "length": [2**16 + 1] + [2] * 600, "offset": [0] * 601})
    with pytest.raises(ValueError, match="too large"):
        Tables.from_state(state, "tables.y")


@given(st.lists(pmfs, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_flat_tables_hold_the_used_entries_and_no_others(rows):
    tables = Tables.from_pmfs(rows, offsets=list(range(len(rows))))
    state = tables.state("tables.y")
    assert {name.split(".")[-1]: t.dtype for name, t in state.items()} == TYPES
    used = [v for row, n in zip(tables.cdf.tolist(), tables.length.tolist(), strict=True) for v in row[: n - 1]]
    assert state["tables.y.cdf"].tolist() == used
    back = Tables.from_state(state, "tables.y")
    assert all(torch.equal(getattr(back, n), getattr(tables, n)) for n in TYPES)


# -- coder -----------------------------------------------------------------------------------------------------

GAUSSIAN = Gaussian().tables()
ODD = Tables.from_pmfs(
    [torch.tensor([1.0]), torch.tensor([0.5, 0.0, 0.4]), torch.full((300,), 1 / 300)], offsets=[0, -(2**20), 5]
)

symbol = (
    st.integers(-40, 40)
    | st.integers(1 - LARGEST, LARGEST - 1)
    | st.sampled_from([1 - LARGEST, LARGEST - 1, -FAR, FAR, -(2**20), 5, 304, 305])
)


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


def written(*calls: tuple) -> bytes:
    encoder = Encoder()
    for symbols, indexes, tables, shifts in calls:
        encoder.put(symbols, indexes, tables, shifts=shifts)
    return encoder.segment()


@given(st.lists(puts(), max_size=4))
@settings(deadline=None, max_examples=150)
def test_all_symbols_are_read_back_in_order(calls):
    segment = written(*calls)
    decoder = Decoder(segment)
    for symbols, indexes, tables, shifts in calls:
        out = decoder.get(indexes, tables, shifts=shifts)
        assert out.dtype == torch.int32 and out.device.type == "cpu"
        assert out.tolist() == symbols.tolist()
    decoder.finish()
    assert segment == written(*calls)


@given(puts(), st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_a_stream_does_not_depend_on_how_its_symbols_are_split_into_calls(call, at):
    symbols, indexes, tables, shifts = call
    shifts = torch.zeros_like(indexes) if shifts is None else shifts
    parts = [(symbols[s], indexes[s], tables, shifts[s]) for s in (slice(None, at), slice(at, None))]
    segment = written(call)
    assert written(*parts) == segment
    decoder = Decoder(segment)
    assert [v for _, i, t, k in parts for v in decoder.get(i, t, shifts=k).tolist()] == symbols.tolist()
    decoder.finish()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_symbols_take_few_bytes(n):
    symbols, indexes = torch.ones(n).int(), torch.zeros(n).int()  # in the table, at 16 bits each
    segment = written((symbols, indexes, GAUSSIAN, None))
    assert len(segment) == [0, 8, 12, 12][n]  # a state of 64 bits, 31 of which are its initial value
    decoder = Decoder(segment)
    assert decoder.get(indexes, GAUSSIAN).tolist() == symbols.tolist()
    decoder.finish()


@pytest.mark.parametrize("far", [-FAR, FAR, -FAR + 1, FAR - 1, 1 - LARGEST, LARGEST - 1])
def test_a_symbol_far_outside_every_table_is_decoded_among_likely_ones(far):
    symbols = torch.zeros(len(GAUSSIAN.cdf) * 2, dtype=torch.int64)
    symbols[::2] = far
    indexes = torch.arange(len(GAUSSIAN.cdf)).repeat_interleave(2).int()
    for shift in (0, 1, 16):
        shifts = torch.full_like(indexes, shift)
        decoder = Decoder(written((symbols, indexes, GAUSSIAN, shifts)))
        assert decoder.get(indexes, GAUSSIAN, shifts=shifts).tolist() == symbols.tolist()
        decoder.finish()


@pytest.mark.parametrize("edge", [-(2**29) - 40, -(2**29), 2**29 - 40, 2**29])
def test_escapes_hold_every_allowed_symbol_even_from_the_farthest_table(edge):
    tables = Tables.from_pmfs([torch.full((3,), 0.3)] * 2, offsets=[max(min(edge, LARGEST), -LARGEST), 0])
    symbols = torch.tensor([1 - LARGEST, LARGEST - 1, 0, LARGEST - 1, 1 - LARGEST])
    indexes = torch.tensor([0, 0, 0, 1, 1]).int()
    decoder = Decoder(written((symbols, indexes, tables, None)))
    assert decoder.get(indexes, tables).tolist() == symbols.tolist()
    decoder.finish()


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 2**62, -(2**63), 2**63 - 1])
def test_a_symbol_out_of_range_is_refused_by_the_encoder(value):
    with pytest.raises(ValueError, match="outside the coder's range"):
        Encoder().put(torch.tensor([0, value]), torch.zeros(2).int(), GAUSSIAN)


@pytest.mark.parametrize("index", [-1, len(GAUSSIAN.cdf), 2**31 - 1, 2**32, -(2**32)])
def test_a_missing_table_is_refused(index):
    symbols, indexes = torch.zeros(2).int(), torch.tensor([0, index])
    with pytest.raises(ValueError, match="tables"):
        Encoder().put(symbols, indexes, GAUSSIAN)
    with pytest.raises(ValueError, match="tables"):
        Decoder(written((symbols, symbols, GAUSSIAN, None))).get(indexes, GAUSSIAN)


def test_the_costliest_symbols_fit_in_the_allocated_words():
    """The costliest symbol is an escape of the largest width from a table with the rarest escape, plus 16 low bits."""
    tables = Tables.from_pmfs([torch.tensor([1.0])], offsets=[-LARGEST])
    n = 1000
    symbols, indexes = torch.full((n,), LARGEST - 1), torch.zeros(n).int()
    segment = written((symbols, indexes, tables, torch.full((n,), 16).int()))
    assert len(segment) / 4 < 3 * n  # 8 words per symbol are allocated


def test_the_coder_works_without_a_writable_folder(monkeypatch):
    """numba refuses to compile with cache=True if it cannot write its cache."""
    import importlib.util

    from numba.core import caching

    def refuse(self):
        raise OSError("read-only")

    for locator in vars(caching).values():
        if isinstance(locator, type) and issubclass(locator, caching._CacheLocator):
            monkeypatch.setattr(locator, "ensure_cache_path", refuse)
    spec = importlib.util.spec_from_file_location("rans_elsewhere", rans.__file__)
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    words = np.empty(8, dtype=np.uint32)
    states = [np.array([2**62], dtype=np.uint64) for _ in range(2)]
    counts = [
        kind._push_bits(state, words, 0, np.int64(5), 3) for kind, state in zip((elsewhere, rans), states, strict=True)
    ]
    assert counts[0] == counts[1] and states[0] == states[1] != 2**62


# -- hostile streams -------------------------------------------------------------------------------------------


def read(segment: bytes, *calls: tuple) -> list[list[int]]:
    decoder = Decoder(segment)
    out = [decoder.get(indexes, tables, shifts=shifts).tolist() for _, indexes, tables, shifts in calls]
    decoder.finish()
    return out


@pytest.fixture(scope="module")
def call() -> tuple:
    """Symbols of every table, some escaped, with low bits."""
    random = np.random.default_rng(0)
    symbols = torch.from_numpy(random.integers(-50, 50, 400))
    indexes, shifts = torch.from_numpy(random.integers(0, len(GAUSSIAN.cdf), 400)), torch.arange(400) % 17
    return symbols, indexes.int(), GAUSSIAN, shifts.int()


def test_a_truncated_stream_is_a_corrupt_file(call):
    segment = written(call)
    assert read(segment, call) == [call[0].tolist()]
    for end in range(len(segment)):
        with pytest.raises(CorruptFile, match=r"cut off|end"):
            read(segment[:end], call)


@pytest.mark.parametrize("more", [b"\0", b"\0" * 4, b"\xff" * 4, b"\0" * 400])
def test_an_extended_stream_is_a_corrupt_file(call, more):
    segment = written(call)
    with pytest.raises(CorruptFile):
        read(segment + more, call)
    with pytest.raises(CorruptFile):
        read(segment[:8] + more + segment[8:], call)


def test_reading_more_or_fewer_symbols_than_were_written_is_a_corrupt_file(call):
    symbols, indexes, tables, shifts = call
    segment = written(call)
    for n in (0, 1, 200, 399):
        with pytest.raises(CorruptFile, match="do not end"):
            read(segment, (symbols[:n], indexes[:n], tables, shifts[:n]))
    with pytest.raises(CorruptFile, match="end"):
        read(segment, call, call)
    with pytest.raises(CorruptFile, match="do not end"):
        read(segment)
    with pytest.raises(CorruptFile, match="too early"):
        read(b"", call)


@pytest.mark.parametrize("state", [0, 1, rans.START - 1, 1 << 63, (1 << 64) - 1])
def test_an_invalid_initial_state_is_a_corrupt_file(call, state):
    """One word cannot bring such a state back into range, and a symbol could cost nothing."""
    segment = state.to_bytes(8, "little") + written(call)[8:]
    with pytest.raises(CorruptFile, match="start"):
        Decoder(segment)


@pytest.mark.parametrize("width", range(64))
def test_an_escape_of_any_width_is_decoded_or_refused(width):
    """As a hostile encoder writes it: an escape, its width in 6 bits, then any bits."""
    tables = Tables.from_pmfs([torch.tensor([0.25, 0.25])], offsets=[0])
    words = np.empty(64, dtype=np.uint32)
    state = np.array([rans.START], dtype=np.uint64)
    count = rans._push_bits(state, words, 0, np.int64(2**62 - 1), 48)
    count = rans._push_bits(state, words, count, np.int64(width), 6)
    count = rans._push(state, words, count, np.uint64(2**15), np.uint64(2**15))
    stream = words[:count][::-1].astype("<u4").tobytes()
    decoder = Decoder(state.astype("<u8").tobytes() + stream)
    if width > rans.MAX_WIDTH or 2**width > LARGEST:
        with pytest.raises(CorruptFile):
            decoder.get(torch.zeros(1).int(), tables)
        return
    value = int(decoder.get(torch.zeros(1).int(), tables))
    distance = 2 ** (width + 1) - 2  # all ones minus one is even, so the symbol is below the table
    assert value == -(distance // 2) - 1
    if width < 31:  # the 48 bits are not used up
        with pytest.raises(CorruptFile, match="do not end"):
            decoder.finish()


def test_tables_of_another_model_do_not_decode_a_stream(call):
    """With tables that differ by one unit the symbols may look valid, but the end of the stream does not."""
    symbols, indexes, tables, shifts = call
    segment = written(call)
    for row in (int(indexes[0]), int(indexes[200])):
        cdf = tables.cdf.clone()
        cdf[row, 1 + int(cdf[row].diff().argmax())] -= 1
        other = Tables(cdf, tables.length, tables.offset)
        other._check()
        try:
            decoded = read(segment, (symbols, indexes, other, shifts))
        except CorruptFile:
            continue
        assert decoded == [symbols.tolist()]  # the changed entries were not used


@given(st.binary(max_size=80), st.integers(0, 60), st.sampled_from([GAUSSIAN, ODD]), st.integers(0, 16))
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_are_symbols_in_range_or_a_corrupt_file(data, n, tables, shift):
    indexes = (torch.arange(n) * 7 % len(tables.cdf)).int()
    try:
        decoder = Decoder(data)
        out = decoder.get(indexes, tables, shifts=torch.full((n,), shift).int())
        decoder.finish()
    except CorruptFile:
        return
    # a stream that ends correctly is what an encoder writes, unless an escape codes a symbol of the table
    again = Encoder()
    assert (out.abs() <= LARGEST).all()
    if (out.abs() < LARGEST).all():
        again.put(out, indexes, tables, shifts=torch.full((n,), shift).int())
        assert len(again.segment()) <= max(len(data), 8)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_decoder_reads_no_word_beyond_its_stream(data):
    """The symbols do not depend on the words in memory around the stream."""
    size = data.draw(st.integers(0, 12))
    inner = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size))
    state = data.draw(st.integers(rans.START, 2**63 - 1))
    n, results = 40, []
    rows, shifts = np.arange(n, dtype=np.int32) % len(ODD.cdf), np.full(n, 3, dtype=np.uint8)
    for around in (0, 2**32 - 1):
        words = np.array([around] * 8 + inner + [around] * 8, dtype=np.uint32)[8 : 8 + size]
        room, end = np.full(n + 16, -77, dtype=np.int32), np.array([state], dtype=np.uint64)
        at = rans.decode(end, 0, words, rows, shifts, *ODD.arrays, ODD.lookup, room[8 : 8 + n])
        assert (room[:8] == -77).all() and (room[8 + n :] == -77).all()
        assert -1 <= at <= size
        results.append((int(end[0]), at, room.tolist()))
    assert results[0] == results[1]


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


def test_gaussian_likelihood_stays_above_its_floor_with_a_finite_gradient():
    residual = torch.tensor([0.0, 0.5, 3, 40, 1e3, 1e6, -1e6], requires_grad=True)
    for value in (0.11, 1.0, 300.0, 16384.0):
        scale = torch.full_like(residual, value, requires_grad=True)
        p = Gaussian()(residual, scale)
        assert (p >= 1e-9).all() and (p <= 1).all()
        assert p[-1].item() == (pytest.approx(1e-9) if value < 1e5 else p[-1].item())
        for gradient in torch.autograd.grad(-torch.log2(p).sum(), (residual, scale)):
            assert torch.isfinite(gradient).all()


def test_gradient_of_the_bits_equals_the_closed_form():
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


LEVELS = 2 ** (-3.25 + np.arange(133) / 16)


def test_gaussian_tables_equal_scipy_at_log_spaced_scales():
    check_integer_tables(GAUSSIAN)
    assert len(GAUSSIAN.cdf) == 133 and LEVELS[-1] == 32
    for scale, row, length, offset in zip(LEVELS, *GAUSSIAN.arrays, strict=True):
        row = row[:length]
        symbols = offset + np.arange(length - 2)
        assert symbols[0] == -symbols[-1]
        expected = norm.cdf((symbols + 0.5) / scale) - norm.cdf((symbols - 0.5) / scale)
        np.testing.assert_allclose(np.diff(row)[:-1] * UNIT, expected, atol=6 * UNIT)
        kept = expected > 1e-12
        lost = expected[kept] * np.log2(expected[kept] / np.diff(row)[:-1][kept] / UNIT)
        assert lost.sum() < 0.0015  # bits per symbol
        beyond = norm.sf((symbols[-1] + 0.5) / scale)
        assert beyond <= 2.0**-17 and norm.sf((symbols[-1] - 1.5) / scale) > 2.0**-17  # neither too short nor too long


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
