"""A number that grows with quality, and how large it may be -> the highest quality that keeps to it, in few tries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

TRIES = 5


@dataclass(frozen=True)
class Found:
    """``best``: the highest of the tried places whose value is at most the limit; None: the lowest place of all is
    beyond it. ``tried``: place -> its value."""

    best: int | None
    tried: dict[int, float] = field(default_factory=dict)

    def slope(self) -> float:
        """What a step adds, on the whole; 0 where one place was tried."""
        first, last = min(self.tried), max(self.tried)
        return 0.0 if first == last else (self.tried[last] - self.tried[first]) / (last - first)


def highest(
    value: Callable[[int], float], limit: float, *, top: int, start: int, slope: float, near: float, tries: int = TRIES
) -> Found:
    """The highest place of 0..``top`` where ``value``, which never falls, is at most ``limit``, in ``tries`` calls.

    ``start``: the place to try first. ``slope``: what a step adds to the value, about (above 0). ``near``: values from
    ``limit - near`` on are good enough. On a straight line three tries end within ``near``; on any curve a place is
    found if there is one, as the last try is kept for place 0 until another has kept to the limit.
    """
    tried: dict[int, float] = {}
    low, high = -1, top + 1  # the highest place that keeps to the limit so far, the lowest that does not
    place = min(max(start, 0), top)
    while len(tried) < tries and high - low > 1:
        if low < 0 and len(tried) == tries - 1:
            place = 0
        tried[place] = value(place)
        low, high = (place, high) if tried[place] <= limit else (low, place)
        if low >= 0 and tried[low] >= limit - near:
            break
        place = min(max(_guess(tried, limit - near / 2, low, high, slope), low + 1), high - 1)
    return Found(low if low >= 0 else None, tried)


def _guess(tried: dict[int, float], aim: float, low: int, high: int, slope: float) -> int:
    """Where the line through two tried places, those around the limit if there are such, meets ``aim``; beyond that
    where three tries did not get past the limit. With three tries and the limit between two of them, the parabola
    through those nearest to it: on a bowed curve a line ends on the same side again and again."""
    here, around = low if low in tried else high, low in tried and high in tried
    nearest = sorted(tried, key=lambda place: abs(tried[place] - aim))[:3]
    if around and len({tried[place] for place in nearest}) == 3:
        return int(sum(place * _weight(place, nearest, tried, aim) for place in nearest))
    others = [high] if around else sorted(tried.keys() - {here}, key=lambda place: abs(place - here))
    rise = (tried[others[0]] - tried[here]) / (others[0] - here) if others else slope
    step = (aim - tried[here]) / max(rise, slope / 100)
    return int(here + (2 * step if len(tried) > 2 and not around else step))


def _weight(place: int, places: list[int], tried: dict[int, float], aim: float) -> float:
    """Lagrange's, of a place as a function of the value."""
    return math.prod((aim - tried[j]) / (tried[place] - tried[j]) for j in places if j != place)
