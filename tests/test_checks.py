"""Checks of values: what is refused, and in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jdcsuite import checks
from jdcsuite.types import UserError


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan, math.inf, -math.inf, 1j, np.bool_(True)])
def test_no_number(value):
    for check in (checks.number, checks.whole, checks.share):
        with pytest.raises(UserError, match=r"^lr=.* is not usable: give a (whole )?number"):
            check("lr", value)
    assert not checks.is_number(value)


@pytest.mark.parametrize("value", [2, 2.5, np.float32(2), np.int64(2)])
def test_numbers_are_returned_as_they_are(value):
    assert checks.number("lr", value) is value


@pytest.mark.parametrize(
    ("value", "limits", "sentence"),
    [
        (0, {"above": 0}, "lr=0 is not usable: give a number above 0"),
        (-1e-9, {"least": 0}, "lr=-1e-09 is not usable: give a number of 0 or more"),
        (1.0, {"least": 0, "under": 1}, "lr=1.0 is not usable: give a number of 0 or more, under 1"),
        (1.5, {"least": 0, "most": 1}, "lr=1.5 is not usable: give a number from 0 to 1"),
        (0, {"above": 0, "most": 1}, "lr=0 is not usable: give a number above 0, of 1 or less"),
    ],
)
def test_limits_of_numbers(value, limits, sentence):
    with pytest.raises(UserError) as refused:
        checks.number("lr", value, **limits)
    assert str(refused.value) == sentence


def test_the_limits_themselves():
    assert checks.number("lr", 0, least=0) == 0
    assert checks.number("lr", 1, most=1) == 1
    assert checks.share("share", 0.0) == 0
    assert checks.share("share", 1) == 1
    assert checks.whole("steps", 1, least=1, most=1) == 1


@pytest.mark.parametrize(
    ("value", "limits", "sentence"),
    [
        (2.0, {}, "steps=2.0 is not usable: give a whole number"),
        (0, {"least": 1}, "steps=0 is not usable: give a whole number of 1 or more"),
        (769, {"least": 1, "most": 768}, "steps=769 is not usable: give a whole number from 1 to 768"),
    ],
)
def test_limits_of_whole_numbers(value, limits, sentence):
    with pytest.raises(UserError) as refused:
        checks.whole("steps", value, **limits)
    assert str(refused.value) == sentence


def test_choice():
    assert checks.choice("start", "haar", ("haar", "random")) == "haar"
    for value in ("hair", None, ["haar"], 1):
        with pytest.raises(UserError, match=r"is unknown: choose haar or random$"):
            checks.choice("start", value, ("haar", "random"))
    with pytest.raises(UserError, match=r"is unknown: choose a, b or c$"):
        checks.choice("start", "d", {"a": 1, "b": 2, "c": 3})


def test_pairs_and_flags() -> None:
    assert checks.pair("model.blocks", [2, 3], form="[2,2]") == [2, 3] and checks.flag("a", False) is False
    for wrong in (5, "22", [1], [1, 2, 3], None):
        with pytest.raises(UserError, match=r"model\.blocks=.*give two values, as in model\.blocks=\[2,2\]"):
            checks.pair("model.blocks", wrong, form="[2,2]")
    for wrong in ("maybe", 1, None):
        with pytest.raises(UserError, match=r"a=.*give true or false"):
            checks.flag("a", wrong)
