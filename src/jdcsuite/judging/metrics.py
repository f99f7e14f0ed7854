"""Reconstruction + clean picture -> PSNR and MS-SSIM; codec + Pair -> one row of results, on real bytes.

The one metric collection: validation, testing and the evaluation of standards all use it. Numbers are per image,
on the 8-bit decoded picture, in float32; means over images are taken in `report` (and, for the progress of a
run, by torchmetrics, over all ranks).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, PeakSignalNoiseRatio

from jdcsuite.coding.codec import Codec
from jdcsuite.coding.conditions import lmbda_of
from jdcsuite.coding.container import H_UNIT, Request, header_bytes, unpack
from jdcsuite.data.noise import estimate_sigma, to_bytes
from jdcsuite.data.quality import SMALLEST, full_float32
from jdcsuite.types import Compressor, Pair, Row

T = TypeVar("T")


def eight_bit(x: Tensor) -> Tensor:
    """[0, 1] -> the nearest 8-bit picture, still as floats in [0, 1]."""
    return (x.clamp(0, 1) * 255).round() / 255


class Quality(MetricCollection):
    """PSNR (dB, RGB pooled within an image, then averaged over images) and MS-SSIM (Wang et al., 2003).

    torchmetrics' default PSNR pools the squared error of all images: 16.98 instead of 26.99 dB on one probe.
    ``ms_ssim``: False for pictures with a side under 176 pixels, where it is undefined.
    """

    def __init__(self, *, ms_ssim: bool = True) -> None:
        metrics = {"psnr": PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))}
        if ms_ssim:
            metrics["ms_ssim"] = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
        super().__init__(metrics, compute_groups=False)


def quality(x_hat: Float[Tensor, "1 3 h w"], clean: Float[Tensor, "1 3 h w"]) -> dict[str, float | None]:
    """PSNR in dB and MS-SSIM of one picture rounded to 8 bits; MS-SSIM is None under 176 pixels."""
    measured = Quality(ms_ssim=min(clean.shape[-2:]) >= SMALLEST).to(clean.device)
    with full_float32():
        # the clean one is rounded too: a GPU may divide by 255 to other last bits
        values = measured(eight_bit(x_hat), eight_bit(clean))
    return {name: float(values[name]) if name in values else None for name in ("psnr", "ms_ssim")}


def of_input(pair: Pair) -> Row:
    """The columns of a Pair of one that no codec changes: the noisy image against the clean one, and its size."""
    height, width = pair.clean.shape[-2:]
    noisy = quality(pair.noisy, pair.clean)
    return Row(
        sigma=float(pair.sigma[0]), height=height, width=width, psnr_noisy=noisy["psnr"], ms_ssim_noisy=noisy["ms_ssim"]
    )


@torch.no_grad()
def judge(
    codec: Compressor,
    pair: Pair,
    *,
    handed: Pair | None = None,
    handed_ms: float = 0.0,
    known: Row | None = None,
    asked: dict[str, float] | None = None,
) -> tuple[Row, Float[Tensor, "1 3 h w"]]:
    """Compresses and decompresses the noisy image of a Pair of one: (its row, decoded image).

    ``codec``: whatever has ``compress`` and ``decompress``, learned or standard. bpp counts the whole file.
    ``handed``: the Pair that the codec is given where something before it, as a denoiser, made another of ``pair``;
    ``handed_ms``: how long that took, which is part of encoding. ``known``: `of_input`, where it is at hand.
    ``asked``: of a codec of any rate, by name (quality, strength).
    """
    height, width = pair.clean.shape[-2:]
    seen = pair if handed is None else handed
    told = None if math.isnan(seen.sigma[0]) else float(seen.sigma[0])
    if isinstance(codec, Codec) and codec.any_rate:
        told = None  # it is judged as it is used, blind
    data, enc_ms = timed(lambda: codec.compress(seen.noisy, sigma=told, **(asked or {})), seen.noisy)
    x_hat, dec_ms = timed(lambda: codec.decompress(data), pair.noisy)
    x_hat = x_hat.to(pair.clean.device)  # standard codecs decode on the CPU
    row = replace(
        of_input(pair) if known is None else known,
        bpp=8 * len(data) / (height * width),
        **quality(x_hat, pair.clean),
        enc_ms=round(handed_ms + enc_ms, 3),
        dec_ms=round(dec_ms, 3),
        device=pair.noisy.device.type,
    )
    return (_account(codec, seen, data).fill(row) if isinstance(codec, Codec) else row), x_hat


def _account(codec: Codec, pair: Pair, data: bytes) -> Row:
    """How a learned codec's file divides into parts, and what its forward pass estimates, in bits per pixel."""
    contents = unpack(data)
    bits = 8 / (contents.height * contents.width)
    header = header_bytes(contents)
    parts = {
        f"bpp_{name}": bits * sum(len(tile.segments[place]) for tile in contents.tiles)
        for place, name in enumerate(codec.segment_names)
        if name in ("y", "z", "index")  # a codec from outside may code other tensors, which have no column
    }
    pair, asked = _guided(codec, pair), _asked(contents.side.request)
    if asked:
        pair = replace(pair, sigma=pair.sigma.new_tensor([asked["sigma_hat"]]))
    tensors = {name: pair.sigma.new_tensor([asked[name]]) for name in ("quality", "strength") if asked}
    output = codec(pair.noisy, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy, **tensors)
    estimate = sum(float(rate) for rate in output.bpp(contents.height * contents.width).values())
    return Row(
        bpp_payload=bits * (len(data) - header),
        bpp_est=estimate,
        bpp_header=bits * header,
        h_hat=contents.side.h / H_UNIT if contents.side.h else None,
        tile=contents.tile,
        **parts,
        **asked,
    )


def _asked(request: Request | None) -> dict[str, float]:
    """The columns that a file's request gives: of codecs of any rate, whose lmbda its quality says."""
    if request is None:
        return {}
    quality, strength = request.quality / 10, request.strength / 100
    return {"quality": quality, "lmbda": lmbda_of(quality), "sigma_hat": request.noise / 16, "strength": strength}


def _guided(codec: Codec, pair: Pair) -> Pair:
    """The Pair with what the codec's guide, where it has one, measures itself when it is not told."""
    lossless = getattr(getattr(codec, "guide", None), "lossless", None)
    if lossless is None:
        return pair
    sigma, bpp = pair.sigma, pair.bpp_noisy
    if bool(sigma.isnan().any()):
        sigma = torch.full_like(sigma, estimate_sigma(pair.noisy[0]))
    bpp = sigma.new_tensor([lossless.bpp(to_bytes(pair.noisy[0]))]) if bpp is None else bpp
    return replace(pair, sigma=sigma, bpp_noisy=bpp)


def timed(work: Callable[[], T], like: Tensor) -> tuple[T, float]:
    """The result of ``work`` and its wall time in ms, with the device of ``like`` synchronised around it."""

    def synchronise() -> None:
        if like.device.type == "cuda":
            torch.cuda.synchronize(like.device)

    synchronise()
    start = time.perf_counter()
    result = work()
    synchronise()
    return result, 1000 * (time.perf_counter() - start)
