"""A sample of `fuzz_jdc.py`, which `make fuzz` runs in full."""

from __future__ import annotations

import fuzz_jdc
import pytest


@pytest.mark.parametrize("codec", fuzz_jdc.CODECS)
def test_damaged_files_are_refused_or_decoded_exactly(codec: str) -> None:
    result = fuzz_jdc.fuzz(fuzz_jdc.narrow(codec), range(200), seed=1)
    kinds = {kind for kind, _ in result["counts"]}
    assert kinds == set(fuzz_jdc.KINDS)
    assert sum(n for (_, end), n in result["counts"].items() if end == "refused") > 100
