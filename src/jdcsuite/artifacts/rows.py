"""Rows of results or metrics <-> one csv file."""

from __future__ import annotations

import csv
from pathlib import Path

from jdcsuite.imaging import atomic


def write_rows(rows: list[dict[str, object]], path: Path) -> None:
    """Write one csv file; columns in the order in which the rows first have them. Names that are no UTF-8 keep their
    bytes."""
    names = list(dict.fromkeys(column for row in rows for column in row))
    text = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with atomic.replacing(path) as part, part.open("w", **text) as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({column: "" if value is None else value for column, value in row.items()} for row in rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file to which a process may have been writing when it was killed: a last line that is not complete
    is left out, and bytes that are no text do not matter. [] where there is no file."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return list(csv.DictReader(text.rpartition("\n")[0].splitlines()))
