"""A single image -> an estimate of its noise level, for white and for correlated noise; classical, nothing is learned.

`Estimate.white` looks at the finest details only; of correlated noise, as in developed photographs, it sees about a
quarter. `Estimate.rms` measures all frequencies in the flattest blocks. Both overestimate where everything is texture,
and `rms` underestimates where flat blocks have less noise than others (measured in `experiments/real_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pywt
from jaxtyping import Bool, Float, UInt8, UInt16
from scipy.fft import dctn
from scipy.stats import gamma
from torch import Tensor

BLOCK = 16  # pixels
FLATTEST = 0.05  # share of the blocks that are taken for flat
SMOOTH = 2  # DCT coefficients with row + column up to this hold image content, not noise
STRIP, MOST = 4 * BLOCK, 2**22  # of larger images, only strips of STRIP rows are measured, MOST pixels in all
EVIDENT = 1.5  # noise is called correlated if rms exceeds this many grey levels and this many times white


@dataclass(frozen=True)
class Estimate:
    """Standard deviations in 8-bit grey levels, root mean square over the channels. ``rms``: for noise of any spatial
    correlation. ``white``: for white noise only. ``correlated``: both differ by half, so there is noise with a grain of
    several pixels, or texture everywhere."""

    rms: float
    white: float

    @property
    def correlated(self) -> bool:
        return self.rms > EVIDENT and self.rms > EVIDENT * self.white


def noise_of(picture: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]) -> Estimate:
    """Noise of a colour or grey image of any size. Where not even one block fits, the white estimate stands for both;
    with sides under 4 pixels both are 0."""
    top = np.iinfo(picture.dtype).max
    planes = np.moveaxis(np.atleast_3d(_strips(picture)), 2, 0)
    saturated = (planes == 0) | (planes == top)
    values = planes.astype(np.float32) * np.float32(255 / top)
    white = _root_mean_square([white_deviation(plane) for plane in values])
    if min(values.shape[1:]) < BLOCK:
        return Estimate(white, white)
    channels = zip(values, saturated, strict=True)
    return Estimate(_root_mean_square([_deviation(plane, clipped) for plane, clipped in channels]), white)


def estimate_sigma(noisy: Float[Tensor, "3 h w"]) -> float:
    """White noise of an image in [0, 1], in grey levels: the mean of `white_deviation` over the channels. 0 for sides
    under 4 pixels."""
    return float(np.mean([white_deviation(plane) for plane in noisy.cpu().numpy() * 255]))


def white_deviation(plane: Float[np.ndarray, "h w"]) -> float:
    """Standard deviation of white noise in one channel, in its own unit: the median absolute value of the finest
    diagonal wavelet band over .6745 (Donoho and Johnstone, 1994). As in scikit-image, details of exactly 0 are taken
    for masked or clipped areas and left out."""
    if min(plane.shape) < 4:
        return 0.0
    details = pywt.dwt2(plane, "db2")[1][2]
    details = np.abs(details[details != 0])
    return float(np.median(details)) / 0.6744897501960817 if details.size else 0.0


def _root_mean_square(deviations: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(deviations))))


def _strips(picture: np.ndarray) -> np.ndarray:
    """Every k-th strip across the longer side, of images with more than MOST pixels."""
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


def _deviation(plane: Float[np.ndarray, "h w"], saturated: Bool[np.ndarray, "h w"]) -> float:
    """Noise of one channel from the DCT energies of its 16x16 blocks. The smooth coefficients are replaced by the mean
    of the next higher ones. The 5 % quantile over the blocks is biased, being one of the lowest of many; the gamma
    distribution corrects it, with as many degrees of freedom as the mean spectrum of the flattest blocks implies."""
    blocks = _blocks(plane)
    unclipped = _blocks(saturated).mean((1, 2)) < 0.05  # clipping removes noise
    blocks = blocks[unclipped] if unclipped.any() else blocks
    energy = np.square(dctn(blocks, axes=(1, 2), norm="ortho", overwrite_x=True))
    order = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    kept, smooth = energy[:, order > SMOOTH], int((order <= SMOOTH).sum())
    variance = (kept.sum(1) + smooth * energy[:, order == SMOOTH + 1].mean(1)) / BLOCK**2
    flattest = np.argsort(variance)[: int(np.ceil(FLATTEST * len(variance)))]
    spectrum = kept[flattest].mean(0)
    if not spectrum.any():
        return 0.0
    shape = spectrum.sum() ** 2 / np.square(spectrum).sum() / 2
    bias = gamma.ppf((len(flattest) - 0.5) / len(variance), shape) / shape
    return float(np.sqrt(variance[flattest[-1]] / bias))


def _blocks(plane: np.ndarray) -> np.ndarray:
    rows, columns = (side // BLOCK for side in plane.shape)
    blocks = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return blocks.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
