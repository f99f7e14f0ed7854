"""Output + Pair -> loss parts: what training minimises.

A criterion has two methods. `prepare` turns a Pair of the data into the one that is used: input in ``noisy``, target in
``clean`` (see `supervision`). `forward` returns the parts of the loss: ``loss``, a scalar with gradient, and detached
batch means for the log. ``smallest``, where it is set: side in pixels of the smallest crop for which it is defined.

Criteria of codecs have the form bpp + lmbda * distance. The distance is the MSE over RGB in [0, 1] or 1 - MS-SSIM, both
of the unclamped reconstruction.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.coding.codec import Codec
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.training.supervision import NoisyTarget
from jdcsuite.types import Output, Pair, UserError

Parts = dict[str, Tensor]


def mse(x_hat: Tensor, pair: Pair) -> Tensor:
    """Mean squared error of each image against ``pair.clean``, weighted by ``pair.weight``: shape (b,)."""
    error = (x_hat.float() - pair.clean) ** 2
    if pair.weight is None:
        return error.flatten(1).mean(1)
    return (error * pair.weight).flatten(1).sum(1) / pair.weight.flatten(1).sum(1).clamp(min=1)


class RateDistortion(nn.Module):
    """bpp + lmbda * distance to the target that ``supervision`` chooses, + the auxiliary loss of models that have one.

    ``distance``: mse, or ms_ssim (1 - MS-SSIM), which needs other values of lmbda (CompressAI: 2.4 to 220) and refuses
    a Pair with a ``weight``, because it cannot ignore single samples."""

    def __init__(self, *, lmbda: float, supervision: nn.Module, distance: str = "mse") -> None:
        super().__init__()
        checks.number("lmbda", lmbda, above=0)
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
        loss = bpp + self.lmbda * error
        if output.auxiliary is not None:
            loss = loss + output.auxiliary
            parts["auxiliary"] = output.auxiliary.mean().detach()
        return {"loss": loss.mean(), **parts}


class EntropyGuided(nn.Module):
    """FLLIC-w: the smallest MSE to the noisy image at the rate that the guide predicts for the clean image.

    Minimises MSE(x_hat, noisy) subject to bpp = ``rate_scale`` * H_hat for each crop (``target`` codec or lossless:
    what the guide was trained to predict). The loss is bpp + mu * MSE, so the priors always minimise bits. Dual ascent
    moves log mu by ``dual_rate`` times the mean rate shortfall of the batch at every step, starting at log ``lmbda``.
    Each crop multiplies mu by exp(``lean`` * its own shortfall), so that the constraint holds for each crop.
    ``target`` distortion uses no entropy: the constraint is mean (x_hat - noisy)^2 = sigma_eff^2, the variance of the
    clipped noise.

    differs from the paper (arXiv 2401.13616, eq. (2)): the paper adds lambda |bpp - H| as a penalty, which is used here
    only with ``as_written``, as |bpp - rate_scale * H_hat| + lmbda * MSE, because it makes all low rungs collapse to
    one point and, below H, trains the priors to waste bits.
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
        checks.number("lmbda", lmbda, above=0)
        checks.number("rate_scale", rate_scale, above=0)
        checks.number("criterion.dual_rate", dual_rate, least=0)
        checks.number("criterion.lean", lean, least=0)
        checks.choice("target", target, ("codec", "lossless", "distortion"))
        if as_written and target == "distortion":
            raise UserError("as_written=true is a penalty on the rate: it needs target=codec or target=lossless")
        if rate_scale != 1 and target == "distortion":
            raise UserError(
                f"rate_scale={rate_scale} has no effect with target=distortion, which sets no rate: leave it out"
            )
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
        """Log ratio of required to spent rate (of error to noise power) per crop; positive asks for more bits."""
        if self.target == "distortion":
            return torch.log(error / self._noise_power(pair))
        return torch.log((self.rate_scale * output.h_hat).clamp(min=0.01) / bpp.clamp(min=0.001))

    @staticmethod
    def _noise_power(pair: Pair) -> Tensor:
        """sigma_eff^2 of each crop in [0, 1] units: the power of the noise after clipping and rounding to 8 bits.

        The variance of a clipped Gaussian at the mean pixel values, which are unknown here and replaced by the noisy
        ones; rounding adds 1/12 of a squared grey level.
        """
        sigma = (pair.sigma.clamp(min=1e-3) / 255)[:, None, None, None]  # at 0 only rounding is left
        normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)  # validation would synchronise the device
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
            torch.distributed.all_reduce(mean)  # mu is the same on every rank
            mean /= torch.distributed.get_world_size()
        self.log_mu += torch.where(mean.isfinite(), self.dual_rate * mean.clamp(-2, 2), 0.0)


class Denoising(nn.Module):
    """Distance between a denoiser's output, unclamped, and the clean image. ``distance``: mse, l1 or ms_ssim (1 -
    MS-SSIM)."""

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
    """Smooth-L1 between predicted and true entropy of the clean image, in bits per pixel.

    The true value is the rate that the frozen, supervised ``codec`` spends on the noisy crop (``target=codec``), or
    without a codec the lossless code length of the clean crop (``target=lossless``). Only the training of this network
    uses clean images; the codec that it guides is trained on noisy ones.
    """

    def __init__(self, *, codec: Codec | None = None) -> None:
        super().__init__()
        self.codec = codec
        if codec is not None:
            codec.requires_grad_(False)

    @torch.no_grad()
    def prepare(self, pair: Pair) -> Pair:
        """Puts the true value of each image into ``bpp_clean``."""
        if self.codec is not None:
            self.codec.eval()  # Lightning puts all submodules of a task into training mode
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
    """Detached batch means for the log; bpp and MSE of each image, shape (b,), with gradient."""
    height, width = pair.noisy.shape[-2:]
    rates = output.bpp(height * width)
    bpp, error = torch.stack(list(rates.values())).sum(0), mse(output.x_hat, pair)
    parts = {"bpp": bpp.mean(), "mse": error.mean(), **{f"bpp_{name}": r.mean() for name, r in rates.items()}}
    return {name: value.detach() for name, value in parts.items()}, bpp, error


def _smallest_crop(distance: str, *options: str) -> int:
    """Side in pixels of the smallest crop that a distance accepts. UserError: the distance is not an option."""
    return SMALLEST if checks.choice("criterion.distance", distance, options) == "ms_ssim" else 1


def _differentiable_ms_ssim(x_hat: Tensor, clean: Tensor) -> Tensor:
    if min(x_hat.shape[-2:]) < SMALLEST:
        raise UserError(f"criterion.distance=ms_ssim needs crops of {SMALLEST} pixels or more: set data.crop")
    return ms_ssim(x_hat, clean)
