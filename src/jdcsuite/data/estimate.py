"""A picture alone -> how strong its noise is, white or not: classical estimates that know nothing of the picture.

`Estimate.white` looks at the finest details only and reads a quarter of noise that neighbours share, as developed
photographs have it. `Estimate.rms` measures all frequencies in the flattest blocks. Both read too much where all is
texture, and `rms` too little where flat blocks have less noise than others; measured: `experiments/real_noise`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from scipy.fft import dctn
from scipy.stats import gamma

from jdcsuite.data.noise import white_deviation

BLOCK = 16  # pixels
FLATTEST = 0.05  # share of the blocks
SMOOTH = 2  # DCT coefficients with row + column up to this are the picture, not its noise
STRIP, MOST = 4 * BLOCK, 2**22  # of larger pictures only strips of so many rows are measured, so many pixels in all
EVIDENT = 1.5  # rms over white, and grey levels, from which noise is called correlated


@dataclass(frozen=True)
class Estimate:
    """Standard deviations in 8-bit grey levels, mean square of the colours. ``rms``: whatever the correlation of
    neighbours. ``white``: right where there is none. ``correlated``: they differ by half, so noise of the size of a few
    pixels is there, or a texture everywhere."""

    rms: float
    white: float

    @property
    def correlated(self) -> bool:
        return self.rms > EVIDENT and self.rms > EVIDENT * self.white


def noise_of(picture: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]) -> Estimate:
    """Colour or grey pictures of any size. Those without a whole block have the white estimate for both, those under 4
    pixels a side 0."""
    top = np.iinfo(picture.dtype).max
    planes = np.moveaxis(np.atleast_3d(_strips(picture)), 2, 0)
    saturated = (planes == 0) | (planes == top)
    values = planes.astype(np.float32) * np.float32(255 / top)
    white = _root_mean([white_deviation(plane) for plane in values])
    if min(values.shape[1:]) < BLOCK:
        return Estimate(white, white)
    pairs = zip(values, saturated, strict=True)
    return Estimate(_root_mean([_deviation(plane, clipped) for plane, clipped in pairs]), white)


def _root_mean(deviations: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(deviations))))


def _strips(picture: np.ndarray) -> np.ndarray:
    """Every k-th strip across the longer side, where there are too many pixels."""
    k = -(-picture.shape[0] * picture.shape[1] // MOST)
    if picture.shape[1] > picture.shape[0]:
        picture = picture.swapaxes(0, 1)
    strips = picture.shape[0] // (k * STRIP)
    if k == 1 or not strips:
        return picture
    return (
        picture[: strips * k * STRIP]
        .reshape(strips, k, STRIP, *picture.shape[1:])[:, 0]
        .reshape(strips * STRIP, *picture.shape[1:])
    )


def _deviation(plane: Float[np.ndarray, "h w"], saturated: np.ndarray) -> float:
    """Energy of blocks of 16x16 without their slowest cosines, which are given the energy of the next ones; of these
    the one that 5 % of the blocks stay under. That it is among the lowest of many is taken back by the gamma
    distribution, which has as many degrees of freedom as the mean spectrum of the blocks below it says."""
    blocks = _blocks(plane)
    whole = _blocks(saturated).mean((1, 2)) < 0.05  # clipping takes noise away
    blocks = blocks[whole] if whole.any() else blocks
    energy = np.square(dctn(blocks, axes=(1, 2), norm="ortho", overwrite_x=True))
    order = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    kept, smooth = energy[:, order > SMOOTH], int((order <= SMOOTH).sum())
    variance = (kept.sum(1) + smooth * energy[:, order == SMOOTH + 1].mean(1)) / BLOCK**2
    flattest = np.argsort(variance)[: int(np.ceil(FLATTEST * len(variance)))]
    spectrum = kept[flattest].mean(0)
    if not spectrum.any():
        return 0.0
    shape = spectrum.sum() ** 2 / np.square(spectrum).sum() / 2
    lowered = gamma.ppf((len(flattest) - 0.5) / len(variance), shape) / shape
    return float(np.sqrt(variance[flattest[-1]] / lowered))


def _blocks(plane: np.ndarray) -> np.ndarray:
    rows, columns = (side // BLOCK for side in plane.shape)
    cut = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
