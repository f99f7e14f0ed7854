"""Noisy image -> code of the clean image at any rate and for any noise, with one blind network. Our own method.

The authors of FLLIC name one network for all noise levels as future work (arXiv 2401.13616, section IV-E); the
combination below is not published elsewhere. Its parts: the adaptive steps of FLLIC and the dual prior of EVC
(`models.dual_prior`), a linear shortcut around the transforms (after AuxT, arXiv 2501.13751), and gains and channel
scales that depend on the rate (as in the intra codecs of DCVC and the gained VAE).

    x - noise(x) -> linear (initially a 16x16 DCT) + net at 1/4 and 1/8 -> y * gain(conditions) -> [dual prior] -> y_hat
    y_hat / gain(conditions) -> linear inverse + net -> decoded -> decoded - coding error(decoded) = x_hat

The conditions are quality, noise and strength (`coding.conditions`). The encoder estimates the noise if it is not
given. All three are stored in the header, from which prior and decoder read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.conditions import (
    QUALITY,
    coding_error,
    conditions_of,
    default_quality,
    lmbda_of,
    removed_noise,
    request_conditions,
)
from jdcsuite.models.conditioned import MAX_BLOCKS, Block, Blocks, Coarse, error_network
from jdcsuite.models.dual_prior import DualPriorCodec
from jdcsuite.models.haar import COLOURS, SMALL, Band
from jdcsuite.models.layers import Float32, conv1x1, conv3x3, subpixel
from jdcsuite.models.noise_level import ESTIMATES
from jdcsuite.types import Output, Request, Side, UserError

BLOCK = 16  # pixels: side of a block of the linear transform, and of a latent
REFERENCE = 13.0  # log2 of the lmbda at which the gain is `latent_gain`
MAX_ESTIMATE = 255.0  # grey levels: a bound for estimates on images unlike those of the training


class Flagship(DualPriorCodec):
    """``widths``, ``blocks``: channels and residual blocks at 1/4 and 1/8, in encoder and decoder each.
    ``num_latents``: channels of y at 1/16, at most 768. ``prior_width``: channels of z and of the prior networks.
    ``embedding``: size of the embedded conditions. ``latent_gain``: latents per unit of the orthonormal transform at
    lmbda 8192; initially the gain is this times sqrt(lmbda / 8192), which suits the step to the rate.
    ``denoiser``, ``post_filter``: channels and blocks at 1/2, and further pairs for 1/4 and 1/8, of the `ErrorNetwork`
    before the encoder and of that behind the decoder; None: there is none. ``magnitudes``, ``passes``, ``residuals``,
    ``training_rate``: see `DualPriorCodec`. ``noise_estimate``: "bands" or "convolutions". The defaults of these seven
    are those of the first weights, whose configuration did not name them.

    The linear shortcut and all operations on latents run in float32 under autocast, because bf16 adds noise of half a
    grey level to bright pixels. The networks add a correction of the order of the noise, for which bf16 suffices.
    """

    any_rate = True
    takes_sigma = True

    def __init__(
        self,
        *,
        widths: list[int],
        blocks: list[int],
        num_latents: int = 384,
        prior_width: int = 96,
        embedding: int = 64,
        latent_gain: float = 16.0,
        denoiser: list[int] | None = None,
        post_filter: list[int] | None = None,
        magnitudes: bool = False,
        passes: int = 2,
        residuals: str = "gaussian",
        training_rate: str = "noise",
        noise_estimate: str = "convolutions",
    ) -> None:
        super().__init__()
        (c4, c8), (n4, n8) = (
            checks.pair(f"model.{name}", value, form=form)
            for name, value, form in (("widths", widths, "[128,192]"), ("blocks", blocks, "[2,2]"))
        )
        m = num_latents
        checks.flag("model.magnitudes", magnitudes)
        checks.whole("model.num_latents", m, least=1, most=3 * BLOCK**2)
        checks.number("model.latent_gain", latent_gain, above=0)
        checks.choice("model.noise_estimate", noise_estimate, ESTIMATES)
        for count in blocks:
            checks.whole("model.blocks", count, least=0, most=MAX_BLOCKS)
        self.latent_gain = latent_gain
        self.denoiser = error_network("model.denoiser", denoiser, embedding)
        self.post_filter = error_network("model.post_filter", post_filter, embedding)
        # receptive field beyond the block of a latent: 3x3 convolutions at 1/2, 1/4 and 1/8
        around = max((net.margin for net in (self.denoiser, self.post_filter) if net is not None), default=0)
        self.margin = math.ceil((around + 4 + 8 * n4 + 16 * n8 + 8) / BLOCK) * BLOCK
        self.embed = nn.Sequential(nn.Linear(3, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.linear_a = Float32(nn.Conv2d(3, m, BLOCK, stride=BLOCK))
        self.linear_s = nn.Sequential(Float32(conv1x1(m, 3 * BLOCK**2)), nn.PixelShuffle(BLOCK))
        self.enter = nn.Sequential(nn.PixelUnshuffle(4), Float32(conv3x3(48, c4)))
        self.fine_a, self.down = Blocks(n4, c4, embedding), nn.Conv2d(c4, c8, 2, stride=2)
        self.coarse_a, self.latents = Blocks(n8, c8, embedding), Float32(conv3x3(c8, m, stride=2))
        self.gain_a, self.gain_s = nn.Linear(embedding, m), nn.Linear(embedding, m)
        self.expand = nn.Sequential(Float32(conv1x1(m, 4 * c8)), nn.PixelShuffle(2))
        self.coarse_s, self.up = Blocks(n8, c8, embedding), subpixel(c8, c4)
        self.fine_s, self.leave = Blocks(n4, c4, embedding), nn.Sequential(conv3x3(c4, 48), nn.PixelShuffle(4))
        self.noise_level = ESTIMATES[noise_estimate]()
        self._build_prior(
            num_latents=m, prior_width=prior_width, planes=3, magnitudes=magnitudes, passes=passes,
            residuals=residuals, training_rate=training_rate,
        )  # fmt: skip
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Initialises the codec as a linear transform coder: the DCT coefficients of largest expected variance and
        their inverse, with networks of small gain beside them."""
        kernel = dct_kernels(self.num_latents)
        analysis, synthesis = self.linear_a.module, self.linear_s[0].module
        analysis.weight.copy_(kernel)
        # pixel shuffle: channel c * 256 + row * 16 + column
        synthesis.weight.copy_(kernel.flatten(1).T[:, :, None, None])
        for linear in (analysis, synthesis):
            nn.init.zeros_(linear.bias)
        for module in self.modules():
            if isinstance(module, Block):
                module.second.weight.mul_(0.3)
            elif isinstance(module, Coarse):
                module.up[0].weight.mul_(SMALL)
        lasts = [self.latents.module, self.leave[0]]
        lasts += [net.leave[0] for net in (self.denoiser, self.post_filter) if net is not None]
        for last in lasts:
            last.weight.mul_(SMALL)
            nn.init.zeros_(last.bias)
        for gain in (self.gain_a, self.gain_s):
            nn.init.zeros_(gain.weight)
            nn.init.zeros_(gain.bias)
        self._start_prior()

    # -- shared by training and coding -------------------------------------------------------------------------

    def analyse(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b m hy wy"]:
        """Padded image -> y in channel steps, float32."""
        e = self._embedded(conditions)
        return self._transformed(self._denoised(x, conditions, e), conditions, e)

    def _denoised(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 3 h w"]:
        return x if self.denoiser is None else x - self.denoiser(x - 0.5, removed_noise(conditions).to(x), e)

    def _transformed(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b m hy wy"]:
        x = x - 0.5
        features = self.coarse_a(self.down(self.fine_a(self.enter(x), e)), e)
        with torch.autocast(x.device.type, enabled=False):
            return (self.linear_a(x) + self.latents(features)) * self._gain(self.gain_a, conditions, e)

    def synthesise(
        self, y_hat: Float[Tensor, "b m hy wy"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """y_hat in channel steps -> padded image."""
        e = self._embedded(conditions)
        return self._filtered(self._decoded(y_hat, conditions, e), conditions, e)

    def _decoded(
        self, y_hat: Float[Tensor, "b m hy wy"], conditions: Float[Tensor, "b 3"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 3 h w"]:
        with torch.autocast(y_hat.device.type, enabled=False):
            y_hat = y_hat / self._gain(self.gain_s, conditions, e)
            linear = self.linear_s(y_hat)
        correction = self.leave(self.fine_s(self.up(self.coarse_s(self.expand(y_hat), e)), e))
        return linear + correction + 0.5

    def _filtered(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 3 h w"]:
        return x if self.post_filter is None else x - self.post_filter(x - 0.5, coding_error(conditions).to(x), e)

    def _embedded(self, conditions: Float[Tensor, "b 3"]) -> Float[Tensor, "b k"]:
        with torch.autocast(conditions.device.type, enabled=False):
            return self.embed((4 * conditions - 2).to(self.embed[0].weight))

    def _gain(self, head: nn.Linear, conditions: Float[Tensor, "b 3"], e: Tensor) -> Float[Tensor, "b m 1 1"]:
        log2_lmbda = torch.log2(lmbda_of(100 * conditions[:, QUALITY, None])).to(e)
        log2_gain = head(e) + (log2_lmbda - REFERENCE) / 2
        return self.latent_gain * torch.exp2(log2_gain[:, :, None, None] - self.log2_channel_step)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
        quality: Float[Tensor, "b"] | None = None,
        strength: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """``sigma`` in grey levels, nan where the encoder has to estimate it (None: everywhere). ``quality`` 0 to 100
        (None: 50), ``strength`` 0 to 1 (None: 1)."""
        height, width = x.shape[-2:]
        sigma_hat = self.noise_level(x)
        noise = sigma_hat.detach() if sigma is None else torch.where(sigma.isnan(), sigma_hat.detach(), sigma)
        conditions = conditions_of(
            quality=torch.full_like(noise, 50.0) if quality is None else quality,
            noise=noise,
            strength=torch.ones_like(noise) if strength is None else strength,
        )
        e = self._embedded(conditions)
        denoised = self._denoised(self.pad(x), conditions, e)
        y_hat, likelihoods = self._relaxed(self._transformed(denoised, conditions, e), conditions)
        x_hat = self.synthesise(y_hat, conditions)[..., :height, :width]
        shown = None if self.denoiser is None else denoised[..., :height, :width]
        return Output(x_hat=x_hat, likelihoods=likelihoods, sigma_hat=sigma_hat, denoised=shown)

    # -- coding ------------------------------------------------------------------------------------------------

    def planes(self, side: Side) -> Float[Tensor, "1 3"]:
        return request_conditions(side.request)

    def make_side(
        self,
        tiles: Iterable[Float[Tensor, "1 3 h w"]],
        *,
        sigma: float | None,
        quality: float | None,
        strength: float | None,
    ) -> Side:
        if quality is not None and not 0 <= quality <= 100:
            raise UserError(f"quality {quality} is not possible: give 0 (smallest file) to 100")
        if strength is not None and not 0 <= strength <= 1:
            raise UserError(f"strength {strength} is not possible: give 0 (keep the noise) to 1 (remove it)")
        if sigma is None:
            levels = [(min(self._estimate(tile), MAX_ESTIMATE), tile[0, 0].numel()) for tile in tiles]
            octaves = sum(math.log2(1 + level) * area for level, area in levels)
            sigma = 2 ** (octaves / sum(area for _, area in levels)) - 1
        request = Request.of(
            quality=default_quality(sigma) if quality is None else quality,
            noise=sigma,
            strength=1.0 if strength is None else strength,
        )
        return Side(request=request)

    def _estimate(self, tile: Float[Tensor, "1 3 h w"]) -> float:
        return float(checks.finite("this image's noise levels", self.noise_level(tile)))

    def constants(self) -> dict[str, object]:
        return {"latent_gain": float(self.latent_gain)}


def dct_kernels(count: int) -> Float[Tensor, "m 3 16 16"]:
    """The ``count`` basis functions of the orthonormal 16x16 DCT on luma and two chroma axes with the largest expected
    energy under the model of photographs in `models.haar`, in descending order."""
    basis = dct(np.eye(BLOCK), norm="ortho", axis=0)
    bands = [Band(colour, basis[i], basis[j]) for colour in range(3) for i in range(BLOCK) for j in range(BLOCK)]
    kept = sorted(bands, key=lambda band: -band.variance)[:count]
    kernels = [np.einsum("c,i,j->cij", COLOURS[band.colour], band.rows, band.columns) for band in kept]
    return torch.tensor(np.stack(kernels)).float()
