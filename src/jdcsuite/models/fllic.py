"""Noisy picture -> functionally lossless code of its clean one: FLLIC's codec.

Zhang and Wu, "Functionally lossless image compression" (arXiv 2401.13616, 2024), on the transforms of EVC (Wang et
al., "Evolving video compression with ...", ICLR 2023, arXiv 2302.05071).

    x -> g_a -> y / channel_step -> h_a -> z -> [z prior] -> h_s -> fusion(, h) -> step, scales, means
    y / (channel_step * step) -> two checkerboard passes [Gaussian(means, scales)] -> y_hat -> g_s -> x_hat

What lies between bits and symbols (h_s, fusion, spatial prior) is computed in float64 when coding, exactly on every
machine (`models/exact`); steps and scales stay logarithms there, because no power of two is taken on that way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdcsuite.entropy.coder import FARTHEST, Decoder, Encoder, Tables
from jdcsuite.entropy.container import H_UNIT
from jdcsuite.entropy.priors import Gaussian, MonotoneCDF
from jdcsuite.entropy.quantize import LowerBound, add_noise, compand, round_ste
from jdcsuite.models.codec import Codec
from jdcsuite.models.haar import SMALL, haar_start, orthogonal_start
from jdcsuite.models.layers import DepthConv, Float32, ResidualDown, ResidualUp, conv1x1, conv3x3, exact1x1, subpixel
from jdcsuite.types import Output, UserError

LOWEST_STEP, LOWEST_SCALE, HIGHEST_SCALE = -1.0, -3.25, 14.0  # log2

# (means, log2 scales, mask) in step units -> y_hat in step units at the mask's places
Coding = Callable[[Tensor, Tensor, Tensor], Tensor]


class FLLIC(Codec):
    """``widths``: channels at 1/2, 1/4 and 1/8. ``num_latents``: channels at 1/16, those of y; the best 192
    coefficients of a linear 16x16x3 transform end at 37 dB, below what sigma 5 needs (`experiments/ceiling`).
    ``prior_width``: channels of z and of the prior networks, apart from ``num_latents`` so that their cost does
    not grow with its square. ``adaptive_steps``: False is FLLIC-u, every step 1. ``guide``: frozen clean-entropy
    network of FLLIC-w; without one the guidance plane is zero. ``latent_gain``: latents per unit of the orthonormal
    transform; 16 puts a quantisation step of 1 near the step that lmbda 8192 asks for. ``start``: ``haar`` (see
    `models/haar`) or ``random``, PyTorch's own.

    differs from EVC: no scalar rate scale, because one model serves one lmbda and the scalar would be the common
    factor of the channel steps; the means, scales and steps leave through a 1x1 convolution, so that the
    depth-conv blocks keep the prior's width.
    """

    stride = 64
    segment_names = ("z", "y")
    between = ("h_s", "fusion", "spatial_prior")

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
        c2, c4, c8 = widths
        m, n = num_latents, prior_width
        self.num_latents, self.adaptive_steps, self.latent_gain = m, adaptive_steps, latent_gain
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
        self.h_a = nn.Sequential(
            conv1x1(m, n), DepthConv(n, n, prior=True),
            conv3x3(n, n, stride=2), nn.LeakyReLU(0.1), conv3x3(n, n, stride=2),
        )  # fmt: skip
        self.h_s = nn.Sequential(
            DepthConv(n, n, prior=True), subpixel(n, n, exact=True),
            DepthConv(n, n, prior=True), subpixel(n, n, exact=True),
            DepthConv(n, n, prior=True),
        )  # fmt: skip
        self.fusion = nn.Sequential(
            DepthConv(n + 1, 2 * n, prior=True),
            DepthConv(2 * n, 2 * n, prior=True),
            Float32(exact1x1(2 * n, 3 * m)),
        )
        self.spatial_prior = nn.Sequential(
            exact1x1(4 * m, 2 * n), DepthConv(2 * n, 2 * n, prior=True), DepthConv(2 * n, 2 * n, prior=True),
            Float32(exact1x1(2 * n, 2 * m)),
        )  # fmt: skip
        self.prior_z = MonotoneCDF(num_distributions=n)
        self.prior_y = Gaussian()
        self.log2_channel_step = nn.Parameter(torch.zeros(1, m, 1, 1), requires_grad=adaptive_steps)
        self.bound_step = LowerBound(LOWEST_STEP)
        self.bound_scale = LowerBound(LOWEST_SCALE)
        self._start(start)
        self.guide = guide
        if guide is not None:
            guide.requires_grad_(False)

    @torch.no_grad()
    def _start(self, kind: str) -> None:
        if kind not in ("haar", "random"):
            raise UserError(f"model.start={kind} is unknown: choose haar or random")
        if kind == "random":
            return
        haar_start(self.g_a, self.g_s)
        for net in (self.h_a, self.h_s, self.fusion, self.spatial_prior):
            orthogonal_start(net)
        # steps of 1, scales of 1 and means of 0, nearly
        for head in (self.fusion[-1], self.spatial_prior[-1]):
            head.module.weight.mul_(SMALL)

    # -- what training and coding share ------------------------------------------------------------------------

    def analyse(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m hy wy"]:
        """Picture -> y in channel steps, float32."""
        return self.latent_gain * self.g_a(x - 0.5) / self._channel_step()

    def synthesise(self, y_hat: Float[Tensor, "b m hy wy"]) -> Float[Tensor, "b 3 h w"]:
        """y_hat in channel steps -> picture."""
        return self.g_s(y_hat * self._channel_step() / self.latent_gain) + 0.5

    def _channel_step(self) -> Tensor | float:
        return torch.exp2(self.bound_step(self.log2_channel_step)) if self.adaptive_steps else 1.0

    def _entropy_parameters(self, z_hat: Tensor, h: Float[Tensor, "b"]) -> tuple[Tensor, Tensor, Tensor]:
        """z_hat and the entropy guide (bpp) -> log2 of the step (channel steps), log2 of the scales, means (steps).
        In float64 every bit of them is the same on every machine."""
        features = self.h_s(compand(z_hat))
        plane = (h / 8.0).to(features).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[-2:])
        log2_step, log2_scales, means = self.fusion(torch.cat([features, plane], 1)).chunk(3, 1)
        log2_step = self._bounded(log2_step, self.bound_step) if self.adaptive_steps else torch.zeros_like(log2_step)
        return log2_step, self._bounded(log2_scales, self.bound_scale), means

    @staticmethod
    def _bounded(log2: Tensor, lower: LowerBound) -> Tensor:
        return lower(log2.clamp(max=HIGHEST_SCALE))

    def _dual_prior(
        self, log2_step: Tensor, log2_scales: Tensor, means: Tensor, code: Coding
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the latents, then the other half given the first: y_hat, log2 scales and means, all in steps."""
        first = self._first_half(means)
        y_first = code(means, log2_scales, first) * first
        seen = [compand(y_first), compand(means), log2_scales, log2_step]
        log2_scales_second, means_second = self.spatial_prior(torch.cat(seen, 1)).chunk(2, 1)
        log2_scales = torch.where(first, log2_scales, self._bounded(log2_scales_second, self.bound_scale))
        means = torch.where(first, means, means + means_second)
        y_hat = torch.where(first, y_first, code(means, log2_scales, ~first))
        return y_hat, log2_scales, means

    @staticmethod
    def _first_half(like: Tensor) -> Tensor:
        """One half of the channels on even sites, the other half on odd ones."""
        c, height, width = like.shape[1:]
        rows, columns, channels = (torch.arange(n, device=like.device) for n in (height, width, c))
        site = (rows[:, None] + columns[None]) % 2 == 0
        return (site[None] == (channels < c // 2)[:, None, None]).unsqueeze(0)

    # -- training ----------------------------------------------------------------------------------------------

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
        y = self.analyse(x)
        z = self.h_a(compand(y)).float()
        with torch.autocast(x.device.type, enabled=False):
            p_z = self.prior_z(self._relax(z))
        log2_step, log2_scales, means = self._entropy_parameters(
            round_ste(z), torch.zeros_like(x[:, 0, 0, 0]) if h_hat is None else h_hat
        )
        step = torch.exp2(log2_step)
        v = y / step
        y_hat, log2_scales, means = self._dual_prior(
            log2_step, log2_scales, means, lambda means, log2_scales, mask: round_ste(v - means) + means
        )
        p_y = self.prior_y(self._relax(v - means), torch.exp2(log2_scales))
        # The step stays outside the rounding's straight-through: inside, its distortion gradient would vanish.
        x_hat = self.synthesise(y_hat * step)[..., :height, :width]
        return Output(x_hat=x_hat, likelihoods={"y": p_y, "z": p_z}, h_hat=h_hat)

    def _relax(self, v: Tensor) -> Tensor:
        return add_noise(v) if self.training else torch.round(v)

    @staticmethod
    def _quantised_h(h: Tensor) -> Tensor:
        return (h.detach() * H_UNIT).round().clamp(0, 2**16 - 1) / H_UNIT

    # -- coding ------------------------------------------------------------------------------------------------

    def make_tables(self) -> dict[str, Tables]:
        return {"y": self.prior_y.tables(), "z": self.prior_z.tables()}

    def settings(self) -> dict[str, object]:
        return {"latent_gain": float(self.latent_gain), "adaptive_steps": self.adaptive_steps}

    def guide_bpp(self, x: Float[Tensor, "1 3 h w"], *, sigma: float | None) -> float:
        return 0.0 if self.guide is None else float(self.guide.estimate(x, sigma=sigma))

    def encode_tile(self, y: Float[Tensor, "1 m hy wy"], *, h: int) -> tuple[list[bytes], Int[Tensor, "n"]]:
        z = torch.round(self.h_a(compand(y))).clamp(-FARTHEST, FARTHEST).double()
        z_symbols = z.flatten().int().cpu()
        z_coder, y_coder, symbols = Encoder(), Encoder(), [z_symbols]
        z_coder.put(z_symbols, self._z_indexes(z.shape[-2:]), self.tables["z"])
        log2_step, log2_scales, means = self._entropy_parameters(z, torch.full_like(z[:, 0, 0, 0], h / H_UNIT))
        v = y / torch.exp2(log2_step)

        def write(means: Tensor, log2_scales: Tensor, mask: Tensor) -> Tensor:
            residual = torch.round(v - means).clamp(-FARTHEST, FARTHEST)
            at = mask.flatten().nonzero().squeeze(1)
            indexes, shifts = self.prior_y.index(log2_scales.flatten()[at])
            symbols.append(residual.flatten()[at].int().cpu())
            y_coder.put(symbols[-1], indexes, self.tables["y"], shifts=shifts.cpu())
            return residual + means

        self._dual_prior(log2_step, log2_scales, means, write)
        return [z_coder.segment(), y_coder.segment()], torch.cat(symbols)

    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, h: int
    ) -> tuple[Float[Tensor, "1 m hy wy"], Int[Tensor, "n"]]:
        size = (height // 64, width // 64)
        z_coder, y_coder = (Decoder(segment) for segment in segments)
        symbols = [z_coder.get(self._z_indexes(size), self.tables["z"])]
        z_coder.finish()  # before the networks take memory for latents that may not be there
        z = symbols[0].view(1, -1, *size).to(self.log2_channel_step.device).double()
        log2_step, log2_scales, means = self._entropy_parameters(z, torch.full_like(z[:, 0, 0, 0], h / H_UNIT))

        def read(means: Tensor, log2_scales: Tensor, mask: Tensor) -> Tensor:
            at = mask.flatten().nonzero().squeeze(1)
            indexes, shifts = self.prior_y.index(log2_scales.flatten()[at])
            symbols.append(y_coder.get(indexes, self.tables["y"], shifts=shifts.cpu()))
            residual = torch.zeros_like(means).flatten()
            residual[at] = symbols[-1].to(means.device).double()
            return residual.view(means.shape) + means

        y_hat, _, _ = self._dual_prior(log2_step, log2_scales, means, read)
        y_coder.finish()
        return (y_hat * torch.exp2(log2_step)).float(), torch.cat(symbols)

    def _z_indexes(self, size: tuple[int, int] | torch.Size) -> Tensor:
        channels = torch.arange(self.prior_z.h.shape[1], dtype=torch.int32)
        return channels.repeat_interleave(size[0] * size[1])
