"""16-bit samples of a sensor of fewer bits <-> the same samples at full scale, exactly.

Cameras and microscopes store 10, 12 or 14 bits in 16-bit words. Coded as they are, such images are nearly black, and
most of what they show is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt16, UInt32

BITS = (8, 10, 12, 14, 16)
_FULL = 65535
Samples = UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The 16-bit words that an image uses: samples are below 2 ** ``bits`` and their lowest ``shift`` bits are 0.

    ``bits``: one of `BITS`. ``shift``: 0 to ``bits`` - 8; above 0 where samples are shifted up in their words.
    """

    bits: int = 16
    shift: int = 0

    def __post_init__(self) -> None:
        if self.bits not in BITS or not 0 <= self.shift <= self.bits - 8:
            raise ValueError(f"samples of {self.bits} bits shifted by {self.shift}")

    @classmethod
    def of(cls, samples: Samples, declared: int | None = None) -> Depth:
        """The depth that samples have; of 8-bit ones always 8. ``declared``: largest sample according to the file;
        ignored if one is larger.

        A dark image may use fewer bits than its camera has. That does no harm: `restored` undoes `full_scale` exactly.
        """
        if samples.dtype == np.uint8:
            return cls(bits=8)
        used = int(np.bitwise_or.reduce(samples, axis=None))  # below the same power of two as the largest sample
        if declared is not None and used.bit_length() <= declared.bit_length() <= 16:
            top = declared.bit_length()
        else:
            top = used.bit_length()
        bits = next(bits for bits in BITS if top <= bits)
        empty = (used & -used).bit_length() - 1 if used else 0
        return cls(bits=bits, shift=min(empty, bits - 8))

    @property
    def white(self) -> int:
        """Largest value of the samples, without their empty low bits."""
        return (1 << (self.bits - self.shift)) - 1

    @property
    def peak(self) -> int:
        """Largest possible sample, which PSNR refers to."""
        return self.white << self.shift

    def full_scale(self, samples: Samples) -> Samples:
        """Scaled so that the largest possible sample becomes 65535; 8-bit samples as they are."""
        if self.white == _FULL or samples.dtype == np.uint8:
            return samples
        values = np.arange(_FULL + 1, dtype=np.uint32).clip(max=self.peak) >> self.shift
        return _mapped(samples, (values * _FULL + self.white // 2) // self.white)

    def restored(self, samples: Samples) -> Samples:
        """The inverse of `full_scale`; samples between its values are rounded to the nearest."""
        if self.white == _FULL or samples.dtype == np.uint8:
            return samples
        values = (np.arange(_FULL + 1, dtype=np.uint32) * self.white + _FULL // 2) // _FULL
        return _mapped(samples, values << self.shift)


def _mapped(samples: UInt16[np.ndarray, "h w c"], table: UInt32[np.ndarray, "65536"]) -> UInt16[np.ndarray, "h w c"]:
    """``table`` at each sample; row by row, because numpy makes 64-bit indices of them."""
    mapped = np.empty_like(samples)
    for row, out in zip(samples, mapped, strict=True):
        out[:] = table[row]
    return mapped
