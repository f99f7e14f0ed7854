"""An increasing function of quality and a limit on its value -> the highest quality within the limit, in few calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

TRIES = 5


@dataclass(frozen=True)
class Search:
    """``best``: the highest evaluated place whose value is within the limit; None if even place 0 exceeds it.
    ``values``: evaluated place -> value."""

    best: int | None
    values: dict[int, float] = field(default_factory=dict)

    def slope(self) -> float:
        """Mean increase of the value per step; 0 if only one place was evaluated."""
        first, last = min(self.values), max(self.values)
        return 0.0 if first == last else (self.values[last] - self.values[first]) / (last - first)


def highest(
    value: Callable[[int], float], limit: float, *, top: int, start: int, slope: float, near: float, tries: int = TRIES
) -> Search:
    """The highest place of 0..``top`` where the non-decreasing ``value`` is at most ``limit``, in ``tries`` calls.

    ``start``: first place to evaluate. ``slope``: approximate increase per step (above 0). ``near``: the search ends at
    a value of ``limit - near`` or more. On a straight line it ends there after at most three calls. On any curve a
    place within the limit is returned if there is one: the last call is reserved for place 0 until then.
    """
    values: dict[int, float] = {}
    low, high = -1, top + 1  # the highest place known to be within the limit, the lowest known to exceed it
    place = min(max(start, 0), top)
    while len(values) < tries and high - low > 1:
        if low < 0 and len(values) == tries - 1:
            place = 0
        values[place] = value(place)
        low, high = (place, high) if values[place] <= limit else (low, place)
        if low >= 0 and values[low] >= limit - near:
            break
        place = min(max(_next_place(values, limit - near / 2, low, high, slope), low + 1), high - 1)
    return Search(low if low >= 0 else None, values)


def _next_place(values: dict[int, float], aim: float, low: int, high: int, slope: float) -> int:
    """Where the value is expected to be ``aim``.

    Secant method through two evaluated places, those next to the limit if it lies between two, with a doubled step
    where three calls have not passed the limit. With three values on both sides of the limit, inverse quadratic
    interpolation, because on a bowed curve the secant ends on the same side again and again.
    """
    here, bracketed = low if low in values else high, low in values and high in values
    nearest = sorted(values, key=lambda place: abs(values[place] - aim))[:3]
    if bracketed and len({values[place] for place in nearest}) == 3:
        return int(sum(place * _lagrange(place, nearest, values, aim) for place in nearest))
    others = [high] if bracketed else sorted(values.keys() - {here}, key=lambda place: abs(place - here))
    rise = (values[others[0]] - values[here]) / (others[0] - here) if others else slope
    step = (aim - values[here]) / max(rise, slope / 100)
    return int(here + (2 * step if len(values) > 2 and not bracketed else step))


def _lagrange(place: int, places: list[int], values: dict[int, float], aim: float) -> float:
    """Lagrange basis polynomial of ``place`` over the values, at ``aim``."""
    return math.prod((aim - values[j]) / (values[place] - values[j]) for j in places if j != place)
