"""Reconstruction + clean image -> PSNR and MS-SSIM; codec + Pair -> one row of results, from a file that is decoded.

Tests and the evaluation of standard codecs all use these metrics. They are computed per image on the decoded image
rounded to 8 bits; rows are averaged in `results` only.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.coding.codec import Codec
from jdcsuite.coding.conditions import lmbda_of
from jdcsuite.coding.container import H_UNIT, header_bytes, unpack
from jdcsuite.coding.transform import TransformCodec
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.judging import fidelity
from jdcsuite.types import Compressor, Pair, Request, Row

T = TypeVar("T")


def eight_bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255."""
    return (x.clamp(0, 1) * 255).round() / 255


def quality(x_hat: Float[Tensor, "1 3 h w"], clean: Float[Tensor, "1 3 h w"]) -> dict[str, float | None]:
    """``psnr`` (dB) and ``ms_ssim`` of one image rounded to 8 bits; MS-SSIM is None if a side is below 176 pixels."""
    return _quality(to_bytes(x_hat[0]), to_bytes(clean[0]))


def _quality(x_hat: UInt8[np.ndarray, "h w 3"], clean: UInt8[np.ndarray, "h w 3"]) -> dict[str, float | None]:
    return {"psnr": fidelity.psnr(x_hat, clean), "ms_ssim": fidelity.ms_ssim(x_hat, clean)}


def of_input(pair: Pair) -> Row:
    """The columns of one image that do not depend on the codec: noise level, size, identity, and the noisy image's
    quality."""
    height, width = pair.clean.shape[-2:]
    clean = to_bytes(pair.clean[0])
    noisy = _quality(to_bytes(pair.noisy[0]), clean)
    return Row(
        sigma=float(pair.sigma[0]),
        height=height,
        width=width,
        image_id=image_id(zlib.crc32(clean)),
        psnr_noisy=noisy["psnr"],
        ms_ssim_noisy=noisy["ms_ssim"],
    )


def image_id(crc32: int) -> str:
    """The column of this name, given the CRC-32 of the 8-bit samples (h, w, 3)."""
    return f"{crc32:08x}"


@torch.no_grad()
def judge(
    codec: Compressor,
    pair: Pair,
    *,
    denoised: Pair | None = None,
    denoise_ms: float = 0.0,
    input_row: Row | None = None,
    clean: UInt8[np.ndarray, "h w 3"] | None = None,
    settings: dict[str, float] | None = None,
) -> tuple[Row, Float[Tensor, "1 3 h w"]]:
    """Compress and decompress the noisy image of ``pair`` (one image) -> its row, the decoded image.

    ``denoised``: the Pair to code instead, after a denoiser that took ``denoise_ms`` milliseconds, which count as
    encoding time; quality is still measured against ``pair``. ``input_row``: `of_input` of ``pair``, if it has been
    computed already, and ``clean`` the clean image in 8 bits. ``settings``: encoder settings of an any-rate codec
    (quality, strength).
    """
    height, width = pair.clean.shape[-2:]
    coded = pair if denoised is None else denoised
    data, enc_ms = timed(lambda: compressed(codec, coded, settings), coded.noisy)
    x_hat, dec_ms = timed(lambda: codec.decompress(data), pair.noisy)
    row = replace(
        input_row or of_input(pair),
        bpp=8 * len(data) / (height * width),
        **_quality(to_bytes(x_hat[0]), to_bytes(pair.clean[0]) if clean is None else clean),
        enc_ms=round(denoise_ms + enc_ms, 3),
        dec_ms=round(dec_ms, 3),
        device=pair.noisy.device.type,
    )
    return (_bits(codec, coded, data).fill(row) if isinstance(codec, Codec) else row), x_hat.to(pair.clean.device)


def compressed(codec: Compressor, pair: Pair, settings: dict[str, float] | None = None) -> bytes:
    """The file of a Pair's noisy image. An any-rate codec is used without the noise level, so it is judged without."""
    unknown = math.isnan(pair.sigma[0]) or (isinstance(codec, Codec) and codec.any_rate)
    return codec.compress(pair.noisy, sigma=None if unknown else float(pair.sigma[0]), **(settings or {}))


def _bits(codec: Codec, pair: Pair, data: bytes) -> Row:
    """The parts of a file and, of transform codecs, the estimate of the forward pass, in bits per pixel."""
    contents = unpack(data)
    bpp_per_byte = 8 / (contents.height * contents.width)
    header = header_bytes(contents)
    parts = {
        f"bpp_{name}": bpp_per_byte * sum(len(tile.segments[place]) for tile in contents.tiles)
        for place, name in enumerate(codec.segment_names)
        if name in ("y", "z", "index")  # a codec from elsewhere may code tensors that have no column
    }
    pair, request = _with_guide_inputs(codec, pair), _request_columns(contents.side.request)
    if request:
        pair = replace(pair, sigma=pair.sigma.new_tensor([request["sigma_hat"]]))
    estimate = None
    if isinstance(codec, TransformCodec):
        settings = {name: pair.sigma.new_tensor([request[name]]) for name in ("quality", "strength") if request}
        # the networks see a tile at a time, as in coding, so that a large image takes no more memory
        bits = 0.0
        for box in contents.boxes:
            x = codec.crop(pair.noisy, box)
            output = codec(x, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy, **settings)
            bits += box.height * box.width * sum(map(float, output.bpp(box.height * box.width).values()))
        estimate = bits / (contents.height * contents.width)
    return Row(
        bpp_payload=bpp_per_byte * (len(data) - header),
        bpp_est=estimate,
        bpp_header=bpp_per_byte * header,
        h_hat=contents.side.h / H_UNIT if contents.side.h else None,
        tile=contents.tile,
        **parts,
        **request,
    )


def _request_columns(request: Request | None) -> dict[str, float]:
    """The columns that an any-rate file's header gives; lmbda follows from the quality."""
    if request is None:
        return {}
    quality, strength = request.quality / 10, request.strength / 100
    return {"quality": quality, "lmbda": lmbda_of(quality), "sigma_hat": request.noise / 16, "strength": strength}


def _with_guide_inputs(codec: Codec, pair: Pair) -> Pair:
    """``pair`` with the inputs of the codec's entropy guide, if it has one, measured as `Codec.compress` does."""
    lossless = getattr(getattr(codec, "guide", None), "lossless", None)
    if lossless is None:
        return pair
    sigma, bpp = pair.sigma, pair.bpp_noisy
    if bool(sigma.isnan().any()):
        sigma = torch.full_like(sigma, estimate_sigma(pair.noisy[0]))
    bpp = sigma.new_tensor([lossless.bpp(to_bytes(pair.noisy[0]))]) if bpp is None else bpp
    return replace(pair, sigma=sigma, bpp_noisy=bpp)


def timed(work: Callable[[], T], like: Tensor) -> tuple[T, float]:
    """The result of ``work`` and its wall time in ms, with the device of ``like`` synchronised before and after."""

    def synchronise() -> None:
        if like.device.type == "cuda":
            torch.cuda.synchronize(like.device)

    synchronise()
    start = time.perf_counter()
    result = work()
    synchronise()
    return result, 1000 * (time.perf_counter() - start)
