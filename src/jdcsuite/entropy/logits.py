"""Logits of a categorical distribution, as a network computes them exactly -> integer probability tables.

Floating-point exponentials and logarithms differ between machines. Here a logit only takes part in one subtraction and
one product, which IEEE arithmetic defines to the last bit; all that follows are integers.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jdcsuite.entropy import rans
from jdcsuite.entropy.coder import UNITS, Tables

STEPS = 256  # per bit, in which the logarithms of probabilities are rounded
LEAST = 24  # bits: probabilities below 2**-24 of the largest count as this


@cache
def _powers() -> np.ndarray:
    """2**(LEAST - i / STEPS), rounded to int64, computed in decimals."""
    steps = range(LEAST * STEPS + 1)
    return np.array([int((Decimal(2) ** (LEAST - Decimal(i) / STEPS)).to_integral_value()) for i in steps])


def tables(logits: Float[Tensor, "p k"], first: Int[Tensor, "p"], *, count: int) -> Int[Tensor, "p n"]:
    """Cumulative probabilities of ``count`` outcomes, those from logit ``first`` on, in units of 2**-16, at least one
    unit each. ``logits``: natural logarithms of relative probabilities, float64. The last entry of a row, as in
    `Tables`, belongs to the escape, which is never coded."""
    out = np.empty((len(logits), count + 2), np.int32)
    rans.cumulate(logits.cpu().numpy(), first.cpu().numpy(), _powers(), STEPS / math.log(2), UNITS, out)
    return torch.from_numpy(out)


class RowPerSymbol(Tables):
    """One table for each symbol, used once: an index for the search would take longer than it saves."""

    @classmethod
    def of(cls, cdf: Int[Tensor, "p n"]) -> RowPerSymbol:
        count, columns = cdf.shape
        return cls(cdf, torch.full((count,), columns, dtype=torch.int32), torch.zeros(count, dtype=torch.int32))

    @cached_property
    def lookup(self) -> np.ndarray:
        return np.zeros((len(self.length), 1 << rans.LOOKUP), np.int32)

    def intervals(self, symbols: Int[Tensor, "p"]) -> RowPerSymbol:
        """Tables in which symbol 0 has the interval that the given symbol has here: what an encoder has to keep."""
        columns = torch.stack([symbols, symbols + 1], 1).long()
        return self.of(torch.nn.functional.pad(self.cdf.gather(1, columns), (0, 2)))
