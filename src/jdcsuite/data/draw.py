"""Sample numbers of a training batch -> its random numbers, the same for any number of ranks and workers.

One generator serves the whole batch: each rank draws for all images of the total batch and keeps those of its own
places, in one kernel. Seeds are known on the CPU, so nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class Draw:
    """``numbers``: of this rank's samples (n = a multiple of ``batch`` + place in the total batch). ``seed``: of the
    run. ``seeds``: one for each sample, for noise whose number of draws depends on the pixels, so that it cannot be
    drawn for images of other ranks."""

    def __init__(
        self, *, numbers: Sequence[int], seeds: Sequence[int], batch: int, seed: int, device: torch.device | str
    ) -> None:
        self.seeds, self.batch, self.device = list(seeds), batch, torch.device(device)
        self.places = [n % batch for n in numbers]
        # by the first sample of the batch, not by the step: a run continued with another batch size repeats no noise
        first = numbers[0] - self.places[0]
        of_step = int(np.random.SeedSequence([seed % 2**64, first]).generate_state(1, np.uint64)[0]) % 2**63
        self._generator = torch.Generator(self.device).manual_seed(of_step)

    @classmethod
    def whole(cls, count: int, *, seed: int, device: torch.device | str = "cpu") -> Draw:
        """For a batch of ``count`` images, all on this rank."""
        numbers = range(count)
        return cls(numbers=numbers, seeds=[seed + n for n in numbers], batch=count, seed=seed, device=device)

    def __len__(self) -> int:
        return len(self.places)

    def normal(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers of this shape for each sample; every call gives new ones."""
        return self._own(torch.randn(self.batch, *shape, generator=self._generator, device=self.device))

    def uniform(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Like `normal`, uniform in [0, 1)."""
        return self._own(torch.rand(self.batch, *shape, generator=self._generator, device=self.device))

    def place(self) -> Int[Tensor, "b"]:
        """Place of each sample in the total batch, on the device."""
        return self._own(torch.arange(self.batch, device=self.device))

    def _own(self, drawn: Tensor) -> Tensor:
        if self.places == list(range(self.batch)):
            return drawn
        # a slice where the places are evenly spaced, as for ranks of one batch: an index would have to be copied over
        step = self.places[1] - self.places[0] if len(self.places) > 1 else self.batch
        regular = range(self.places[0], self.batch, max(step, 1))
        if step > 0 and self.places == list(regular)[: len(self.places)]:
            return drawn[self.places[0] :: step][: len(self.places)]
        return drawn[self.places]
