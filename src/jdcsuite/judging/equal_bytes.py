"""One noisy test picture -> what several codecs make of it in as many bytes, side by side."""

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
from jdcsuite.judging.figures import strip
from jdcsuite.judging.metrics import eight_bit, quality
from jdcsuite.types import Pair


def largest(codec: str, x: Float[Tensor, "1 3 h w"], *, most: int) -> tuple[int, bytes] | None:
    """The highest whole quality of a standard codec whose file of ``x`` has at most ``most`` bytes, and that file; None
    where even the lowest has more. By bisection: a better quality costs more bytes, nearly always."""
    low, high, found = int(LOSSY[codec].low), int(LOSSY[codec].high), None
    while low <= high:
        middle = (low + high) // 2
        data = Standard(codec=codec, quality=middle).compress(x)
        if len(data) <= most:
            found, low = (middle, data), middle + 1
        else:
            high = middle - 1
    return found


@torch.no_grad()
def compared(pair: Pair, codec: Codec, *, name: str) -> list[tuple[str, Tensor]]:
    """Captions of two lines and pictures (1, 3, h, w): noisy, AVIF, non-local means + AVIF, the codec as it is when
    nothing is asked, clean. AVIF's files are as large as its steps of quality allow, and no larger than the codec's."""
    ours = codec.compress(pair.noisy)
    shown = [("noisy", "", pair.noisy)]
    for said, given in (("AVIF", pair.noisy), ("nlm + AVIF", eight_bit(NonLocalMeans().denoise(pair.noisy)))):
        if (made := largest("avif", given, most=len(ours))) is not None:
            q, data = made
            shown.append((f"{said} q {q}", f"{len(data)} bytes", Standard(codec="avif", quality=q).decompress(data)))
    shown += [(name, f"{len(ours)} bytes", codec.decompress(ours)), ("clean", "", pair.clean)]
    return [
        (f"{title}\n" + ", ".join(filter(None, [size, _db(picture, pair.clean)])), picture)
        for title, size, picture in shown
    ]


def _db(x_hat: Tensor, clean: Tensor) -> str:
    return "" if torch.equal(x_hat, clean) else f"{quality(x_hat, clean)['psnr']:.2f} dB"


def draw(pair: Pair, path: Path) -> None:
    """`compared` with the network that comes along, as one picture."""
    codec = weights.load(weights.shipped())
    strip([(title, to_bytes(picture[0])) for title, picture in compared(pair, codec, name="flagship")], path)
