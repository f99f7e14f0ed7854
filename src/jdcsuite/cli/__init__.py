"""`jdc VERB ...`: the command line, one module for the verbs of each room."""

# ruff: noqa: E402, because imports take a second, in which Ctrl-C has to be one line, too

import sys
from types import TracebackType


def _report_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's hook for what nothing catches, as while the verbs are imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("jdc: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report_interrupt

from jdcsuite.cli.app import main

__all__ = ["main"]
