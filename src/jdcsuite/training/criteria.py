"""Output + Pair -> loss parts. A criterion says what supervises (`prepare`) and what is minimised (`forward`).

Every codec criterion has the form bpp + lmbda * distance: the MSE over RGB in [0, 1] or 1 - MS-SSIM, of the unclamped
reconstruction. Parts: ``loss`` with gradient; the others are detached figures for the log, batch means.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdcsuite.coding.codec import Codec
from jdcsuite.data.quality import SMALLEST, ms_ssim
from jdcsuite.types import Output, Pair, UserError

Parts = dict[str, Tensor]


def mse(x_hat: Tensor, pair: Pair) -> Tensor:
    """Mean squared error of each picture against ``pair.clean``, over the samples that its weight trusts."""
    error = (x_hat.float() - pair.clean) ** 2
    if pair.weight is None:
        return error.flatten(1).mean(1)
    return (error * pair.weight).flatten(1).sum(1) / pair.weight.flatten(1).sum(1).clamp(min=1)


# -- what supervises: Pair -> Pair whose `noisy` is the input and whose `clean` is the target -------------------


class Supervised(nn.Module):
    """The clean picture is the target."""

    def forward(self, pair: Pair) -> Pair:
        return pair


class CleanInput(nn.Module):
    """The clean picture is input and target: plain compression; the noisy one is not looked at."""

    def forward(self, pair: Pair) -> Pair:
        return replace(pair, noisy=pair.clean, sigma=torch.zeros_like(pair.sigma))


class NoisyTarget(nn.Module):
    """The noisy picture is input and target; the clean one is not looked at."""

    def forward(self, pair: Pair) -> Pair:
        return replace(pair, clean=pair.noisy)


class Recorrupted(nn.Module):
    """Input noisy + alpha n', target noisy - n' / alpha, with n' of the noise's own sigma; the clean picture is
    not looked at.

    Pang et al., "Recorrupted-to-Recorrupted" (CVPR 2021), eq. (6): unbiased for Gaussian noise of known sigma.
    Where clipping to 8 bits saturated a sample its noise is not Gaussian, so it is masked out.
    """

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, pair: Pair) -> Pair:
        extra = torch.randn_like(pair.noisy) * (pair.sigma / 255)[:, None, None, None]
        trusted = ((pair.noisy > 0) & (pair.noisy < 1)).to(pair.noisy)
        noisier, target = pair.noisy + self.alpha * extra, pair.noisy - extra / self.alpha
        return replace(pair, noisy=noisier, clean=target, weight=trusted)


class Taught(nn.Module):
    """The frozen ``teacher``'s picture is the target; the clean one is not looked at.

    JDC-UD (Brummer and De Vleeschouwer, arXiv 2307.06233): kept where MS-SSIM(target, input) exceeds ``min_ms_ssim``.
    The place of a crop that is not kept is given to one of the same batch that is; without any, all are kept. None: no
    threshold, for crops of fewer than ``smallest`` pixels, where MS-SSIM is undefined.

    differs from the paper: the teacher sees the crop, not the whole picture, because its output need not be stored
    then (`jdc predenoise` and jdc_ud_whole are the paper's way).
    """

    def __init__(self, *, teacher: nn.Module | None = None, min_ms_ssim: float | None = 0.8) -> None:
        super().__init__()
        usable = isinstance(min_ms_ssim, int | float) and not isinstance(min_ms_ssim, bool) and 0 <= min_ms_ssim < 1
        if min_ms_ssim is not None and not usable:
            raise UserError(f"min_ms_ssim={min_ms_ssim} is not usable: give 0 or more, under 1")
        self.teacher, self.min_ms_ssim = teacher, min_ms_ssim
        self.smallest = 1 if min_ms_ssim is None else SMALLEST
        if teacher is not None:
            teacher.requires_grad_(False)

    @torch.no_grad()
    def forward(self, pair: Pair) -> Pair:
        if self.teacher is None:
            raise UserError("a taught codec needs a teacher: use +experiment=jdc_ud, which trains one")
        self.teacher.eval()  # Lightning puts all of a task into training mode
        target = self.teacher(pair.noisy, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy).x_hat.float().clamp(0, 1)
        if self.min_ms_ssim is None:
            return replace(pair, clean=target)
        kept = ms_ssim(target, pair.noisy) > self.min_ms_ssim
        # stable: the kept ones first, in their order; a batch without any keeps all
        order = torch.argsort(~kept, stable=True)
        count = torch.where(kept.any(), kept.sum(), len(kept))
        place = torch.arange(len(kept), device=kept.device)
        chosen = torch.where(kept | ~kept.any(), place, order[place % count])
        return replace(pair, noisy=pair.noisy[chosen], clean=target[chosen], sigma=pair.sigma[chosen])


# -- what is minimised -----------------------------------------------------------------------------------------


class RateDistortion(nn.Module):
    """bpp + lmbda * distance to the target that ``supervision`` chooses. ``lmbda`` above 0.

    ``distance``: mse, or ms_ssim (1 - MS-SSIM), whose lmbdas are other ones: CompressAI trains at 2.4 to 220. It cannot
    leave single samples out, so it refuses pairs with a weight. ``smallest``: side in pixels of the smallest crop for
    which it and the supervision are defined."""

    def __init__(self, *, lmbda: float, supervision: nn.Module, distance: str = "mse") -> None:
        super().__init__()
        _positive(lmbda=lmbda)
        self.smallest = max(_smallest_crop(distance, "mse", "ms_ssim"), getattr(supervision, "smallest", 1))
        self.lmbda, self.supervision, self.distance = lmbda, supervision, distance

    def prepare(self, pair: Pair) -> Pair:
        return self.supervision(pair)

    def forward(self, output: Output, pair: Pair) -> Parts:
        parts, bpp, error = rate_and_distortion(output, pair)
        if self.distance == "ms_ssim":
            if pair.weight is not None:
                raise UserError(
                    "criterion.distance=ms_ssim cannot leave out clipped samples, as fllic_r2r does: use mse"
                )
            error = 1 - _differentiable_ms_ssim(output.x_hat, pair.clean)
            parts["ms_ssim"] = (1 - error).mean().detach()
        return {"loss": (bpp + self.lmbda * error).mean(), **parts}


class EntropyGuided(nn.Module):
    """FLLIC-w: the least MSE to the noisy picture at the rate that the guide predicts for the clean one.

    min MSE(x_hat, noisy) subject to bpp = ``rate_scale`` * H_hat for each crop (``target`` codec or lossless: what
    the guide was trained to predict), solved as bpp + mu MSE. log mu follows the batch's mean shortfall of rate
    by dual ascent (``dual_rate`` a step), starting at ``lmbda``; a crop's own mu leans by ``lean`` times its own
    log shortfall, so that the constraint holds crop by crop. Priors always minimise bits.
    ``target`` distortion: no entropy; the constraint is mean (x_hat - noisy)^2 = sigma_eff^2, the variance of
    the noise as clipping left it.

    differs from the paper (arXiv 2401.13616, eq. (2)): it adds lambda |bpp - H| as a penalty, which drives every low
    rung to one point and below H trains the prior to waste bits; ``as_written`` is that penalty, as
    |bpp - rate_scale H_hat| + lmbda MSE.
    """

    def __init__(
        self,
        *,
        lmbda: float,
        target: str,
        rate_scale: float = 1.0,
        as_written: bool = False,
        dual_rate: float = 0.01,
        lean: float = 1.0,
    ) -> None:
        super().__init__()
        _positive(lmbda=lmbda, rate_scale=rate_scale)
        if target not in ("codec", "lossless", "distortion"):
            raise UserError(f"target={target} is unknown: choose codec, lossless or distortion")
        if as_written and target == "distortion":
            raise UserError("as_written=true is a penalty on the rate: it needs target=codec or target=lossless")
        self.lmbda, self.target, self.rate_scale, self.as_written = lmbda, target, rate_scale, as_written
        self.dual_rate, self.lean = dual_rate, lean
        self.register_buffer("log_mu", torch.tensor(math.log(lmbda)))

    def prepare(self, pair: Pair) -> Pair:
        return NoisyTarget()(pair)

    def forward(self, output: Output, pair: Pair) -> Parts:
        parts, bpp, error = rate_and_distortion(output, pair)
        if self.as_written:
            rate = self.rate_scale * output.h_hat
            return {
                "loss": ((bpp - rate).abs() + self.lmbda * error).mean(),
                "h_hat": output.h_hat.mean(),
                **parts,
            }
        shortfall = self._shortfall(output, pair, bpp, error)
        mu = torch.exp(self.log_mu + self.lean * shortfall.clamp(-2, 2))
        loss = (bpp + mu * error).mean()
        self._ascend(shortfall)
        return {"loss": loss, "mu": self.log_mu.exp(), "shortfall": shortfall.mean(), **parts}

    @torch.no_grad()
    def _shortfall(self, output: Output, pair: Pair, bpp: Tensor, error: Tensor) -> Tensor:
        """Log of how far each crop is on the cheap side of its constraint; above 0 asks for more bits."""
        if self.target == "distortion":
            return torch.log(error / self._noise_power(pair))
        return torch.log((self.rate_scale * output.h_hat).clamp(min=0.01) / bpp.clamp(min=0.001))

    @staticmethod
    def _noise_power(pair: Pair) -> Tensor:
        """sigma_eff^2 of each crop in [0, 1] units, from sigma alone: what clipping to 8 bits leaves of it.

        The variance of a clipped Gaussian, averaged over the noisy picture's own values in place of the clean
        ones; rounding adds 1/12 of a squared grey level.
        """
        sigma = (pair.sigma.clamp(min=1e-3) / 255)[:, None, None, None]  # at 0 only rounding is left
        normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)  # looking at the values waits for the device
        low, high = (0 - pair.noisy) / sigma, (1 - pair.noisy) / sigma

        def density(t: Tensor) -> Tensor:
            return torch.exp(normal.log_prob(t))

        inside = normal.cdf(high) - normal.cdf(low) - high * density(high) + low * density(low)
        power = inside + low**2 * normal.cdf(low) + high**2 * (1 - normal.cdf(high))
        return (power * sigma**2).flatten(1).mean(1) + 1 / 12 / 255**2

    @torch.no_grad()
    def _ascend(self, shortfall: Tensor) -> None:
        if not self.training:
            return
        mean = shortfall.mean()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)  # every rank keeps the same mu
            mean /= torch.distributed.get_world_size()
        self.log_mu += torch.where(mean.isfinite(), self.dual_rate * mean.clamp(-2, 2), 0.0)


class Denoising(nn.Module):
    """Distance of a denoiser's picture to the clean one. ``distance``: mse, l1 or ms_ssim (1 - MS-SSIM, on crops of
    176 pixels or more), of the unclamped picture."""

    def __init__(self, *, distance: str = "mse") -> None:
        super().__init__()
        self.smallest = _smallest_crop(distance, "mse", "l1", "ms_ssim")
        self.distance = distance

    def prepare(self, pair: Pair) -> Pair:
        return pair

    def forward(self, output: Output, pair: Pair) -> Parts:
        x_hat = output.x_hat.float()
        error = mse(x_hat, pair).mean()
        if self.distance == "ms_ssim":
            loss = 1 - _differentiable_ms_ssim(x_hat, pair.clean).mean()
        else:
            loss = error if self.distance == "mse" else F.l1_loss(x_hat, pair.clean)
        return {"loss": loss, "mse": error.detach()}


class EntropyRegression(nn.Module):
    """Smooth-L1 between the predicted and the true entropy of the clean picture, in bits per pixel.

    ``codec``: the frozen supervised codec whose spent rate on the noisy crop is the truth (``target=codec``);
    None: the lossless code length of the clean crop (``target=lossless``). The net may see clean pictures; the
    codec that it guides sees noisy ones only.
    """

    def __init__(self, *, codec: Codec | None = None) -> None:
        super().__init__()
        self.codec = codec
        if codec is not None:
            codec.requires_grad_(False)

    @torch.no_grad()
    def prepare(self, pair: Pair) -> Pair:
        """The truth as ``bpp_clean``: what the net should say of each picture, bits per pixel."""
        if self.codec is not None:
            self.codec.eval()  # Lightning puts all of a task into training mode
            height, width = pair.noisy.shape[-2:]
            rates = self.codec(pair.noisy, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy).bpp(height * width)
            return replace(pair, bpp_clean=torch.stack(list(rates.values())).sum(0))
        if pair.bpp_clean is None:
            raise UserError("target=lossless needs H(clean): set data.lossless to a coder")
        return pair

    def forward(self, output: Output, pair: Pair) -> Parts:
        return {
            "loss": F.smooth_l1_loss(output.h_hat, pair.bpp_clean),
            "rmse": F.mse_loss(output.h_hat, pair.bpp_clean).sqrt().detach(),
            "h_clean": pair.bpp_clean.mean(),
        }


def rate_and_distortion(output: Output, pair: Pair) -> tuple[Parts, Tensor, Tensor]:
    height, width = pair.noisy.shape[-2:]
    rates = output.bpp(height * width)
    bpp, error = torch.stack(list(rates.values())).sum(0), mse(output.x_hat, pair)
    parts = {"bpp": bpp.mean(), "mse": error.mean(), **{f"bpp_{name}": r.mean() for name, r in rates.items()}}
    return {name: value.detach() for name, value in parts.items()}, bpp, error


def _smallest_crop(distance: str, *known: str) -> int:
    """Side in pixels of the smallest crop that a distance allows. UserError where it is not ``known``."""
    if distance not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UserError(f"criterion.distance={distance} is unknown: choose {names}")
    return SMALLEST if distance == "ms_ssim" else 1


def _differentiable_ms_ssim(x_hat: Tensor, clean: Tensor) -> Tensor:
    if min(x_hat.shape[-2:]) < SMALLEST:
        raise UserError(f"criterion.distance=ms_ssim needs crops of {SMALLEST} pixels or more: set data.crop")
    return ms_ssim(x_hat, clean)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name}={value} is not usable: give a number above 0")
