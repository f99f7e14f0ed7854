"""A sample of `fuzz_jdc.py` and `fuzz_weights.py`, which `make fuzz` runs in full."""

from __future__ import annotations

import fuzz_jdc
import fuzz_weights
import pytest


@pytest.mark.parametrize("codec", fuzz_jdc.FUZZED)
def test_damaged_files_are_refused_or_decoded_exactly(codec: str) -> None:
    result = fuzz_jdc.fuzz(fuzz_jdc.narrow(codec), range(200), seed=1)
    kinds = {kind for kind, _ in result.counts}
    assert kinds == set(fuzz_jdc.KINDS)
    assert sum(n for (_, end), n in result.counts.items() if end == "refused") > 100


def test_damaged_weights_are_refused_or_load() -> None:
    result = fuzz_weights.fuzz(range(60), seed=1)
    assert {(kind, "refused") for kind in fuzz_weights.KINDS} <= result.counts.keys()
