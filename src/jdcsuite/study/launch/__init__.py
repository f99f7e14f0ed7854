"""Run folders -> finished runs, or failures: launchers, which only order folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Failure:
    """A job that did not end well. ``reason``: one sentence."""

    folder: Path
    reason: str


class JobsFailed(Exception):
    """Some jobs of a study failed; each was reported."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} jobs failed")
        self.failures = list(failures)
