"""Integer symbols + integer tables <-> 32-bit words: range asymmetric numeral systems, compiled by numba.

Duda, "Asymmetric numeral systems" (arXiv 1311.2540, 2013). One 64-bit state in [2**31, 2**63), renormalised in 32-bit
words; probabilities in units of 2**-16. The encoder processes the symbols in reverse, so that the decoder reads them in
order. A symbol outside its table is coded as an escape and an Elias gamma code of its distance. ``shift`` low bits are
stored as they are, after the symbol made of the high bits. docs/format.md specifies the format.

We wrote our own coder because no maintained one reads hostile streams safely. This decoder checks the bounds of
everything it reads and, at the end, that the stream is used up and the state is the encoder's first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

PRECISION = 16
START = 1 << 31  # first state of the encoder, last of the decoder
LARGEST = 1 << 29  # magnitude of a symbol
MAX_WIDTH = 31  # bits of an escaped distance
LOOKUP = 8  # high bits of a cumulative value that index the start of the search for its symbol

_L = np.uint64(START)
_P, _32 = np.uint64(PRECISION), np.uint64(32)
_MASK16, _MASK32 = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
_LIMIT = np.uint64((START >> PRECISION) << 32)  # from this state times the frequency on, a word is written first


def _compiled(function: Callable) -> Callable:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder for numba's cache, as in a read-only container
        return njit(**options)(function)


@_compiled
def _push(state, words, count, start, frequency):
    x = state[0]
    if x >= _LIMIT * frequency:
        words[count] = np.uint32(x & _MASK32)
        x >>= _32
        count += 1
    quotient = x // frequency
    state[0] = (quotient << _P) + (x - quotient * frequency) + start
    return count


@_compiled
def _push_bits(state, words, count, value, width):
    """Pushes ``width`` bits, at most 16 at a time, in the order in which the highest are read first."""
    done = 0
    while done < width:
        n = min(width - done, 16)
        frequency = np.uint64(1 << (16 - n))
        count = _push(state, words, count, np.uint64((value >> done) & ((1 << n) - 1)) * frequency, frequency)
        done += n
    return count


@_compiled
def encode(state, symbols, indexes, shifts, cdf, length, offset, words):
    """Pushes ``symbols`` (int32) in reverse onto ``state`` (one uint64) and returns the number of ``words`` written.

    ``words``: uint32, with room for 8 per symbol. ``shifts``: uint8, empty if there are none."""
    count = 0
    for i in range(symbols.size - 1, -1, -1):
        value = np.int64(symbols[i])
        if shifts.size:
            k = np.int64(shifts[i])
            value += (np.int64(1) << k) >> 1
            count = _push_bits(state, words, count, value & ((np.int64(1) << k) - 1), k)
            value >>= k
        row = indexes[i]
        escape = length[row] - 2
        entry = value - offset[row]
        if entry < 0 or entry >= escape:
            distance = 2 * (-entry - 1) if entry < 0 else 2 * (entry - escape) + 1
            distance += 1
            width = 0
            while (distance >> width) > 1:
                width += 1
            count = _push_bits(state, words, count, distance & ((np.int64(1) << width) - 1), width)
            count = _push_bits(state, words, count, np.int64(width), 6)
            entry = escape
        low = np.uint64(cdf[row, entry])
        frequency = np.uint64(cdf[row, entry + 1]) - low
        x = state[0]  # `_push` inlined: a call makes encoding four times slower
        if x >= _LIMIT * frequency:
            words[count] = np.uint32(x & _MASK32)
            x >>= _32
            count += 1
        quotient = x // frequency
        state[0] = (quotient << _P) + (x - quotient * frequency) + low
    return count


@_compiled
def _pull(state, words, at, low, frequency):
    """Pops the symbol of an interval off the state; returns the new position, -1 at the end of the stream."""
    x = frequency * (state[0] >> _P) + (state[0] & _MASK16) - low
    if x < _L:
        if at >= words.size:
            return -1
        x = (x << _32) | np.uint64(words[at])
        at += 1
    state[0] = x
    return at


@_compiled
def _pull_bits(state, words, at, width):
    """Returns the new position, -1 at the end of the stream, and the value. Widths over 16 were pushed in parts, the
    lowest 16 bits first, so the incomplete part is at the top and is read first."""
    value = np.int64(0)
    left = width
    while left > 0 and at >= 0:
        n = left % 16 if left % 16 else 16
        shift = np.uint64(16 - n)
        part = (state[0] & _MASK16) >> shift
        at = _pull(state, words, at, part << shift, np.uint64(1) << shift)
        value = (value << n) | np.int64(part)
        left -= n
    return at, value


@_compiled
def decode(state, at, words, indexes, shifts, cdf, length, offset, lookup, out):
    """Fills ``out`` (int32) from ``words``, starting at position ``at``. Returns the new position, or -1 if the stream
    ends too early or no encoder wrote it."""
    for i in range(indexes.size):
        row = indexes[i]
        cumulative = np.int64(state[0] & _MASK16)
        entry = np.int64(lookup[row, cumulative >> (PRECISION - LOOKUP)])
        while cdf[row, entry + 1] <= cumulative:
            entry += 1
        low = np.uint64(cdf[row, entry])
        x = (np.uint64(cdf[row, entry + 1]) - low) * (state[0] >> _P) + (state[0] & _MASK16) - low  # `_pull` inlined
        if x < _L:
            if at >= words.size:
                return -1
            x = (x << _32) | np.uint64(words[at])
            at += 1
        state[0] = x
        escape = length[row] - 2
        if entry == escape:
            at, width = _pull_bits(state, words, at, 6)
            if at < 0 or width > MAX_WIDTH:
                return -1
            at, rest = _pull_bits(state, words, at, width)
            if at < 0:
                return -1
            distance = ((np.int64(1) << width) | rest) - 1
            entry = -(distance >> 1) - 1 if distance % 2 == 0 else escape + (distance >> 1)
        value = entry + offset[row]
        if shifts.size:
            k = np.int64(shifts[i])
            at, bits = _pull_bits(state, words, at, k)
            if at < 0:
                return -1
            value = (value << k) + bits - ((np.int64(1) << k) >> 1)
        if value < -LARGEST or value > LARGEST:
            return -1
        out[i] = value
    return at


def lookup(cdf: np.ndarray, length: np.ndarray) -> np.ndarray:
    """For each table and each value of the highest 8 bits of a cumulative value, its first possible symbol: int32."""
    starts = np.arange(1 << LOOKUP) << (PRECISION - LOOKUP)
    rows = [np.searchsorted(row[:n], starts, side="right") - 1 for row, n in zip(cdf, length, strict=True)]
    return np.asarray(rows, dtype=np.int32)


@_compiled
def cumulate(logits, first, powers, per_step, units, out):
    """Fills the rows of ``out`` (int32) with the cumulative probabilities of its ``count`` outcomes and an escape
    without probability; see `entropy.logits`. ``powers``: int64, of falling exponents in steps of 1 / ``per_step``."""
    count = out.shape[1] - 2
    for row in range(len(out)):
        start, top, total = first[row], logits[row, first[row]], 0
        for i in range(1, count):
            top = max(top, logits[row, start + i])
        sums = np.empty(count, np.int64)
        for i in range(count):
            # no addition after the product, which a compiler could fuse with it
            total += powers[int(min((top - logits[row, start + i]) * per_step, len(powers) - 1.0))]
            sums[i] = total
        out[row, 0] = 0
        for i in range(count):
            out[row, i + 1] = sums[i] * (units - count) // total + i + 1
        out[row, count + 1] = units
