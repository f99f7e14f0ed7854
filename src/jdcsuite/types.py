"""The types that rooms exchange, from a batch of images to a row of results, and the letters of all shapes.

Letters: ``b`` images of a batch, ``h w`` height and width in pixels, ``c`` channels of a latent,
``hy wy`` height and width of the latent y (1/16), ``hz wz`` of the hyper-latent z (1/64), ``m`` channels of y,
``n`` channels of the prior networks. Images are RGB float tensors in [0, 1], channels first.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class UserError(Exception):
    """A mistake of the user; its text is one sentence that says what to do, printed without a traceback."""


class NotInstalled(UserError):
    """An optional codec or denoiser that this machine does not have."""


class CorruptFile(Exception):
    """Bytes that are not a complete `.jdc` file, or not one of the given weights; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Encoder settings of an any-rate codec, in the integer units of a `.jdc` file.

    ``quality``: 0 to 1000, tenths of 0 (smallest file) to 100. ``noise``: standard deviation of the noise in 1/16 of an
    8-bit grey level, 0 to 65535. ``strength``: per cent of the noise that is removed, 0 to 100.
    """

    quality: int
    noise: int
    strength: int

    @classmethod
    def of(cls, *, quality: float, noise: float, strength: float) -> Request:
        """Rounds ``quality`` 0 to 100, ``noise`` in grey levels (clipped to the largest value of the file) and
        ``strength`` 0 to 1. ValueError: a value out of range."""
        if not (0 <= quality <= 100 and 0 <= noise < math.inf and 0 <= strength <= 1):
            raise ValueError(f"quality {quality}, noise {noise} or strength {strength} is outside the format's limits")
        return cls(quality=round(10 * quality), noise=min(round(16 * noise), 2**16 - 1), strength=round(100 * strength))


@dataclass(frozen=True, kw_only=True)
class Side:
    """Side information: what the header of a file tells the decoder about the whole image.

    ``h``: entropy guide in 1/256 bit per pixel, 0 = none. ``request``: of any-rate codecs; None for one rate.
    """

    h: int = 0
    request: Request | None = None

    @property
    def integers(self) -> tuple[int, ...]:
        """All fields as integers, in the order of the tile checksum."""
        request = self.request
        return (self.h,) if request is None else (self.h, request.quality, request.noise, request.strength)


@dataclass(frozen=True)
class Pair:
    """A batch of noisy images and their clean counterparts.

    ``sigma``: standard deviation of the noise in 8-bit grey levels (nan: unknown). The rest is None where no method
    needs it. ``bpp_noisy``, ``bpp_clean``: lossless code lengths in bits per pixel. ``weight``: 0 for samples of
    ``clean`` that are invalid (saturated pixels), else 1. ``level``: root mean square of the noise in grey levels, the
    target of a noise estimate. ``settings``: encoder settings of an any-rate codec (quality 0..100, strength 0..1).
    """

    noisy: Float[Tensor, "b 3 h w"]
    clean: Float[Tensor, "b 3 h w"]
    sigma: Float[Tensor, "b"]
    bpp_noisy: Float[Tensor, "b"] | None = None
    bpp_clean: Float[Tensor, "b"] | None = None
    weight: Float[Tensor, "b 3 h w"] | None = None
    level: Float[Tensor, "b"] | None = None
    settings: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.noisy.shape[0]

    def to(self, device: torch.device | str) -> Pair:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        settings = {name: value.to(device, non_blocking=True) for name, value in moved.pop("settings").items()}
        tensors = {k: v.to(device, non_blocking=True) for k, v in moved.items() if v is not None}
        return replace(self, **tensors, settings=settings)


@dataclass(frozen=True)
class Output:
    """What a model returns for a batch.

    ``x_hat``: reconstruction, not clamped. ``likelihoods``: name of a coded tensor -> probability of each symbol.
    ``h_hat``: predicted entropy of the clean image in bits per pixel (entropy-guided codecs and their guide).
    ``sigma_hat``: estimated standard deviation of the noise in grey levels (codecs that estimate it).
    ``denoised``: the image that a codec with a denoiser of its own encodes, not clamped.
    ``auxiliary``: further losses of each image that its model needs, in bits per pixel; criteria of rate add them.
    """

    x_hat: Float[Tensor, "b 3 h w"] | None = None
    likelihoods: dict[str, Tensor] = field(default_factory=dict)
    h_hat: Float[Tensor, "b"] | None = None
    sigma_hat: Float[Tensor, "b"] | None = None
    denoised: Float[Tensor, "b 3 h w"] | None = None
    auxiliary: Float[Tensor, "b"] | None = None

    def bpp(self, pixels: int) -> dict[str, Float[Tensor, "b"]]:
        """Estimated bits per pixel of each coded tensor and image. ``pixels``: height * width."""
        return {name: -torch.log2(p.float()).flatten(1).sum(1) / pixels for name, p in self.likelihoods.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image coded by one codec at one operating point; the fields are the columns of ``results.csv``.

    A field is None where its value is unknown or does not apply. Rates are in bits per pixel (bpp) of the clean image's
    size, noise levels in 8-bit grey levels, PSNR in dB and MS-SSIM in [0, 1] against the clean image.

    The run: ``run`` folder name; ``curve`` method and every override that changes the result except lmbda and seed;
    ``method``; ``lmbda`` weight of the MSE on [0, 1]; ``quality`` of a standard codec, on its own scale, or of an
    any-rate codec, 0..100; ``sigma_train``; ``min_ms_ssim`` threshold; ``target``; ``rate_scale``; ``seed``;
    ``budget``; ``train_set``; ``teacher`` names of the denoisers that made the targets; ``teacher_saw`` how many of the
    training scenes a teacher was trained on, as "3 of 40"; ``strength`` of the denoising, 0..1; ``training_noise`` law
    of the noise levels, if they vary; ``crops`` candidates, ``crops_kept`` those over the threshold.
    The image: ``sigma`` noise level (nan: unknown); ``noise_protocol`` clip8, float or real; ``noise_seed``;
    ``dataset``; ``image`` file name; ``height``, ``width`` in pixels.
    The file: ``bpp`` whole file = ``bpp_payload`` + ``bpp_header``; ``bpp_y``, ``bpp_z``, ``bpp_index`` parts of the
    payload; ``bpp_est`` the model's own estimate of the payload.
    Quality: ``psnr``, ``ms_ssim`` of the decoded image, ``psnr_noisy``, ``ms_ssim_noisy`` of the input (MS-SSIM is None
    if a side is below 176 pixels); ``sigma_hat`` noise level estimated by the codec.
    Cost: ``enc_ms`` (with a preceding denoiser's time), ``dec_ms`` wall time in milliseconds; ``device``; ``tile`` side
    in pixels, 0 = whole image.
    Versions: ``entropy_coder``; ``codec_version``; ``code_version``; ``lossless_coder`` that measures entropies.
    Identity: ``weights_id``, the first 8 hex digits of the model id of a trained codec, after those of the file of a
    denoiser's weights and a +; ``image_id``, the CRC-32 of the clean 8-bit pixels in hex.
    ``error``: why the codec could not code the image, which leaves rates and quality empty.
    Entropy estimators only, in bpp: ``h_noisy``, ``h_clean`` lossless code lengths of the two images; estimates of the
    latter: ``h_hat`` network (also of an entropy-guided codec's own guide), ``h_mean`` training mean, ``h_linear``
    straight line, ``h_analytic``.
    """

    run: str | None = None
    curve: str | None = None
    method: str | None = None
    lmbda: float | None = None
    quality: float | None = None
    sigma_train: float | None = None
    sigma: float | None = None
    min_ms_ssim: float | None = None
    target: str | None = None
    rate_scale: float | None = None
    h_hat: float | None = None
    seed: int | None = None
    budget: str | None = None
    train_set: str | None = None
    teacher: str | None = None
    teacher_saw: str | None = None
    noise_protocol: str | None = None
    noise_seed: int | None = None
    dataset: str | None = None
    image: str | None = None
    height: int | None = None
    width: int | None = None
    bpp: float | None = None
    bpp_payload: float | None = None
    bpp_est: float | None = None
    bpp_y: float | None = None
    bpp_z: float | None = None
    bpp_index: float | None = None
    bpp_header: float | None = None
    psnr: float | None = None
    ms_ssim: float | None = None
    psnr_noisy: float | None = None
    ms_ssim_noisy: float | None = None
    enc_ms: float | None = None
    dec_ms: float | None = None
    device: str | None = None
    tile: int | None = None
    entropy_coder: str | None = None
    codec_version: str | None = None
    code_version: str | None = None
    sigma_hat: float | None = None
    strength: float | None = None
    lossless_coder: str | None = None
    training_noise: str | None = None
    crops: int | None = None
    crops_kept: int | None = None
    h_noisy: float | None = None
    h_clean: float | None = None
    h_mean: float | None = None
    h_linear: float | None = None
    h_analytic: float | None = None
    weights_id: str | None = None
    image_id: str | None = None
    error: str | None = None

    def fill(self, other: Row) -> Row:
        """This row, with its empty fields taken from ``other``."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)


@runtime_checkable
class Compressor(Protocol):
    """What can be evaluated: learned and standard codecs."""

    def compress(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None = None) -> bytes: ...

    def decompress(self, data: bytes) -> Float[Tensor, "1 3 h w"]: ...
