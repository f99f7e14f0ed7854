"""Values of data.train, data.test and data.val -> checked sources: folders, patterns of names, weights."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from jdcsuite.checks import is_number
from jdcsuite.types import UserError

SHOWN = 5  # names that a message lists


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder below the data root, and which of its images are used.

    ``only``, ``without``: patterns of file names, as "Canon*". ``name``: the dataset's name in results. ``weight``: of
    a training source, the relative probability that a pair is drawn from it.
    """

    folder: str
    only: Sequence[str] = ()
    without: Sequence[str] = ()
    name: str = ""
    weight: float | None = None

    @classmethod
    def parse(cls, value: object) -> Source:
        """A folder's name, or a mapping of the fields above."""
        if isinstance(value, str):
            return cls(folder=value, name=value)
        allowed = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or not isinstance(value.get("folder"), str) or not set(value) <= allowed:
            raise UserError(f"{value} names no pictures: give a folder, with {', '.join(sorted(allowed))} as you need")
        folder, weight = value["folder"], value.get("weight")
        if not isinstance(value.get("name", ""), str):
            raise UserError(f"name={value['name']} of {folder} is no name: give letters, or leave it out")
        if weight is not None and not (is_number(weight) and weight >= 0):
            raise UserError(f"weight={weight} of {folder} is not usable: give a number, 0 or more")
        source = cls(**value | {key: patterns(key, value[key]) for key in ("only", "without") if key in value})
        return source if source.name else replace(source, name=folder)

    def takes(self, path: Path) -> bool:
        return (not self.only or matches(path.name, self.only)) and not matches(path.name, self.without)


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def as_list(key: str, value: object) -> list:
    """The value of a configuration key, one item or a list of items, as a list."""
    if value is None or isinstance(value, str | dict):
        return [] if value is None else [value]
    if not isinstance(value, Sequence):
        raise UserError(f"{key}={value} is not usable: give names in brackets, as {key}=[NAME,...]")
    return list(value)


def patterns(key: str, value: object) -> list[str]:
    """Patterns of names, one or a list. UserError for anything else."""
    items = as_list(key, value)
    if not all(isinstance(pattern, str) for pattern in items):
        raise UserError(f'{key}={value} is not usable: give patterns of names, as {key}=["Canon*"]')
    return items


def weights(train: Sequence[Source], test: Sequence[Source]) -> list[float] | None:
    """Weights of the training sources, 1 where only others have one; None if none has one and all pairs are equally
    likely. UserError: all are 0, or a test source has one."""
    for source in test:
        if source.weight is not None:
            raise UserError(f"{source.name} of data.test has a weight, which only a folder of data.train can have")
    if all(source.weight is None for source in train):
        return None
    values = [1.0 if source.weight is None else float(source.weight) for source in train]
    if not any(values):
        raise UserError("every weight of data.train is 0: give at least one folder a weight above 0")
    return values


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
