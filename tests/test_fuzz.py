"""A sample of `fuzz_jdc.py`; all of it is `make fuzz`."""

from __future__ import annotations

import fuzz_jdc
import pytest


@pytest.mark.parametrize("codec", fuzz_jdc.CODECS)
def test_wrong_files_are_refused_or_decoded_exactly(codec: str) -> None:
    found = fuzz_jdc.fuzz(fuzz_jdc.narrow(codec), range(200), seed=1)
    kinds = {kind for kind, _ in found["counts"]}
    assert kinds == set(fuzz_jdc.KINDS)
    assert sum(n for (_, end), n in found["counts"].items() if end == "refused") > 100
