"""Bytes of a JPEG -> the damage of its entropy-coded data, which libjpeg only warns of and decodes to grey.

ITU-T T.81, Annexes F (baseline) and G (progressive). Only codes are checked, no coefficient is computed. Arithmetic and
lossless JPEGs are not checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import ceil

import numpy as np
from numba import njit

_DHT, _EOI, _SOS, _DRI, _BASELINE, _PROGRESSIVE = 0xC4, 0xD9, 0xDA, 0xDD, (0xC0, 0xC1), 0xC2
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {_DHT, 0xC8, 0xCC}
_DAMAGE = (None, "its data hold an invalid code", "its data end early", "its data do not end where its image does")
_FINE, _INVALID, _SHORT, _LONG = range(4)  # indices of the sentences
_AT, _HELD, _BITS, _STATUS, _RUN = range(5)  # of the state of a scan


def damage(data: bytes) -> str | None:
    """What is wrong with the first image of a JPEG file; None if nothing is, or it is of a kind that is not checked."""
    try:
        return _DAMAGE[_damage(data)]
    except (struct.error, IndexError, ValueError, ZeroDivisionError, KeyError):
        return None  # damage of the headers is for the decoder to report


def _damage(data: bytes) -> int:
    samples = np.frombuffer(data, np.uint8)
    codes, first, values = np.full((8, 17), -1), np.zeros((8, 17), np.int64), np.zeros((8, 256), np.int64)
    frame, size, interval, progressive, nonzero, at = {}, (0, 0), 0, False, {}, 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:
            at += 1
            continue
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker == _EOI or marker in _OTHER_FRAMES:
            return _FINE
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == _DHT:
            _read_tables(body, codes, first, values)
        elif marker == _DRI:
            interval = struct.unpack(">H", body)[0]
        elif marker in _BASELINE or marker == _PROGRESSIVE:
            progressive = marker == _PROGRESSIVE
            size = struct.unpack_from(">HH", body, 1)
            if body[0] != 8 or not all(size):
                return _FINE
            frame = {c: (f >> 4, f & 15) for c, f in zip(body[6::3], body[7::3], strict=False)}
        elif marker == _SOS:
            chosen = zip(body[1 : 1 + 2 * body[0] : 2], body[2::2], strict=False)
            scan = [(frame[component], tables >> 4 & 3, 4 + (tables & 3)) for component, tables in chosen]
            widest, tallest = (max(factors[i] for factors in frame.values()) for i in (0, 1))
            across, down = 8 * widest, 8 * tallest
            if len(scan) == 1:  # then the units are the component's own blocks
                (h, v), *_ = scan[0]
                units = ceil(ceil(size[1] * h / widest) / 8) * ceil(ceil(size[0] * v / tallest) / 8)
                blocks = [scan[0][1:]]
            else:
                units = ceil(size[1] / across) * ceil(size[0] / down)
                blocks = [tables for (h, v), *tables in scan for _ in range(h * v)]
            band = (0, 63, 0)
            mask = np.zeros(0, np.int64)
            if progressive:
                low, high, approximation = body[1 + 2 * body[0] :][:3]
                band = (low, high, approximation >> 4)
                if low:
                    mask = nonzero.setdefault(body[1], np.zeros(units, np.int64))
                if high > 63 or low > high or (low and mask.size != units):
                    return _FINE  # damage of the headers is for the decoder to report
            tables = (codes, first, values)
            codings = np.array(blocks, np.int64).reshape(-1, 2)
            status, at = _walk(samples, at, units, codings, interval, tables, progressive, band, mask)
            if status != _FINE:
                return status
    return _FINE


def _read_tables(body: bytes, codes: np.ndarray, first: np.ndarray, values: np.ndarray) -> None:
    """Huffman tables -> the largest code of each length, what to add to a code to get its index, and the symbols."""
    while body:
        table = (body[0] >> 4) * 4 + (body[0] & 3)
        counts, code, index = body[1:17], 0, 0
        for length, count in enumerate(counts, start=1):
            first[table, length] = index - code
            codes[table, length] = code + count - 1 if count else -1
            code, index = (code + count) << 1, index + count
        if index > values.shape[1]:
            raise ValueError("more symbols than there are")
        values[table, :index] = np.frombuffer(body[17 : 17 + index], np.uint8)
        body = body[17 + index :]


def _compiled(function: Callable) -> Callable:
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for numba's cache, as in a read-only container
        return njit(nogil=True)(function)


@_compiled
def _bit(data, state):
    """The next bit; 0 where the data have ended, which the status says."""
    if state[_BITS] == 0:
        at = state[_AT]
        if at >= data.size or (data[at] == 0xFF and (at + 1 >= data.size or data[at + 1] != 0)):
            state[_STATUS] = state[_STATUS] or _SHORT
            return 0
        state[_HELD], state[_BITS] = data[at], 8
        state[_AT] = at + (2 if data[at] == 0xFF else 1)
    state[_BITS] -= 1
    return (state[_HELD] >> state[_BITS]) & 1


@_compiled
def _number(data, state, length):
    value = 0
    for _ in range(length):
        value = 2 * value + _bit(data, state)
    return value


@_compiled
def _symbol(data, state, tables, table):
    """The next symbol; 0, which ends every loop over coefficients, after an error."""
    codes, first, values = tables
    code = 0
    for length in range(1, 17):
        code = 2 * code + _bit(data, state)
        if state[_STATUS]:
            return 0
        if code <= codes[table, length]:
            return values[table, first[table, length] + code]
    state[_STATUS] = _INVALID
    return 0


@_compiled
def _sequential(data, state, tables, dc, ac):
    """A block of a baseline scan."""
    _number(data, state, _symbol(data, state, tables, dc) & 15)
    k = 1
    while k < 64:
        symbol = _symbol(data, state, tables, ac)
        run, length = symbol >> 4, symbol & 15
        if length == 0 and run < 15:
            break
        k += run + 1
        if length and k > 64:
            state[_STATUS] = _INVALID
        _number(data, state, length)


@_compiled
def _first_pass(data, state, tables, ac, band, mask):
    """AC coefficients of a block in their first scan; returns ``mask`` with those that are not zero."""
    if state[_RUN]:
        state[_RUN] -= 1
        return mask
    k = band[0]
    while k <= band[1]:
        symbol = _symbol(data, state, tables, ac)
        run, length = symbol >> 4, symbol & 15
        if length == 0 and run < 15:
            state[_RUN] = (1 << run) - 1 + _number(data, state, run)
            break
        k += run
        if length:
            if k > band[1]:
                state[_STATUS] = _INVALID
                break
            mask |= 1 << k
            _number(data, state, length)
        k += 1
    return mask


@_compiled
def _refinement(data, state, tables, ac, band, mask):
    """AC coefficients of a block in a later scan: a bit for each that is not zero yet, and new ones of +-1."""
    k = band[0]
    while k <= band[1] and state[_RUN] == 0 and state[_STATUS] == 0:
        symbol = _symbol(data, state, tables, ac)
        run, length = symbol >> 4, symbol & 15
        if length == 0 and run < 15:
            state[_RUN] = (1 << run) + _number(data, state, run)
            break
        if length > 1:
            state[_STATUS] = _INVALID
        _number(data, state, length)
        while k <= band[1]:
            if (mask >> k) & 1:
                _bit(data, state)
            elif run == 0:
                break
            else:
                run -= 1
            k += 1
        if length:
            if k > band[1]:
                state[_STATUS] = _INVALID
                break
            mask |= 1 << k
        k += 1
    if state[_RUN]:
        while k <= band[1]:
            if (mask >> k) & 1:
                _bit(data, state)
            k += 1
        state[_RUN] -= 1
    return mask


@_compiled
def _walk(data, at, units, blocks, interval, tables, progressive, band, nonzero):
    """Reads a scan; returns its status and the offset behind it. ``band``: first and last coefficient, and whether
    earlier scans had their higher bits. ``nonzero``: of each block, the coefficients that are not zero so far."""
    state = np.zeros(5, np.int64)
    state[_AT] = at
    for unit in range(units):
        if interval and unit and unit % interval == 0:
            at = state[_AT]
            while at + 2 < data.size and data[at] == 0xFF and data[at + 1] == 0xFF:
                at += 1
            if at + 2 > data.size or data[at] != 0xFF or data[at + 1] != 0xD0 + (unit // interval - 1) % 8:
                return _LONG, at
            state[_AT], state[_BITS], state[_RUN] = at + 2, 0, 0
        for block in range(blocks.shape[0]):
            dc, ac = blocks[block]
            if not progressive:
                _sequential(data, state, tables, dc, ac)
            elif band[0] == 0 and band[2] == 0:
                _number(data, state, _symbol(data, state, tables, dc) & 15)
            elif band[0] == 0:
                _bit(data, state)
            elif band[2] == 0:
                nonzero[unit] = _first_pass(data, state, tables, ac, band, nonzero[unit])
            else:
                nonzero[unit] = _refinement(data, state, tables, ac, band, nonzero[unit])
            if state[_STATUS]:
                return state[_STATUS], state[_AT]
    left, at = 0, state[_AT]
    while at + 1 < data.size and (data[at] != 0xFF or data[at + 1] in (0, 0xFF)):
        left |= data[at] if data[at] != 0xFF or data[at + 1] == 0 else 0  # zeros are some cameras' padding
        at += 1
    return _LONG if left else _FINE, at
