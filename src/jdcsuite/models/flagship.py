"""Noisy picture -> code of its clean one at any rate, of any noise: one network, blind. Ours.

FLLIC's authors name one network for all noise levels as future work (arXiv 2401.13616, section IV-E); nothing here is
published elsewhere as a whole. Parts: FLLIC's adaptive steps and EVC's dual prior (`models/dual_prior`), a linear
shortcut around the transforms (after AuxT, arXiv 2501.13751), gains and channel scales that follow the rate (as DCVC's
intra codecs and the gained VAE have them).

    x -> linear (16x16 DCT to begin with) + net at 1/4 and 1/8 -> y * gain(conditions) -> [dual prior] -> y_hat / gain
    y_hat -> linear inverse + net -> x_hat

Conditions are quality, noise and strength (`models/conditions`). The encoder estimates the noise unless it is told; all
three travel in the header, where prior and decoder read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor, nn

from jdcsuite.coding.conditions import bend, conditions_of, lmbda_of, request_conditions
from jdcsuite.models.dual_prior import DualPriorCodec
from jdcsuite.models.haar import COLOURS, SMALL, Band
from jdcsuite.models.layers import Float32, added, conv1x1, conv3x3, subpixel
from jdcsuite.models.noise_level import NoiseLevel
from jdcsuite.types import Output, Request, Side, UserError

BLOCK = 16  # pixels: side of the linear transform's blocks, and of a latent
REFERENCE = 13.0  # log2 of the lmbda at which `latent_gain` is the gain
STRONGEST = 255.0  # grey levels: no noise of a picture is larger, but the estimate of a picture like none learned from


class Block(nn.Module):
    """Residual block of two 3x3 convolutions whose inner channels are scaled as the conditions ask."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first, self.second = conv3x3(channels, channels), conv3x3(channels, channels)
        self.scale = nn.Linear(embedding, channels)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
        scale = (1 + self.scale(e))[:, :, None, None]
        inner = F.leaky_relu_(self.first(x), 0.1)
        inner = inner * scale if torch.is_grad_enabled() else inner.mul_(scale)
        return added(self.second(inner), x)


class Blocks(nn.ModuleList):
    """``count`` residual blocks after one another."""

    def __init__(self, count: int, channels: int, embedding: int) -> None:
        super().__init__(Block(channels, embedding) for _ in range(count))

    def forward(self, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
        for block in self:
            x = block(x, e)
        return x


class Flagship(DualPriorCodec):
    """``widths``: channels at 1/4 and 1/8, ``blocks``: residual blocks there, in encoder and decoder each.
    ``num_latents``: channels at 1/16, at most 768. ``prior_width``: of z and the prior networks. ``embedding``: size of
    what the conditions become for the scales and gains. ``latent_gain``: latents per unit of the orthonormal transform
    at lmbda 8192; the gain starts as its product with sqrt(lmbda / 8192), the step that every rate asks for.

    The linear shortcut and everything around latents is float32 whatever the autocast: bf16 would add noise of half a
    grey level to bright pixels. What the networks add to it is of the noise's order.
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
    ) -> None:
        super().__init__()
        (c4, c8), (n4, n8), m = widths, blocks, num_latents
        if not 0 < m <= 3 * BLOCK**2:
            raise UserError(f"model.num_latents={m} is not usable: give 1 to {3 * BLOCK**2}")
        self.latent_gain = latent_gain
        # what each sees beyond a latent's own pixels: 3x3 convolutions, at 1/4 and at 1/8
        self.margin = math.ceil((4 + 8 * n4 + 16 * n8 + 8) / BLOCK) * BLOCK
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
        self.noise_level = NoiseLevel()
        self._build_prior(num_latents=m, prior_width=prior_width, planes=3)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """As a linear transform codec: the DCT's coefficients of largest expected variance, and its inverse. The
        networks beside it begin small."""
        kernel = dct_kernels(self.num_latents)
        analysis, synthesis = self.linear_a.module, self.linear_s[0].module
        analysis.weight.copy_(kernel)
        # pixel shuffle: channel c * 256 + row * 16 + column
        synthesis.weight.copy_(kernel.flatten(1).T[:, :, None, None])
        for linear in (analysis, synthesis):
            nn.init.zeros_(linear.bias)
        for blocks in (self.fine_a, self.coarse_a, self.coarse_s, self.fine_s):
            for block in blocks:
                block.second.weight.mul_(0.3)
        for last in (self.latents.module, self.leave[0]):
            last.weight.mul_(SMALL)
            nn.init.zeros_(last.bias)
        for gain in (self.gain_a, self.gain_s):
            nn.init.zeros_(gain.weight)
            nn.init.zeros_(gain.bias)
        self._start_prior()

    # -- what training and coding share ------------------------------------------------------------------------

    def analyse(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b m hy wy"]:
        """Padded picture -> y in channel steps, float32."""
        e, x = self._embedded(conditions), x - 0.5
        added = self.coarse_a(self.down(self.fine_a(self.enter(x), e)), e)
        with torch.autocast(x.device.type, enabled=False):
            return (self.linear_a(x) + self.latents(added)) * self._gain(self.gain_a, conditions, e)

    def synthesise(
        self, y_hat: Float[Tensor, "b m hy wy"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """y_hat in channel steps -> padded picture."""
        e = self._embedded(conditions)
        with torch.autocast(y_hat.device.type, enabled=False):
            y_hat = y_hat / self._gain(self.gain_s, conditions, e)
            picture = self.linear_s(y_hat)
        added = self.leave(self.fine_s(self.up(self.coarse_s(self.expand(y_hat), e)), e))
        return picture + added + 0.5

    def _embedded(self, conditions: Float[Tensor, "b 3"]) -> Float[Tensor, "b k"]:
        with torch.autocast(conditions.device.type, enabled=False):
            return self.embed((4 * conditions - 2).to(self.embed[0].weight))

    def _gain(self, head: nn.Linear, conditions: Float[Tensor, "b 3"], e: Tensor) -> Float[Tensor, "b m 1 1"]:
        log2_lmbda = torch.log2(lmbda_of(100 * conditions[:, :1])).to(e)
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
        """``sigma``: nan where the encoder is not told and estimates. ``quality`` 0..100 (None: 50), ``strength`` 0..1
        (None: 1)."""
        height, width = x.shape[-2:]
        sigma_hat = self.noise_level(x)
        told = sigma_hat.detach() if sigma is None else torch.where(sigma.isnan(), sigma_hat.detach(), sigma)
        asked = conditions_of(
            quality=torch.full_like(told, 50.0) if quality is None else quality,
            noise=told,
            strength=torch.ones_like(told) if strength is None else strength,
        )
        y_hat, likelihoods = self._relaxed(self.analyse(self.pad(x), asked), asked)
        x_hat = self.synthesise(y_hat, asked)[..., :height, :width]
        return Output(x_hat=x_hat, likelihoods=likelihoods, sigma_hat=sigma_hat)

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
            estimates = [(min(float(self.noise_level(tile)), STRONGEST), tile[0, 0].numel()) for tile in tiles]
            levels = [(math.log2(1 + sigma), area) for sigma, area in estimates]
            sigma = 2 ** (sum(level * area for level, area in levels) / sum(area for _, area in levels)) - 1
        request = Request.of(
            quality=bend(sigma) if quality is None else quality,
            noise=sigma,
            strength=1.0 if strength is None else strength,
        )
        return Side(request=request)

    def constants(self) -> dict[str, object]:
        return {"latent_gain": float(self.latent_gain)}


def dct_kernels(count: int) -> Float[Tensor, "m 3 16 16"]:
    """The ``count`` basis functions of the orthonormal 16x16 DCT on luma and two chroma axes that have the largest
    expected energy under `models/haar`'s model of photographs, largest first."""
    basis = dct(np.eye(BLOCK), norm="ortho", axis=0)
    bands = [Band(colour, basis[i], basis[j]) for colour in range(3) for i in range(BLOCK) for j in range(BLOCK)]
    kept = sorted(bands, key=lambda band: -band.variance)[:count]
    kernels = [np.einsum("c,i,j->cij", COLOURS[band.colour], band.rows, band.columns) for band in kept]
    return torch.tensor(np.stack(kernels)).float()
