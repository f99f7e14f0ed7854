"""Rows of results, one at a time -> a csv file that a kill at any moment leaves usable, and that is continued later.

The file is locked, since two processes that append to it would mix their lines.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from jdcsuite.imaging import atomic
from jdcsuite.judging import results
from jdcsuite.types import Row, UserError

IDENTITY = ("quality", "dataset", "image", "sigma", "noise_seed", "noise_protocol")  # with the run, or the method
AGREEING = {"image_id": "other pixels", "codec_version": "another version of the codec"}
CURE = "give another --out"


@contextmanager
def opened(path: Path, *, force: bool = False) -> Iterator[RowsFile]:
    """A csv file of rows for appending, which is made if it does not exist, or anew with ``force``.

    UserError: it cannot be written, holds something else, or another process is writing it.
    """
    atomic.check(path)
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist: make it first")
    with atomic.writing(path, cure=CURE):
        _lock_file(path).touch()  # where this fails, the lock would be taken for one that does not exist here
    busy = f"{path} is being written by another process: wait for it, or {CURE}"
    with atomic.alone(_lock_file(path), busy=busy):
        columns, lines = _kept(path) if path.exists() and not force else (results.COLUMNS, [])
        file = RowsFile(path, columns, lines)
        file.rewrite()
        try:
            with path.open("a", encoding="utf-8", newline="") as file.out:
                yield file
        finally:
            if not file.lines:
                path.unlink(missing_ok=True)
            _lock_file(path).unlink(missing_ok=True)


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name[:80]}.lock")


class RowsFile:
    """``columns``: of the file. ``lines``: the rows that it holds, as text by column. ``out``: the file, open."""

    out: io.TextIOBase

    def __init__(self, path: Path, columns: list[str], lines: list[dict[str, str]]) -> None:
        self.path, self.columns, self.lines = path, columns, lines
        self._by_identity: dict[tuple, list[dict[str, str]]] = {}
        for line in lines:
            if not line["error"]:  # others are tried again
                self._by_identity.setdefault(identity(line), []).append(line)

    def has(self, row: Row) -> bool:
        """Whether the file holds this row's result. UserError: it holds one of other pixels or another codec."""
        own = _line(row)
        for line in self._by_identity.get(identity(row), []):
            if line["weights_id"] and own["weights_id"] != line["weights_id"]:
                continue
            for column, what in AGREEING.items():
                if own[column] and line[column] and own[column] != line[column]:
                    raise UserError(
                        f"{self.path} holds a row of {own['image']} in {own['dataset']} with {what}: {CURE}, or "
                        "--force to start anew"
                    )
            return True
        return False

    def append(self, row: Row) -> None:
        """Also removes what earlier attempts at this row have failed with."""
        line = _line(row)
        self.lines = [other for other in self.lines if not _supersedes(line, other)]
        self.lines.append(line)
        with atomic.writing(self.path, cure=atomic.CURE):
            self.out.write(self._text([line]))
            self.out.flush()

    def rewrite(self, place: Callable[[tuple], tuple] | None = None) -> None:
        """Write the whole file anew, ordered by ``place``, a key of a row's `identity`; nothing is appended later."""
        if place is not None:
            self.lines.sort(key=lambda line: place(identity(line)))
        header = dict(zip(self.columns, self.columns, strict=True))
        atomic.write(self.path, self._text([header, *self.lines]).encode("utf-8", "surrogateescape"))

    def _text(self, lines: list[dict[str, str]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(lines)
        return text.getvalue()


def identity(row: Row | dict[str, str]) -> tuple[str, ...]:
    """What tells a row from others of its weights and pixels."""
    line = _line(row) if isinstance(row, Row) else row
    return (line["run"] or line["method"], *(_number(line[name]) for name in IDENTITY))


def _supersedes(line: dict[str, str], other: dict[str, str]) -> bool:
    """Whether ``other`` is a failed attempt at the row of ``line``."""
    return bool(other["error"]) and other is not line and identity(other) == identity(line)


def _number(text: str) -> str:
    """10.0 and 10 are one value."""
    try:
        return f"{float(text):.10g}"
    except ValueError:
        return text


def _kept(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a file and its rows, but for failed ones that were measured later."""
    header, *lines = results.complete_lines(path)
    if missing := [column for column in ("method", "dataset", "image") if column not in header]:
        raise UserError(f"{path} is not a csv file of results, it has no column {missing[0]}: {CURE}")
    columns = list(dict.fromkeys([*results.COLUMNS, *header]))
    rows = [dict.fromkeys(columns, "") | dict(zip(header, line, strict=True)) for line in lines]
    measured = {identity(row) for row in rows if not row["error"]}
    return columns, [row for row in rows if not row["error"] or identity(row) not in measured]


def _line(row: Row) -> dict[str, str]:
    return {name: _word(value) for name, value in asdict(row).items()}


def _word(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
