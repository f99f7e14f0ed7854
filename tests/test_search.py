"""Search for a quality: few calls, within the limit, and close to it on nearly straight curves."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdcsuite.files.search import TRIES, highest

TOP = 60


def searched(curve, limit: float, *, start: int = 0, slope: float = 0.1, near: float = 0.05, top: int = TOP):
    calls: list[int] = []

    def value(place: int) -> float:
        calls.append(place)
        return curve(place)

    search = highest(value, limit, top=top, start=start, slope=slope, near=near)
    assert len(calls) == len(set(calls)) <= TRIES and all(0 <= place <= top for place in calls)
    assert search.values == {place: curve(place) for place in calls}
    return search


@settings(deadline=None, max_examples=300)
@given(
    steps=st.lists(st.floats(0, 5), min_size=TOP + 1, max_size=TOP + 1),
    limit=st.floats(-10, 320),
    start=st.integers(-5, TOP + 5),
    slope=st.floats(1e-3, 10),
)
def test_a_place_within_the_limit_is_returned_on_any_monotone_curve(steps, limit, start, slope):
    curve = list(accumulate(steps))
    search = searched(curve.__getitem__, limit, start=start, slope=slope)
    if curve[0] > limit:
        assert search.best is None and 0 in search.values
    else:
        assert search.best in search.values and curve[search.best] <= limit


@settings(deadline=None, max_examples=300)
@given(
    rise=st.floats(0.02, 0.08),
    bow=st.floats(-0.1, 0.1),
    offset=st.floats(10, 20),
    share=st.floats(0.02, 0.98),
    start=st.integers(0, 1000),
)
def test_nearly_exponential_sizes_end_within_two_per_cent_of_the_limit(rise, bow, offset, share, start):
    """log2 of bytes over tenths of quality: a line with a bow of up to a tenth of its rise."""

    def curve(place: int) -> float:
        x = place / 1000
        return offset + 100 * rise * (x + bow * 4 * x * (1 - x))

    limit = curve(0) + share * (curve(1000) - curve(0))
    search = searched(curve, limit, start=start, slope=0.004, near=math.log2(1.015), top=1000)
    assert search.best is not None and limit - math.log2(1.02) <= curve(search.best) <= limit


@pytest.mark.parametrize(("limit", "best", "most"), [(1e9, TOP, 2), (-1, None, 2), (0, 0, 5)])
def test_extreme_limits_take_few_calls(limit, best, most):
    search = searched(lambda place: 3.0 * place, limit, start=30, slope=3.0, near=0.0)
    assert search.best == best and len(search.values) <= most


def test_a_single_place_and_a_flat_curve():
    assert searched(lambda place: 1.0, 2.0, top=0).best == 0
    assert searched(lambda place: 3.0, 2.0, top=0).best is None
    assert searched(lambda place: 1.0, 2.0).best == TOP, "the top of a flat curve"
