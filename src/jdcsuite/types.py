"""The batch contract: what a datamodule gives, what a model returns, and the letters of every shape.

Letters: ``b`` images of a batch, ``h w`` height and width in pixels, ``c`` channels of a latent,
``hy wy`` height and width of the latent y (1/16), ``hz wz`` of the hyper-latent z (1/64), ``m`` channels of y,
``n`` channels of the prior networks. Images are RGB float tensors in [0, 1], channels first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence that says how, printed without traceback."""


class CorruptFile(Exception):
    """The bytes are not a whole `.jdc` file, or not one that these weights wrote; the text says which."""


@dataclass(frozen=True)
class Pair:
    """A batch of noisy pictures and their clean ones.

    ``sigma``: standard deviation of the noise in 8-bit grey levels (nan where unknown).
    ``bpp_noisy``, ``bpp_clean``: lossless code length of either picture in bits per pixel, where a method asks
    for it. ``weight``: 0 where a sample of ``clean`` is not to be trusted (saturated pixels), else 1. ``level``: root
    mean square of the noise in grey levels, where a criterion teaches it. ``asked``: what a codec of any rate is asked
    for, by name (quality 0..100, strength 0..1).
    """

    noisy: Float[Tensor, "b 3 h w"]
    clean: Float[Tensor, "b 3 h w"]
    sigma: Float[Tensor, "b"]
    bpp_noisy: Float[Tensor, "b"] | None = None
    bpp_clean: Float[Tensor, "b"] | None = None
    weight: Float[Tensor, "b 3 h w"] | None = None
    level: Float[Tensor, "b"] | None = None
    asked: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.noisy.shape[0]

    def to(self, device: torch.device | str) -> Pair:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        asked = {name: value.to(device, non_blocking=True) for name, value in moved.pop("asked").items()}
        tensors = {k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None}
        return replace(self, **tensors, asked=asked)


@dataclass(frozen=True)
class Output:
    """What a model makes of a batch.

    ``x_hat``: the reconstruction, unclamped. ``likelihoods``: coded tensor -> probability of each of its symbols.
    ``h_hat``: predicted entropy of the clean picture in bits per pixel (entropy-guided codecs and their guide).
    ``sigma_hat``: estimated standard deviation of the noise in grey levels (codecs that estimate it).
    """

    x_hat: Float[Tensor, "b 3 h w"] | None = None
    likelihoods: dict[str, Tensor] = field(default_factory=dict)
    h_hat: Float[Tensor, "b"] | None = None
    sigma_hat: Float[Tensor, "b"] | None = None

    def bpp(self, pixels: int) -> dict[str, Float[Tensor, "b"]]:
        """Estimated bits per pixel of each coded tensor, an image at a time (``pixels`` = height * width)."""
        return {name: -torch.log2(p.float()).flatten(1).sum(1) / pixels for name, p in self.likelihoods.items()}


@runtime_checkable
class Compressor(Protocol):
    """What can be judged: learned codecs and standards alike."""

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes: ...

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]: ...
