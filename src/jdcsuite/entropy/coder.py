"""Integers + integer probability tables <-> bytes: rANS (CompressAI's), with an exact escape.

A symbol outside its table is sent through the coder's escape, never clipped: whatever is encoded is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from compressai import ans
from compressai._CXX import pmf_to_quantized_cdf
from torch import Tensor

from jdcsuite.entropy.container import CorruptFile

PRECISION = 16


@dataclass(frozen=True)
class Tables:
    """Cumulative tables, one a row: ``cdf`` int32 (tables, longest) in units of 2**-16, ``length`` and ``offset``
    int32 (tables,): entries used of the row, and the integer that its first entry stands for. The last entry of
    a row is the escape."""

    cdf: Tensor
    length: Tensor
    offset: Tensor

    @classmethod
    def from_pmfs(cls, pmfs: list[Tensor], *, offsets: list[int]) -> Tables:
        """Probabilities (any length each; what they lack to one goes to the escape) -> integer tables."""
        rows = []
        for pmf in pmfs:
            escape = max(1.0 - float(pmf.sum()), 2.0**-PRECISION)
            rows.append(pmf_to_quantized_cdf([*pmf.tolist(), escape], PRECISION))
        cdf = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int32)
        for row, values in zip(cdf, rows, strict=True):
            row[: len(values)] = torch.tensor(values, dtype=torch.int32)
        length = torch.tensor([len(r) for r in rows], dtype=torch.int32)
        return cls(cdf, length, torch.tensor(offsets, dtype=torch.int32))

    def state(self, prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}.{name}": getattr(self, name) for name in ("cdf", "length", "offset")}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Tables:
        return cls(*(state[f"{prefix}.{name}"] for name in ("cdf", "length", "offset")))

    @cached_property
    def lists(self) -> tuple[list[list[int]], list[int], list[int]]:
        # The coder's binding takes lists; made once, not once an image.
        rows = [row[:n].tolist() for row, n in zip(self.cdf, self.length.tolist(), strict=True)]
        return rows, self.length.tolist(), self.offset.tolist()


class Encoder:
    """Collects symbols in the order in which they will be read; two segments: the rANS stream and raw low bits."""

    def __init__(self) -> None:
        self._rans = ans.BufferedRansEncoder()
        self._raw: list[np.ndarray] = []
        self._count = 0

    def put(self, symbols: Tensor, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> None:
        """``symbols``, the ``indexes`` of their tables and, where a symbol is too wide for any table, the number
        ``shifts`` of low bits to send as they are: integers, one dimension, equal length."""
        if shifts is not None:
            symbols = symbols.long() + _half(shifts)
            self._raw.append(_bits(symbols & ((1 << shifts.long()) - 1), shifts))
            symbols = symbols >> shifts
        self._rans.encode_with_indexes(symbols.tolist(), indexes.tolist(), *tables.lists)
        self._count += len(symbols)

    def segments(self) -> list[bytes]:
        # CompressAI's encoder reserves a word a symbol and flushes two more: with fewer than three symbols it would
        # write outside its memory. Certain symbols at the end cost next to nothing and are never read.
        fill = max(0, 3 - self._count)
        self._rans.encode_with_indexes([0] * fill, [0] * fill, *CERTAIN.lists)
        raw = np.packbits(np.concatenate(self._raw)).tobytes() if self._raw else b""
        return [self._rans.flush(), raw]


class Decoder:
    """Reads symbols back in the order in which they were put."""

    def __init__(self, segments: list[bytes]) -> None:
        stream, raw = segments
        self._rans = ans.RansDecoder()
        self._rans.set_stream(stream)
        self._raw = np.unpackbits(np.frombuffer(raw, np.uint8))
        self._read = 0

    def get(self, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> Tensor:
        """``indexes`` and ``shifts`` as they were put -> int64 symbols, on the CPU."""
        symbols = torch.tensor(self._rans.decode_stream(indexes.tolist(), *tables.lists), dtype=torch.int64)
        if shifts is None:
            return symbols
        shifts = shifts.cpu()
        return (symbols << shifts) + self._low(shifts) - _half(shifts)

    def _low(self, shifts: Tensor) -> Tensor:
        used, weight = _layout(shifts)
        end = self._read + int(used.sum())
        if end > len(self._raw):
            raise CorruptFile("the raw bits end too early")
        bits = np.zeros(used.shape, dtype=np.int64)
        bits[used] = self._raw[self._read : end]
        self._read = end
        return torch.from_numpy((bits << weight).sum(1))


def _half(shifts: Tensor) -> Tensor:
    """Half of 2**shift, rounded down: centres the interval that shares its high bits."""
    return (torch.ones_like(shifts, dtype=torch.int64) << shifts) >> 1


def _layout(shifts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Which cells of a (symbols, widest) grid hold a bit, most significant first, and each one's exponent."""
    widths = shifts.cpu().numpy().astype(np.int64)[:, None]
    exponent = widths - 1 - np.arange(int(widths.max(initial=0)))[None]
    return exponent >= 0, np.maximum(exponent, 0)


def _bits(values: Tensor, shifts: Tensor) -> np.ndarray:
    used, exponent = _layout(shifts)
    return ((values.cpu().numpy()[:, None] >> exponent) & 1)[used].astype(np.uint8)


CERTAIN = Tables(torch.tensor([[0, 65535, 65536]]).int(), torch.tensor([3]).int(), torch.tensor([0]).int())
