"""A value that a user gave -> the same value, or a UserError that names it and what is allowed.

Plain functions, not pydantic: a constructor's few limits take one line each either way, and pydantic's errors would
have to be turned into our sentences.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from jdcsuite.types import UserError


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite real number; bool does not count as one."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    under: float | None = None,
    most: float | None = None,
) -> Any:
    """A finite number greater than ``above`` or at least ``least``, and less than ``under`` or at most ``most``."""
    return _within(name, value, is_number(value), "number", above=above, least=least, under=under, most=most)


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> Any:
    """An integer from ``least`` to ``most``; 3.0 is refused."""
    usable = is_number(value) and isinstance(value, Integral)
    return _within(name, value, usable, "whole number", above=None, least=least, under=None, most=most)


def pair(name: str, value: Any, *, form: str) -> Any:
    """Two values; ``form`` shows them."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise UserError(f"{name}={value} is not usable: give two values, as in {name}={form}")
    return value


def flag(name: str, value: Any) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={value} is not usable: give true or false")
    return value


def noise_level(sigma: Any) -> Any:
    """A standard deviation of noise in grey levels."""
    if not is_number(sigma) or sigma < 0:
        raise UserError(f"sigma={sigma} is not a noise level: give grey levels of 0 or more, as in sigma=10")
    return sigma


def share(name: str, value: Any) -> Any:
    """A number from 0 to 1."""
    return number(name, value, least=0, most=1)


def choice(name: str, value: Any, options: Collection[str]) -> Any:
    """One of ``options``, named in their order."""
    if not isinstance(value, str) or value not in options:
        *first, last = options
        names = f"{', '.join(first)} or {last}" if first else last
        raise UserError(f"{name}={value} is unknown: choose {names}")
    return value


def finite(name: str, values: Tensor) -> Tensor:
    """Numbers computed from an image by the networks of a codec."""
    if not torch.isfinite(values).all():
        raise UserError(f"{name} are not finite: mend its samples, or take weights that converged")
    return values


def device(name: str | torch.device) -> None:
    """A device that PyTorch can use on this machine."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's errors for a missing device
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"device {name} cannot be used here ({reason}): give cpu") from None


def _within(
    name: str, value: Any, usable: bool, kind: str, *,
    above: float | None, least: float | None, under: float | None, most: float | None,
) -> Any:  # fmt: skip
    if (
        not usable
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (under is not None and value >= under)
        or (most is not None and value > most)
    ):
        if least is not None and most is not None:
            limits = [f"from {least:g} to {most:g}"]
        else:
            limits = [f"above {above:g}"] if above is not None else []
            limits += [f"of {least:g} or more"] if least is not None else []
            limits += [f"of {most:g} or less"] if most is not None else []
        limits += [f"under {under:g}"] if under is not None else []
        raise UserError(f"{name}={value} is not usable: give a {kind} {', '.join(limits)}".rstrip())
    return value
