"""Noisy image -> functionally lossless code of the clean image: the codec of FLLIC.

Zhang and Wu, "Functionally lossless image compression" (arXiv 2401.13616, 2024), on the transforms of EVC (Wang, Gao,
Hu, Li and Lu, "EVC: Towards real-time neural image compression with mask decay", ICLR 2023, arXiv 2302.05071).

    x -> g_a -> y / channel_step -> [dual prior with adaptive steps, guided by h] -> y_hat -> g_s -> x_hat
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.container import H_UNIT
from jdcsuite.models.dual_prior import DualPriorCodec
from jdcsuite.models.haar import haar_start
from jdcsuite.models.layers import DepthConv, Float32, ResidualDown, ResidualUp, conv1x1, conv3x3, subpixel
from jdcsuite.types import Output, Side

H_SCALE = 8.0  # bits per pixel where the guidance plane is 1


class FLLIC(DualPriorCodec):
    """``widths``: channels at 1/2, 1/4 and 1/8. ``num_latents``: channels of y at 1/16. More than EVC's 192, because
    the best 192 coefficients of a linear 16x16x3 transform saturate at 37 dB, below what sigma 5 needs
    (`experiments/ceiling`). ``prior_width``: channels of z and of the prior networks, a separate value so that their
    cost does not grow with the square of ``num_latents``. ``adaptive_steps``: False is FLLIC-u, in which every step is
    1. ``guide``: frozen clean-entropy network of FLLIC-w; None: the guidance plane is zero. ``latent_gain``: latents
    per unit of the orthonormal transform; at 16, a quantisation step of 1 is close to the optimum for lmbda 8192.
    ``start``: initialisation, ``haar`` (`models.haar`) or ``random`` (PyTorch's default).

    differs from EVC: no scalar rate scale, because a model serves one lmbda and the channel steps would absorb it.
    """

    def __init__(
        self,
        *,
        widths: list[int],
        num_latents: int = 384,
        prior_width: int = 192,
        adaptive_steps: bool = True,
        guide: nn.Module | None = None,
        latent_gain: float = 16.0,
        start: str = "haar",
    ) -> None:
        super().__init__()
        checks.number("model.latent_gain", latent_gain, above=0)
        c2, c4, c8 = widths
        m, self.latent_gain = num_latents, latent_gain
        self.g_a = nn.Sequential(
            ResidualDown(3, c2), DepthConv(c2, c2),
            ResidualDown(c2, c4), DepthConv(c4, c4),
            ResidualDown(c4, c8), DepthConv(c8, c8),
            Float32(conv3x3(c8, m, stride=2)),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            Float32(conv1x1(m, m)), DepthConv(m, m),
            ResidualUp(m, c8), DepthConv(c8, c8),
            ResidualUp(c8, c4), DepthConv(c4, c4),
            ResidualUp(c4, c2), DepthConv(c2, c2),
            Float32(subpixel(c2, 3)),
        )  # fmt: skip
        self._build_prior(num_latents=m, prior_width=prior_width, planes=1, adaptive_steps=adaptive_steps)
        self._start(start)
        self.guide = guide
        self.takes_sigma = guide is not None
        if guide is not None:
            guide.requires_grad_(False)

    @torch.no_grad()
    def _start(self, kind: str) -> None:
        if checks.choice("model.start", kind, ("haar", "random")) == "haar":
            haar_start(self.g_a, self.g_s)
            self._start_prior()

    def analyse(
        self, x: Float[Tensor, "b 3 h w"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b m hy wy"]:
        """Padded image -> y in channel steps, float32."""
        return self.latent_gain * self.g_a(x - 0.5) / self._channel_step()

    def synthesise(
        self, y_hat: Float[Tensor, "b m hy wy"], conditions: Float[Tensor, "b 3"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """y_hat in channel steps -> padded image."""
        return self.g_s(y_hat * self._channel_step() / self.latent_gain) + 0.5

    def _channel_step(self) -> Tensor | float:
        return torch.exp2(self.bound_step(self.log2_channel_step)) if self.adaptive_steps else 1.0

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        height, width = x.shape[-2:]
        h_hat = None if self.guide is None else self._quantised_h(self.guide(x, sigma=sigma, bpp_noisy=bpp_noisy).h_hat)
        x = self.pad(x)
        planes = (torch.zeros_like(x[:, 0, 0, 0]) if h_hat is None else h_hat)[:, None] / H_SCALE
        y_hat, likelihoods = self._relaxed(self.analyse(x), planes)
        return Output(x_hat=self.synthesise(y_hat)[..., :height, :width], likelihoods=likelihoods, h_hat=h_hat)

    @staticmethod
    def _quantised_h(h: Tensor) -> Tensor:
        return (h.detach() * H_UNIT).round().clamp(0, 2**16 - 1) / H_UNIT

    # -- coding ------------------------------------------------------------------------------------------------

    def planes(self, side: Side) -> Float[Tensor, "1 1"]:
        return torch.tensor([[side.h / H_UNIT / H_SCALE]], dtype=torch.float64)

    def constants(self) -> dict[str, object]:
        return {"latent_gain": float(self.latent_gain), "adaptive_steps": self.adaptive_steps}

    def make_side(
        self,
        tiles: Iterable[Float[Tensor, "1 3 h w"]],
        *,
        sigma: float | None,
        quality: float | None,
        strength: float | None,
    ) -> Side:
        """The entropy guide of an image is the mean of the estimates for its tiles, weighted by area."""
        side = super().make_side(tiles, sigma=sigma, quality=quality, strength=strength)
        if self.guide is None:
            return side
        estimates = [(self.guide.estimate(tile, sigma=sigma), tile[0, 0].numel()) for tile in tiles]
        bpp = sum(bpp * area for bpp, area in estimates) / sum(area for _, area in estimates)
        bpp = float(checks.finite("this image's entropy estimates", bpp))
        return replace(side, h=int(min(max(round(bpp * H_UNIT), 0), 2**16 - 1)))
