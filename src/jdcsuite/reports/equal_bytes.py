"""One noisy test image -> its reconstructions by several codecs at about equal file size, side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from jdcsuite.artifacts import weights
from jdcsuite.baselines.denoisers import NonLocalMeans
from jdcsuite.baselines.standards import LOSSY, Standard
from jdcsuite.coding.codec import Codec
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.judging.metrics import eight_bit, quality
from jdcsuite.reports.crops import strip
from jdcsuite.types import Pair


def largest(codec: str, x: Float[Tensor, "1 3 h w"], *, most: int) -> tuple[int, bytes] | None:
    """The highest integer quality of a standard codec whose file of ``x`` has at most ``most`` bytes, with that file;
    None if even the lowest quality needs more. By bisection, since size nearly always grows with quality."""
    low, high, best = int(LOSSY[codec].low), int(LOSSY[codec].high), None
    while low <= high:
        middle = (low + high) // 2
        data = Standard(codec=codec, quality=middle).compress(x)
        if len(data) <= most:
            best, low = (middle, data), middle + 1
        else:
            high = middle - 1
    return best


@torch.no_grad()
def reconstructions(pair: Pair, codec: Codec, *, name: str) -> list[tuple[str, Tensor]]:
    """Two-line captions and images (1, 3, h, w): noisy, AVIF, non-local means + AVIF, ``codec`` with default settings,
    clean. AVIF's files are the largest that its integer qualities give within the size of the codec's file."""
    own = codec.compress(pair.noisy)
    images = [("noisy", "", pair.noisy)]
    for label, x in (("AVIF", pair.noisy), ("nlm + AVIF", eight_bit(NonLocalMeans().denoise(pair.noisy)))):
        if (coded := largest("avif", x, most=len(own))) is not None:
            q, data = coded
            images.append((f"{label} q {q}", f"{len(data)} bytes", Standard(codec="avif", quality=q).decompress(data)))
    images += [(name, f"{len(own)} bytes", codec.decompress(own)), ("clean", "", pair.clean)]
    return [
        (f"{label}\n" + ", ".join(filter(None, [size, _db(image, pair.clean)])), image) for label, size, image in images
    ]


def _db(x_hat: Tensor, clean: Tensor) -> str:
    return "" if torch.equal(x_hat, clean) else f"{quality(x_hat, clean)['psnr']:.2f} dB"


def draw(pair: Pair, path: Path) -> None:
    """Write `reconstructions` for the weights in the package as one image."""
    codec = weights.load(weights.shipped())
    strip([(caption, to_bytes(image[0])) for caption, image in reconstructions(pair, codec, name="flagship")], path)
