"""Latents y -> bytes -> y_hat under a hyperprior with adaptive steps and two or four passes over interleaved positions;
shared by FLLIC and the flagship.

EVC's dual prior (Wang et al., ICLR 2023, arXiv 2302.05071, section 3.2) with the quantisation steps of FLLIC (Zhang and
Wu, arXiv 2401.13616, 2024, section III-C). The passes are in `models.spatial_prior`.

    y -> h_a -> z -> [z prior] -> h_s -> fusion(, planes) -> step, scales, means
    y / step -> passes [means and scales; both from the spatial prior after the first] -> y_hat

``planes``: side information in the header of the file (entropy guide; quality, noise and strength), one constant
channel each. When coding, the networks between bits and symbols (h_s, fusion, spatial prior) are computed in float64,
exactly on every machine (`entropy.exact`). Steps and scales stay logarithms on this path, because exp2 is not exact.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.tiling import in_windows
from jdcsuite.coding.transform import LARGE, TransformCodec
from jdcsuite.entropy.coder import MAX_SYMBOL, Decoder, Encoder, Tables, channel_indexes
from jdcsuite.entropy.priors import RESIDUALS, MonotoneCDF
from jdcsuite.entropy.quantize import LowerBound, add_noise, compand, round_ste
from jdcsuite.models.haar import SMALL, orthogonal_start
from jdcsuite.models.layers import DepthConv, Float32, conv1x1, conv3x3, exact1x1, subpixel
from jdcsuite.models.spatial_prior import SpatialPrior, companded
from jdcsuite.types import Side

LOWEST_STEP, LOWEST_SCALE, HIGHEST_SCALE = -1.0, -3.25, 14.0  # log2

TRAINING_RATES = ("noise", "symbols")
Z_MARGIN = 3  # how far a result of `_entropy_parameters` depends on z: three 3x3 convolutions

# Codes the latents at a mask: (means, log2 scales, mask) in step units -> y_hat in step units at the mask.
Coding = Callable[[Tensor, Tensor, Tensor], Tensor]


class DualPriorCodec(TransformCodec):
    """Base of the codecs with a dual prior; their constructors call `_build_prior`.

    differs from EVC: means, scales and steps are the output of a 1x1 convolution, because the depth-conv blocks then
    keep the width of the prior.
    """

    stride = 64
    segment_names = ("z", "y")
    prior_networks = ("h_s", "fusion", "spatial_prior")

    def _build_prior(
        self,
        *,
        num_latents: int,
        prior_width: int,
        planes: int,
        adaptive_steps: bool = True,
        magnitudes: bool = False,
        passes: int = 2,
        residuals: str = "gaussian",
        training_rate: str = "noise",
    ) -> None:
        """``num_latents``: channels of y at 1/16. ``prior_width``: channels of z and of the prior networks. ``planes``:
        number of side-information planes. ``adaptive_steps``: False is FLLIC-u, in which every step is 1.
        ``magnitudes``: h_a and the spatial prior are also given the absolute values of the latents, as the hyperprior
        of Balle et al. (ICLR 2018), because scales depend on them. ``passes``: 2, or 4, where the spatial prior is
        also told which latents it knows. ``residuals``: the distribution of latents around their means, "gaussian" or
        "logistic". ``training_rate``: "noise" or "symbols", see `_likelihoods`."""
        checks.choice("model.residuals", residuals, RESIDUALS)
        self.training_rate = checks.choice("model.training_rate", training_rate, TRAINING_RATES)
        m, n = num_latents, prior_width
        self.num_latents, self.adaptive_steps, self.magnitudes = m, adaptive_steps, magnitudes
        self.h_a = nn.Sequential(
            conv1x1((1 + magnitudes) * m, n), DepthConv(n, n, prior=True),
            conv3x3(n, n, stride=2), nn.LeakyReLU(0.1), conv3x3(n, n, stride=2),
        )  # fmt: skip
        self.h_s = nn.Sequential(
            DepthConv(n, n, prior=True), subpixel(n, n, exact=True),
            DepthConv(n, n, prior=True), subpixel(n, n, exact=True),
            DepthConv(n, n, prior=True),
        )  # fmt: skip
        self.fusion = nn.Sequential(
            DepthConv(n + planes, 2 * n, prior=True),
            DepthConv(2 * n, 2 * n, prior=True),
            Float32(exact1x1(2 * n, 3 * m)),
        )
        self.spatial_prior = SpatialPrior(num_latents=m, width=2 * n, passes=passes, magnitudes=magnitudes)
        self.prior_z = MonotoneCDF(num_distributions=n)
        self.prior_y = RESIDUALS[residuals]()
        self.log2_channel_step = nn.Parameter(torch.zeros(1, m, 1, 1), requires_grad=adaptive_steps)
        self.bound_step = LowerBound(LOWEST_STEP)
        self.bound_scale = LowerBound(LOWEST_SCALE)

    @torch.no_grad()
    def _start_prior(self) -> None:
        """Initialises steps and scales close to 1 and means close to 0."""
        for net in (self.h_a, self.h_s, self.fusion, self.spatial_prior):
            orthogonal_start(net)
        for head in (self.fusion[-1], self.spatial_prior[-1]):
            head.module.weight.mul_(SMALL)

    @abstractmethod
    def planes(self, side: Side) -> Float[Tensor, "1 p"]:
        """Side information as input of the prior networks, scaled to about 0 to 1: float64, the same bits
        everywhere."""

    # -- shared by training and coding -------------------------------------------------------------------------

    def _entropy_parameters(self, z_hat: Tensor, planes: Float[Tensor, "b p"]) -> tuple[Tensor, Tensor, Tensor]:
        """z_hat and `planes` -> log2 of the step (in channel steps), log2 of the scales and means (in steps). In
        float64, the bits are the same on every machine."""
        features = self.h_s(compand(z_hat))
        constant = planes.to(features)[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        log2_step, log2_scales, means = self.fusion(torch.cat([features, constant], 1)).chunk(3, 1)
        log2_step = self._bounded(log2_step, self.bound_step) if self.adaptive_steps else torch.zeros_like(log2_step)
        return log2_step, self._bounded(log2_scales, self.bound_scale), means

    def _hyper_latents(self, y: Float[Tensor, "b m hy wy"]) -> Float[Tensor, "b n hz wz"]:
        return self.h_a(torch.cat(companded(y, magnitudes=self.magnitudes), 1))

    @staticmethod
    def _bounded(log2: Tensor, lower: LowerBound) -> Tensor:
        return lower(log2.clamp(max=HIGHEST_SCALE))

    def _dual_prior(
        self, log2_step: Tensor, log2_scales: Tensor, means: Tensor, code: Coding
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes the latents in passes, each given those before it; returns y_hat, log2 scales and means, all in
        steps."""
        coding = means.dtype == torch.float64  # training has no use for exact sums, and no time to look for them
        side = self._window(means, 4) if coding and self.exact else None
        context = self.spatial_prior.context([compand(means), log2_scales, log2_step], exact_side=side)
        mask = self.spatial_prior.mask(0, means)
        first, y_hat = means, code(means, log2_scales, mask) * mask
        for number in range(1, self.spatial_prior.passes):
            scales, corrections = self.spatial_prior(context, y_hat, number)
            mask = self.spatial_prior.mask(number, means)
            log2_scales = torch.where(mask, self._bounded(scales, self.bound_scale), log2_scales)
            means = torch.where(mask, first + corrections, means)
            y_hat = torch.where(mask, code(means, log2_scales, mask), y_hat)
        return y_hat, log2_scales, means

    # -- training ----------------------------------------------------------------------------------------------

    def _relaxed(
        self, y: Float[Tensor, "b m hy wy"], planes: Float[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b m hy wy"], dict[str, Tensor]]:
        """y in channel steps -> y_hat with a straight-through gradient, and the likelihoods of y and z."""
        z = self._hyper_latents(y).float()
        with torch.autocast(y.device.type, enabled=False):
            p_z = self.prior_z(round_ste(z) if self.training_rate == "symbols" else self._relax(z))
        log2_step, log2_scales, means = self._entropy_parameters(round_ste(z), planes)
        step = torch.exp2(log2_step)
        v = y / step
        y_hat, log2_scales, means = self._dual_prior(
            log2_step, log2_scales, means, lambda means, log2_scales, mask: round_ste(v - means) + means
        )
        p_y = self._likelihoods(v - means, torch.exp2(log2_scales))
        # The step is applied outside the straight-through rounding; inside, its distortion gradient would vanish.
        return y_hat * step, {"y": p_y, "z": p_z}

    def _likelihoods(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Of the rounded symbols; in training with ``training_rate`` "noise" of residuals with additive noise, as in
        FLLIC. Noise makes a latent that is always 0 cost about .15 bits, and makes scales fit it and not the symbols.
        With "symbols", value and gradient of the scales are those of the symbols, and the gradient of latents and means
        that under additive noise, because the symbols are constant between their jumps."""
        if not self.training or self.training_rate == "noise":
            return self.prior_y(self._relax(residual), scale)
        relaxed = self.prior_y(add_noise(residual), scale.detach())
        return self.prior_y(torch.round(residual).detach(), scale) * (relaxed / relaxed.detach())

    def _relax(self, v: Tensor) -> Tensor:
        return add_noise(v) if self.training else torch.round(v)

    # -- coding ------------------------------------------------------------------------------------------------

    def make_tables(self) -> dict[str, Tables]:
        return {"y": self.prior_y.tables(), "z": self.prior_z.tables()}

    def table_counts(self) -> dict[str, int]:
        return {"y": self.prior_y.levels, "z": self.prior_z.h.shape[1]}

    def estimate_tile(self, y: Float[Tensor, "1 m hy wy"], *, side: Side) -> float:
        _, likelihoods = self._relaxed(y, self.planes(side).to(y.device))
        return float(-sum(torch.log2(p.float()).sum() for p in likelihoods.values())) / 8

    def encode_tile(self, y: Float[Tensor, "1 m hy wy"], *, side: Side) -> tuple[list[bytes], Int[Tensor, "n"]]:
        z = checks.finite("this image's hyper-latents", self._hyper_latents(y))
        z = torch.round(z).clamp(-MAX_SYMBOL, MAX_SYMBOL).double()
        z_symbols = z.flatten().int().cpu()
        z_coder, y_coder, symbols = Encoder(), Encoder(), [z_symbols]
        z_coder.put(z_symbols, channel_indexes(z.shape[1], z.shape[-2:]), self.tables["z"])
        log2_step, log2_scales, means = self._coding_parameters(z, side)
        v = y / torch.exp2(log2_step)

        def write(means: Tensor, log2_scales: Tensor, mask: Tensor) -> Tensor:
            residual = torch.round(v - means).clamp(-MAX_SYMBOL, MAX_SYMBOL)
            at = mask.flatten().nonzero().squeeze(1)
            indexes, shifts = self.prior_y.index(log2_scales.flatten()[at])
            symbols.append(residual.flatten()[at].int().cpu())
            y_coder.put(symbols[-1], indexes, self.tables["y"], shifts=shifts.cpu())
            return residual + means

        self._dual_prior(log2_step, log2_scales, means, write)
        return [z_coder.segment(), y_coder.segment()], torch.cat(symbols)

    def _coding_parameters(
        self, z: Float[Tensor, "1 n hz wz"], side: Side, y_coder: Decoder | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`_entropy_parameters` for coding, in windows. ``y_coder``: its segment must be long enough for the latents of
        the first pass; a forged one of a large tile is not, and is refused after the first window."""
        planes, bits = self.planes(side).to(z), 0.0

        def parameters(rows: slice, columns: slice) -> Tensor:
            return torch.cat(self._entropy_parameters(z[..., rows, columns], planes), 1)

        def check(part: Tensor) -> None:
            nonlocal bits
            log2_scales = part.chunk(3, 1)[1]
            first = self.spatial_prior.mask(0, log2_scales)
            indexes, shifts = self.prior_y.index(log2_scales[first])
            bits += self.tables["y"].least_bits(indexes, shifts)
            y_coder.require(bits)

        whole = in_windows(
            parameters, *z.shape[-2:], side=self._window(z, 1), margin=Z_MARGIN, scale=4,
            check=None if y_coder is None else check,
        )  # fmt: skip
        return whole.chunk(3, 1)

    def _window(self, x: Tensor, scale: int) -> int:
        """Side of the windows of the networks between bits and symbols, ``scale`` values to one of z. Where these
        networks are not exact, windows could change their bits, so there is only one."""
        return LARGE // self.stride * scale if self.exact else max(x.shape[-2:])

    def decode_tile(
        self, segments: list[bytes], *, height: int, width: int, side: Side
    ) -> tuple[Float[Tensor, "1 m hy wy"], Int[Tensor, "n"]]:
        size = (height // 64, width // 64)
        z_coder, y_coder = (Decoder(segment) for segment in segments)
        symbols = [z_coder.get(channel_indexes(self.prior_z.h.shape[1], size), self.tables["z"])]
        z_coder.finish()  # before the networks allocate memory for latents that may not exist
        z = symbols[0].view(1, -1, *size).to(self.log2_channel_step.device).double()
        log2_step, log2_scales, means = self._coding_parameters(z, side, y_coder)

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
