"""Bytes of a baseline JPEG -> the damage of its entropy-coded data, which libjpeg only warns of and decodes to grey.

ITU-T T.81, Annex F. Only codes are checked, no coefficient is computed. Progressive and arithmetic JPEGs are not
checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import ceil

import numpy as np
from numba import njit

_DHT, _EOI, _SOS, _DRI, _BASELINE = 0xC4, 0xD9, 0xDA, 0xDD, (0xC0, 0xC1)
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {_DHT, 0xC8, 0xCC}
_DAMAGE = (None, "its data hold an invalid code", "its data end early", "its data do not end where its image does")
_FINE, _INVALID, _SHORT, _LONG = range(4)  # indices of the sentences


def damage(data: bytes) -> str | None:
    """What is wrong with the first image of a JPEG file; None if nothing is, or it is of a kind that is not checked."""
    try:
        return _DAMAGE[_damage(data)]
    except (struct.error, IndexError, ValueError, ZeroDivisionError, KeyError):
        return None  # damage of the headers is for the decoder to report


def _damage(data: bytes) -> int:
    samples = np.frombuffer(data, np.uint8)
    codes, first, values = np.full((8, 17), -1), np.zeros((8, 17), np.int64), np.zeros((8, 256), np.int64)
    frame, size, interval, at = {}, (0, 0), 0, 2
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
        elif marker in _BASELINE:
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
            status, at = _walk(samples, at, units, np.array(blocks), interval, codes, first, values)
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
        values[table, :index] = np.frombuffer(body[17 : 17 + index], np.uint8)
        body = body[17 + index :]


def _compiled(function: Callable) -> Callable:
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for numba's cache, as in a read-only container
        return njit(nogil=True)(function)


@_compiled
def _walk(data, at, units, blocks, interval, codes, first, values):
    """Reads a scan; returns its status and the offset behind it."""
    held, bits = 0, 0  # the byte that is being read, and how many of its bits are left
    for unit in range(units):
        if interval and unit and unit % interval == 0:
            bits = 0
            while at + 2 < data.size and data[at] == 0xFF and data[at + 1] == 0xFF:
                at += 1
            if at + 2 > data.size or data[at] != 0xFF or data[at + 1] != 0xD0 + (unit // interval - 1) % 8:
                return _LONG, at
            at += 2
        for block in range(blocks.shape[0]):
            k = 0
            while k < 64:
                table = blocks[block, 1 if k else 0]
                code, length, skipped, symbol = 0, 0, 0, -1
                while symbol < 0 or skipped > 0:
                    if bits == 0:
                        if at >= data.size or (data[at] == 0xFF and (at + 1 >= data.size or data[at + 1] != 0)):
                            return _SHORT, at
                        held, bits = data[at], 8
                        at += 2 if held == 0xFF else 1
                    if symbol >= 0:  # the bits of a value
                        step = min(bits, skipped)
                        bits -= step
                        skipped -= step
                        continue
                    bits -= 1
                    code, length = 2 * code + ((held >> bits) & 1), length + 1
                    if length > 16:
                        return _INVALID, at
                    if code <= codes[table, length]:
                        symbol = values[table, first[table, length] + code]
                        skipped = symbol & 15
                if k == 0:
                    k = 1
                elif symbol & 15:
                    k += (symbol >> 4) + 1
                    if k > 64:
                        return _INVALID, at
                elif symbol >> 4 == 15:
                    k += 16
                else:
                    break
    left = 0
    while at + 1 < data.size and (data[at] != 0xFF or data[at + 1] in (0, 0xFF)):
        left |= data[at] if data[at] != 0xFF or data[at + 1] == 0 else 0  # zeros are some cameras' padding
        at += 1
    return _LONG if left else _FINE, at
