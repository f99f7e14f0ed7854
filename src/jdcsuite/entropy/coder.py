"""Integers + integer probability tables <-> bytes: rANS with an exact escape.

A symbol outside its table is sent through the coder's escape, never clipped: whatever is encoded is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from jdcsuite.entropy import rans
from jdcsuite.entropy.rans import LARGEST
from jdcsuite.types import CorruptFile

UNITS = 1 << rans.PRECISION
FARTHEST = float(LARGEST // 2)  # what codecs clamp their symbols to
ENTRIES = (
    1 << 25
)  # of a matrix of tables that is read: a few bytes may not ask for gigabytes; 64 x 256 priors have 2**22


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
        rows = [_cumulative(pmf.detach().cpu().double().numpy()) for pmf in pmfs]
        cdf = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int32)
        for row, values in zip(cdf, rows, strict=True):
            row[: len(values)] = torch.from_numpy(values)
        length = torch.tensor([len(r) for r in rows], dtype=torch.int32)
        return cls(cdf, length, torch.tensor(offsets, dtype=torch.int32))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Flat tensors: the used entries of all rows one after the other, but for the last of each, which is 2**16
        and would not fit in 16 bits."""
        used = torch.arange(self.cdf.shape[1])[None] < self.length[:, None] - 1
        flat = self.cdf[used].to(torch.uint16)
        return {f"{prefix}.cdf": flat, f"{prefix}.length": self.length, f"{prefix}.offset": self.offset}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Tables:
        """Raises ValueError for what are no tables: a decoder must not search outside a row."""
        flat, length, offset = (state[f"{prefix}.{name}"] for name in ("cdf", "length", "offset"))
        if flat.dtype != torch.uint16 or length.dtype != torch.int32 or offset.dtype != torch.int32:
            raise ValueError("probability tables are of 16 unsigned bits, their lengths and offsets of 32")
        if flat.dim() != 1 or length.dim() != 1 or length.shape != offset.shape or not len(length):
            raise ValueError("probability tables are flat, with a length and an offset for each")
        if (length < 2).any() or (length > UNITS + 1).any() or int((length.long() - 1).sum()) != len(flat):
            raise ValueError("the probability tables do not have their lengths")
        longest = int(length.max())
        if len(length) * longest > ENTRIES:
            raise ValueError("the probability tables are too large")
        place = torch.arange(longest)[None]
        cdf = torch.zeros(len(length), longest, dtype=torch.int32)
        cdf[place < length[:, None] - 1] = flat.to(torch.int32)
        cdf[place == length[:, None] - 1] = UNITS
        tables = cls(cdf, length, offset)
        tables._check()
        return tables

    def _check(self) -> None:
        rows = self.cdf.shape[0] if self.cdf.dim() == 2 and self.cdf.shape[1] else -1
        if any(t.dtype != torch.int32 for t in (self.cdf, self.length, self.offset)) or not (
            self.length.shape == self.offset.shape == (rows,)
        ):
            raise ValueError("probability tables are int32: a matrix, and a length and an offset for each row")
        place = torch.arange(self.cdf.shape[1])[None]
        used = place < self.length[:, None]
        end = self.cdf.gather(1, (self.length.long()[:, None] - 1).clamp(0, self.cdf.shape[1] - 1))
        rises = (self.cdf.diff(dim=1) > 0) | ~used[:, 1:]
        lengths_fit = bool(((self.length >= 2) & (self.length <= self.cdf.shape[1])).all())
        if not (lengths_fit and (self.cdf[:, 0] == 0).all() and (end == UNITS).all() and rises.all()):
            raise ValueError("a probability table does not rise from 0 to 65536")
        if ((self.offset > LARGEST) | (self.offset < -LARGEST)).any():
            raise ValueError("a probability table stands too far from 0")

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``cdf``, ``length`` and ``offset`` as the coder takes them."""
        return tuple(np.ascontiguousarray(t.cpu().numpy()) for t in (self.cdf, self.length, self.offset))

    @cached_property
    def lookup(self) -> np.ndarray:
        return rans.lookup(*self.arrays[:2])


def _cumulative(pmf: np.ndarray) -> np.ndarray:
    """Integer cumulative of ``pmf`` and of the escape that takes what it lacks to one; no entry below one unit.

    Largest remainders: a sum of rounded entries would have to be mended somewhere, at up to .005 bit a symbol."""
    p = np.append(pmf, max(1.0 - float(pmf.sum()), 1 / UNITS))
    if len(p) > UNITS // 2:
        raise ValueError(f"a table of {len(p)} symbols is too long for probabilities in units of 2**-16")
    exact = p / p.sum() * UNITS
    units = np.maximum(np.floor(exact), 1).astype(np.int64)
    surplus = UNITS - int(units.sum())
    if surplus > 0:
        np.add.at(units, np.argsort(units - exact, kind="stable")[:surplus], 1)
    while surplus < 0:  # entries raised to one unit: taken back where that is cheapest, one unit from each in turn
        widest = np.argsort(-(units / np.maximum(exact, 1e-300)) * (units > 1), kind="stable")[:-surplus]
        widest = widest[units[widest] > 1]
        units[widest] -= 1
        surplus += len(widest)
    return np.concatenate([[0], np.cumsum(units)]).astype(np.int32)


class Encoder:
    """Collects symbols in the order in which they will be read, and writes them as one segment."""

    def __init__(self) -> None:
        self._puts: list[tuple[np.ndarray, np.ndarray, np.ndarray, Tables]] = []

    def put(self, symbols: Tensor, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> None:
        """``symbols``, the ``indexes`` of their tables and, where a symbol is too wide for any table, the number
        ``shifts`` (0..16) of low bits to send as they are: integers, one dimension, equal length."""
        values = symbols.cpu().numpy()
        if values.size and not (values.min() > -LARGEST and values.max() < LARGEST):
            raise ValueError(f"symbols of {values.min()} to {values.max()} are outside the coder's range")
        self._puts.append((values.astype(np.int32, copy=False), *_places(indexes, shifts, tables), tables))

    def segment(self) -> bytes:
        """The bytes of all that was put; nothing at all for no symbols."""
        if not any(len(values) for values, *_ in self._puts):
            return b""
        state, written = np.array([rans.START], dtype=np.uint64), []
        for values, indexes, shifts, tables in reversed(self._puts):
            words = np.empty(8 * len(values), dtype=np.uint32)
            count = rans.encode(state, values, indexes, shifts, *tables.arrays, words)
            written.append(words[:count])
        stream = np.concatenate(written)[::-1].astype("<u4").tobytes()
        return state.astype("<u8").tobytes() + stream


class Decoder:
    """Reads symbols back in the order in which they were put. Raises `CorruptFile` where the bytes end too early."""

    def __init__(self, segment: bytes) -> None:
        if len(segment) % 4 or len(segment) == 4:
            raise CorruptFile("a coded segment is cut off")
        self._state = np.array([int.from_bytes(segment[:8], "little") if segment else rans.START], dtype=np.uint64)
        self._words = np.frombuffer(segment[8:], dtype="<u4").astype(np.uint32)
        self._at = 0
        if not rans.START <= int(self._state[0]) < 1 << 63:
            raise CorruptFile("a coded segment does not start as one")

    def get(self, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> Tensor:
        """``indexes`` and ``shifts`` as they were put -> int32 symbols, on the CPU."""
        rows, low_bits = _places(indexes, shifts, tables)
        out = np.empty(len(rows), dtype=np.int32)
        arrays = (*tables.arrays, tables.lookup)
        self._at = rans.decode(self._state, self._at, self._words, rows, low_bits, *arrays, out)
        if self._at < 0:
            raise CorruptFile("the coded symbols end too early")
        return torch.from_numpy(out)

    def finish(self) -> None:
        """Raises `CorruptFile` unless all that was written has been read: any other bytes would not end here."""
        if self._at != len(self._words) or int(self._state[0]) != rans.START:
            raise CorruptFile("the coded symbols do not end where they should")


def _places(indexes: Tensor, shifts: Tensor | None, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Table indexes (int32) and shifts (uint8, empty for none); ValueError for a table that is not there."""
    rows = indexes.cpu().numpy()
    if rows.size and (rows.min() < 0 or rows.max() >= len(tables.length)):
        raise ValueError(f"there are {len(tables.length)} tables; {rows.min()} to {rows.max()} were asked for")
    low_bits = np.empty(0, np.uint8) if shifts is None or not shifts.any() else shifts.cpu().numpy().astype(np.uint8)
    return rows.astype(np.int32, copy=False), low_bits
