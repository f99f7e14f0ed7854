"""Entropy coder: symbols decode exactly, and damaged or hostile streams are always detected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coder_examples import FAR, GAUSSIAN, read, written
from hypothesis import given, settings
from hypothesis import strategies as st

from jdcsuite.entropy import rans
from jdcsuite.entropy.coder import LARGEST, Decoder, Encoder, Tables
from jdcsuite.types import CorruptFile

# -- coder -----------------------------------------------------------------------------------------------------

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
