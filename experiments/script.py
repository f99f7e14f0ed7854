"""The command line of every script of an experiment: help from its docstring, and one sentence on bad input."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from jdcsuite.study import mistakes
from jdcsuite.types import UserError


def parser_of(file: str, description: str | None) -> argparse.ArgumentParser:
    """``file``, ``description``: `__file__` and `__doc__` of the script."""
    return argparse.ArgumentParser(
        prog=Path(file).name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def file_to_write(text: str) -> Path:
    """Type of an argument that names an output: its folder is made before the work whose result it is begins."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{path.parent} cannot be a folder ({error.strerror})"
        raise argparse.ArgumentTypeError(f"{reason}: give a file in one that can be written") from None
    return path


def run(
    work: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None = None,
) -> int | None:
    """Does the work of a script and returns its exit status. A mistake in its input is told in one sentence, with
    status 2."""
    given = parser.parse_args(words)
    try:
        return work(given)
    except (UserError, *mistakes.ERRORS) as error:
        if mistakes.is_unexpected(error):
            raise
        parser.exit(2, f"{parser.prog}: {mistakes.sentence(error)}\n")
