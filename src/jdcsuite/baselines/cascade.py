"""Noisy picture -> a denoiser's picture -> bytes -> picture: denoise-then-compress, what a joint codec has to beat."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.data.noise import to_bytes, to_tensor
from jdcsuite.types import Compressor, UserError


@torch.no_grad()
def denoise(denoiser: object, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> Float[Tensor, "1 3 h w"]:
    """The denoiser's picture, unclamped, of one picture of any size. Whatever has a `denoise` of its own (`Denoiser`,
    in tiles; those that learned nothing) is asked for it; any other network is called as a codec is. ``sigma``: of the
    noise in grey levels, None where unknown. UserError where the net makes no picture."""
    if hasattr(denoiser, "denoise"):
        return denoiser.denoise(x)
    level = torch.tensor([math.nan if sigma is None else sigma], device=x.device)
    made = None
    if isinstance(denoiser, nn.Module):
        with torch.autocast(x.device.type, enabled=False):
            made = denoiser(x, sigma=level).x_hat
    if made is None:
        raise UserError(
            f"{type(denoiser).__name__} makes no picture: give a denoiser's run, as +experiment=unet trains"
        )
    return made


class Cascade:
    """``denoiser``: what `denoise` takes, a network in evaluation mode. ``codec``: what codes its picture, learned
    (ready to code) or standard.

    Between the two the picture is rounded to 8 bits, as in the file that a denoiser hands to a codec, so that learned
    and standard codecs are given the same one. The codec is not told the noise's sigma: it is that of a picture which
    it never sees.
    """

    def __init__(self, *, denoiser: object, codec: Compressor) -> None:
        self.denoiser, self.codec = denoiser, codec

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes:
        """``x``: the noisy picture in [0, 1]. The bytes are the codec's own."""
        clean = to_tensor(to_bytes(denoise(self.denoiser, x, sigma=sigma)[0]))[None]
        return self.codec.compress(clean.to(x.device))

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]:
        return self.codec.decompress(data)
