"""Integer probability tables: what they cost, and malformed ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coder_examples import UNIT, check_integer_tables, written
from compressai._CXX import pmf_to_quantized_cdf
from hypothesis import given, settings
from hypothesis import strategies as st

from jdcsuite.entropy import rans
from jdcsuite.entropy.coder import Decoder, Tables
from jdcsuite.entropy.priors import Gaussian

# -- tables ----------------------------------------------------------------------------------------------------

pmfs = st.lists(st.floats(0, 1), min_size=1, max_size=60).map(
    lambda v: torch.tensor(v, dtype=torch.float64) / max(sum(v), 1e-3) * 0.999
)


@given(st.lists(pmfs, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_probabilities_become_integer_tables_in_which_every_symbol_has_a_code(rows):
    tables = Tables.from_pmfs(rows, offsets=[-3] * len(rows))
    check_integer_tables(tables)
    assert tables.length.tolist() == [len(r) + 2 for r in rows]
    assert tables.offset.tolist() == [-3] * len(rows)


def test_the_escape_gets_the_missing_probability():
    tables = Tables.from_pmfs([torch.tensor([0.25, 0.25])], offsets=[0])
    assert tables.cdf[0, :4].tolist() == [0, 2**14, 2**15, 2**16]


def test_tables_survive_a_round_trip_through_flat_tensors():
    tables = Gaussian(highest=2, density=2).tables()
    assert len(tables.cdf) == 11
    back = Tables.from_state(tables.state("tables.y"), "tables.y")
    assert set(tables.state("tables.y")) == {"tables.y.cdf", "tables.y.length", "tables.y.offset"}
    assert all(torch.equal(getattr(back, n), getattr(tables, n)) for n in ("cdf", "length", "offset"))


@st.composite
def distributions(draw):
    """Probabilities of 1 to 400 symbols, from uniform to mostly under one unit, whose sum misses up to 100 units."""
    n, power, seed = draw(st.integers(1, 400)), draw(st.sampled_from([1, 4, 40])), draw(st.integers(0, 2**32 - 1))
    p = np.random.default_rng(seed).random(n) ** power
    if draw(st.booleans()):
        p = np.exp(-np.abs(np.arange(n) - n / 2) * draw(st.floats(0.01, 5)))
    return p / p.sum() * (1 - draw(st.integers(1, 100)) * UNIT)


@given(distributions())
@settings(deadline=None, max_examples=200)
def test_a_table_never_costs_more_than_compressai_s_quantisation_of_it(p):
    whole = np.append(p, 1 - p.sum())
    row, length, _ = (a[0] for a in Tables.from_pmfs([torch.from_numpy(p)], offsets=[0]).arrays)
    theirs = np.diff(pmf_to_quantized_cdf(whole.tolist(), rans.PRECISION))
    ours, seen = np.diff(row[:length]), whole > 0
    assert len(ours) == len(theirs) and ours.sum() == theirs.sum() == 2**16
    cost = [-(whole[seen] * np.log2(units[seen] * UNIT)).sum() for units in (ours, theirs)]
    # largest remainders are not exactly optimal: one case in thousands costs 3e-7 bit more
    assert cost[0] <= cost[1] + 1e-5


def test_a_table_too_long_for_its_units_is_refused():
    assert len(Tables.from_pmfs([torch.full((2**15 - 1,), 2.0**-15)], offsets=[0]).cdf[0]) == 2**15 + 1
    with pytest.raises(ValueError, match="too long"):
        Tables.from_pmfs([torch.full((2**15,), 2.0**-15)], offsets=[0])


# rows [0, 9, 2**16] and [0, 1, 2, 2**16]; the last entry of a row is not stored
GOOD = {"cdf": [0, 9, 0, 1, 2], "length": [3, 4], "offset": [-1, 5]}
BAD = [
    {"cdf": [0, 9, 0, 1]}, {"cdf": [0, 9, 0, 1, 2, 3]}, {"cdf": []},  # a search would run past the row
    {"cdf": [1, 9, 0, 1, 2]}, {"cdf": [0, 9, 1, 2, 3]}, {"cdf": [0, 9, 2**16 - 1, 1, 2]},
    {"cdf": [0, 0, 0, 1, 2]},  # a symbol of probability zero divides by zero
    {"cdf": [0, 9, 0, 2, 1]}, {"cdf": [0, 9, 0, 2, 2]}, {"cdf": [0, 2**16 - 1, 0, 2**16 - 1, 2]},
    {"length": [3, 5]}, {"length": [3, 3]}, {"length": [4, 3]}, {"length": [1, 6]}, {"length": [0, 7]},
    {"length": [-3, 10]}, {"length": [2**31 - 1, 4]}, {"length": [3, -(2**31)]}, {"length": [2**31 - 1, -(2**31) + 8]},
    {"length": [7]}, {"length": [3, 2, 3]}, {"length": [[3, 4]]}, {"length": 7}, {"length": [7], "offset": 0},
    {"offset": [0]}, {"offset": [0, 0, 0]}, {"offset": [[0, 0]]}, {"offset": [0, 2**30]}, {"offset": [0, -(2**31)]},
    {"cdf": [[0, 9], [0, 1]]}, {"cdf": [[0, 9, 0, 1, 2]]}, {"cdf": [], "length": [], "offset": []},
    {"cdf": [0] * 2, "length": [2, 2], "offset": []},
    {"cdf": [*range(2**16), 0], "length": [2**16 + 2], "offset": [0]},
]  # fmt: skip
TYPES = {"cdf": torch.uint16, "length": torch.int32, "offset": torch.int32}


def flat_state(parts: dict[str, list], **types: torch.dtype) -> dict[str, torch.Tensor]:
    return {f"tables.y.{n}": torch.tensor(value, dtype=(TYPES | types)[n]) for n, value in parts.items()}


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: " ".join(changes))
def test_malformed_tables_are_refused(changes):
    good = Tables.from_state(flat_state(GOOD), "tables.y")
    assert good.cdf.tolist() == [[0, 9, 2**16, 0], [0, 1, 2, 2**16]]
    with pytest.raises(ValueError, match="probability table"):
        Tables.from_state(flat_state(GOOD | changes), "tables.y")


@pytest.mark.parametrize("name", ["cdf", "length", "offset"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.float32])
def test_tables_of_another_type_are_refused(name, dtype):
    if dtype == TYPES[name]:
        pytest.skip("this is their type")
    parts = {name: [abs(v) for v in value] for name, value in GOOD.items()}
    Tables.from_state(flat_state(parts), "tables.y")
    with pytest.raises(ValueError, match="must be uint16"):
        Tables.from_state(flat_state(parts, **{name: dtype}), "tables.y")


def test_the_longest_table_has_one_unit_per_symbol():
    state = {"cdf": list(range(2**16)), "length": [2**16 + 1], "offset": [-5]}
    tables = Tables.from_state(flat_state(state), "tables.y")
    assert torch.equal(tables.cdf[0], torch.arange(2**16 + 1).int())
    symbols, indexes = torch.tensor([-5, 2**16 - 7, -6, 2**16 - 6]), torch.zeros(4).int()  # the last two escape
    assert Decoder(written((symbols, indexes, tables, None))).get(indexes, tables).tolist() == symbols.tolist()


def test_few_bytes_cannot_claim_much_memory():
    """One long row among many short ones, whose matrix would be hundreds of times as large as the file."""
    state = flat_state({"cdf": [*range(2**16)] + [0] * 600, "length": [2**16 + 1] + [2] * 600, "offset": [0] * 601})
    with pytest.raises(ValueError, match="too large"):
        Tables.from_state(state, "tables.y")


@given(st.lists(pmfs, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_flat_tables_hold_the_used_entries_and_no_others(rows):
    tables = Tables.from_pmfs(rows, offsets=list(range(len(rows))))
    state = tables.state("tables.y")
    assert {name.split(".")[-1]: t.dtype for name, t in state.items()} == TYPES
    used = [v for row, n in zip(tables.cdf.tolist(), tables.length.tolist(), strict=True) for v in row[: n - 1]]
    assert state["tables.y.cdf"].tolist() == used
    back = Tables.from_state(state, "tables.y")
    assert all(torch.equal(getattr(back, n), getattr(tables, n)) for n in TYPES)
