"""Integer symbols + integer probability tables <-> bytes: rANS with an exact escape.

A symbol outside its table is coded through an escape and never clipped, so every symbol decodes to itself.
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
MAX_SYMBOL = float(LARGEST // 2)  # codecs clamp their symbols to +- this value
# Entries of a table matrix that is read from a file, so that a few bytes cannot claim gigabytes: at most MAX_ENTRIES,
# and over FREE_ENTRIES (which 64 x 256 priors take) at most SPARSE times as many as are stored.
MAX_ENTRIES, FREE_ENTRIES, SPARSE = 1 << 25, 1 << 22, 64


@dataclass(frozen=True)
class Tables:
    """Cumulative probability tables.

    ``cdf``: int32 (tables, longest), one table per row, in units of 2**-16; the last entry of a row is the escape.
    ``length``, ``offset``: int32 (tables,), the used entries of a row and the symbol of its first entry.
    """

    cdf: Tensor
    length: Tensor
    offset: Tensor

    @classmethod
    def from_pmfs(cls, pmfs: list[Tensor], *, offsets: list[int]) -> Tables:
        """``pmfs``: probabilities of consecutive symbols, each of any length; the rest to 1 goes to the escape.
        ``offsets``: the first symbol of each."""
        rows = [_cumulative(pmf.detach().cpu().double().numpy()) for pmf in pmfs]
        cdf = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int32)
        for row, values in zip(cdf, rows, strict=True):
            row[: len(values)] = torch.from_numpy(values)
        length = torch.tensor([len(r) for r in rows], dtype=torch.int32)
        return cls(cdf, length, torch.tensor(offsets, dtype=torch.int32))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Flat tensors for a weights file: the used entries of all rows concatenated, without the last of each row,
        which is always 2**16 and does not fit in 16 bits."""
        used = torch.arange(self.cdf.shape[1])[None] < self.length[:, None] - 1
        flat = self.cdf[used].to(torch.uint16)
        return {f"{prefix}.cdf": flat, f"{prefix}.length": self.length, f"{prefix}.offset": self.offset}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], prefix: str) -> Tables:
        """Inverse of `state`. ValueError: malformed tables, in which a decoder could search outside a row."""
        names = [f"{prefix}.{part}" for part in ("cdf", "length", "offset")]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"it has no {missing[0]}")
        flat, length, offset = (state[name] for name in names)
        if flat.dtype != torch.uint16 or length.dtype != torch.int32 or offset.dtype != torch.int32:
            raise ValueError("probability tables must be uint16, their lengths and offsets int32")
        if flat.dim() != 1 or length.dim() != 1 or length.shape != offset.shape or not len(length):
            raise ValueError("probability tables must be flat, with one length and one offset each")
        if (length < 2).any() or (length > UNITS + 1).any() or int((length.long() - 1).sum()) != len(flat):
            raise ValueError("the lengths of the probability tables do not match their entries")
        longest = int(length.max())
        if len(length) * longest > min(MAX_ENTRIES, max(FREE_ENTRIES, SPARSE * len(flat))):
            raise ValueError("the probability tables are too large")
        column = torch.arange(longest)[None]
        cdf = torch.zeros(len(length), longest, dtype=torch.int32)
        cdf[column < length[:, None] - 1] = flat.to(torch.int32)
        cdf[column == length[:, None] - 1] = UNITS
        tables = cls(cdf, length, offset)
        tables._check()
        return tables

    def _check(self) -> None:
        rows = self.cdf.shape[0] if self.cdf.dim() == 2 and self.cdf.shape[1] else -1
        if any(t.dtype != torch.int32 for t in (self.cdf, self.length, self.offset)) or not (
            self.length.shape == self.offset.shape == (rows,)
        ):
            raise ValueError("probability tables must be an int32 matrix with one length and one offset per row")
        used = torch.arange(self.cdf.shape[1])[None] < self.length[:, None]
        end = self.cdf.gather(1, (self.length.long()[:, None] - 1).clamp(0, self.cdf.shape[1] - 1))
        increasing = (self.cdf.diff(dim=1) > 0) | ~used[:, 1:]
        lengths_fit = bool(((self.length >= 2) & (self.length <= self.cdf.shape[1])).all())
        if not (lengths_fit and (self.cdf[:, 0] == 0).all() and (end == UNITS).all() and increasing.all()):
            raise ValueError("a probability table does not increase from 0 to 65536")
        if ((self.offset > LARGEST) | (self.offset < -LARGEST)).any():
            raise ValueError("the offset of a probability table is out of range")

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``cdf``, ``length`` and ``offset`` for the compiled coder."""
        return tuple(np.ascontiguousarray(t.cpu().numpy()) for t in (self.cdf, self.length, self.offset))

    def least_bits(self, indexes: Tensor, shifts: Tensor | None = None) -> float:
        """Bits that symbols of these tables take at least: each may be the most probable one of its table."""
        low_bits = 0 if shifts is None else int(shifts.sum(dtype=torch.int64))
        counts = np.bincount(indexes.flatten().cpu().numpy(), minlength=len(self.length))
        return float(counts @ self.least_by_table) + low_bits

    @cached_property
    def least_by_table(self) -> np.ndarray:
        """Bits of the most probable symbol of each table."""
        used = torch.arange(1, self.cdf.shape[1])[None] < self.length[:, None]
        return np.log2(UNITS / (self.cdf.diff(dim=1) * used).amax(1).double().numpy())

    @cached_property
    def lookup(self) -> np.ndarray:
        return rans.lookup(*self.arrays[:2])


def _cumulative(pmf: np.ndarray) -> np.ndarray:
    """Integer cumulative distribution of ``pmf`` and the escape; every entry has at least one unit.

    Uses the largest-remainder method: rounding each entry and correcting the sum in one place costs up to .005 bit per
    symbol."""
    p = np.append(pmf, max(1.0 - float(pmf.sum()), 1 / UNITS))
    if len(p) > UNITS // 2:
        raise ValueError(f"a table of {len(p)} symbols is too long for probabilities in units of 2**-16")
    exact = p / p.sum() * UNITS
    units = np.maximum(np.floor(exact), 1).astype(np.int64)
    surplus = UNITS - int(units.sum())
    if surplus > 0:
        np.add.at(units, np.argsort(units - exact, kind="stable")[:surplus], 1)
    while (
        surplus < 0
    ):  # entries were raised to one unit: take units back where that costs least, one per entry and pass
        widest = np.argsort(-(units / np.maximum(exact, 1e-300)) * (units > 1), kind="stable")[:-surplus]
        widest = widest[units[widest] > 1]
        units[widest] -= 1
        surplus += len(widest)
    return np.concatenate([[0], np.cumsum(units)]).astype(np.int32)


def channel_indexes(channels: int, size: tuple[int, int] | torch.Size) -> Tensor:
    """Table of each symbol of a flattened (channels, *size) tensor that has one table per channel."""
    return torch.arange(channels, dtype=torch.int32).repeat_interleave(size[0] * size[1])


class Encoder:
    """Collects symbols in decoding order and writes them as one segment."""

    def __init__(self) -> None:
        self._puts: list[tuple[np.ndarray, np.ndarray, np.ndarray, Tables]] = []

    def put(self, symbols: Tensor, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> None:
        """Appends ``symbols``. ``indexes``: the table of each. ``shifts``: number of low bits, 0 to 16, that are stored
        as they are because the distribution of the symbol is too wide for any table. All integer vectors of one length.
        ValueError: a symbol or an index out of range."""
        values = symbols.cpu().numpy()
        if values.size and not (values.min() > -LARGEST and values.max() < LARGEST):
            raise ValueError(f"symbols of {values.min()} to {values.max()} are outside the coder's range")
        self._puts.append((values.astype(np.int32, copy=False), *_checked(indexes, shifts, tables), tables))

    def segment(self) -> bytes:
        """The bytes of all symbols; empty if there are none."""
        if not any(len(values) for values, *_ in self._puts):
            return b""
        state, chunks = np.array([rans.START], dtype=np.uint64), []
        for values, indexes, shifts, tables in reversed(self._puts):
            words = np.empty(8 * len(values), dtype=np.uint32)
            count = rans.encode(state, values, indexes, shifts, *tables.arrays, words)
            chunks.append(words[:count])
        stream = np.concatenate(chunks)[::-1].astype("<u4").tobytes()
        return state.astype("<u8").tobytes() + stream


class Decoder:
    """Reads the symbols of a segment in the order in which they were put. `CorruptFile`: the bytes end too early, or no
    encoder wrote them."""

    def __init__(self, segment: bytes) -> None:
        if len(segment) % 4 or len(segment) == 4:
            raise CorruptFile("a coded segment is cut off")
        self._state = np.array([int.from_bytes(segment[:8], "little") if segment else rans.START], dtype=np.uint64)
        self._bits = 8 * len(segment)
        self._words = np.frombuffer(segment[8:], dtype="<u4").astype(np.uint32)
        self._position = 0
        if not rans.START <= int(self._state[0]) < 1 << 63:
            raise CorruptFile("a coded segment does not start with a valid state")

    def require(self, bits: float) -> None:
        """`CorruptFile` if the whole segment is shorter than ``bits``, the sum of `Tables.least_bits` of symbols in it.
        The rounding of rANS saves less than 2**-14 of them."""
        if bits * (1 - 2.0**-14) > self._bits:
            raise CorruptFile("a coded segment is too short for its symbols")

    def get(self, indexes: Tensor, tables: Tables, *, shifts: Tensor | None = None) -> Tensor:
        """The next symbols, int32 on the CPU. ``indexes``, ``shifts``: as in `Encoder.put`."""
        rows, low_bits = _checked(indexes, shifts, tables)
        out = np.empty(len(rows), dtype=np.int32)
        arrays = (*tables.arrays, tables.lookup)
        self._position = rans.decode(self._state, self._position, self._words, rows, low_bits, *arrays, out)
        if self._position < 0:
            raise CorruptFile("the coded symbols end too early")
        return torch.from_numpy(out)

    def finish(self) -> None:
        """`CorruptFile` unless the whole segment has been read and the state is the encoder's first one."""
        if self._position != len(self._words) or int(self._state[0]) != rans.START:
            raise CorruptFile("the coded symbols do not end where they should")


def _checked(indexes: Tensor, shifts: Tensor | None, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Table indexes (int32) and shifts (uint8, empty if there are none) for the compiled coder. ValueError: no such
    table."""
    rows = indexes.cpu().numpy()
    if rows.size and (rows.min() < 0 or rows.max() >= len(tables.length)):
        raise ValueError(f"there are {len(tables.length)} tables; the indexes are {rows.min()} to {rows.max()}")
    low_bits = np.empty(0, np.uint8) if shifts is None or not shifts.any() else shifts.cpu().numpy().astype(np.uint8)
    return rows.astype(np.int32, copy=False), low_bits
