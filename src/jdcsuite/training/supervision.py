"""Pair -> Pair whose ``noisy`` is the model's input and whose ``clean`` is the target of the loss.

A supervision decides which images of the data a method may look at. Whatever it does not look at is absent from the
Pair that it returns. ``smallest``, where it is set: side in pixels of the smallest crop that it accepts.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import nn

from jdcsuite import checks
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.types import Pair, UserError


class Supervised(nn.Module):
    """Input: the noisy image. Target: the clean image."""

    def forward(self, pair: Pair) -> Pair:
        return pair


class CleanInput(nn.Module):
    """Input and target: the clean image, as in plain compression. Ignores the noisy image."""

    def forward(self, pair: Pair) -> Pair:
        return replace(pair, noisy=pair.clean, bpp_noisy=pair.bpp_clean, sigma=torch.zeros_like(pair.sigma))


class NoisyTarget(nn.Module):
    """Input and target: the noisy image. Ignores the clean image."""

    def forward(self, pair: Pair) -> Pair:
        return replace(pair, clean=pair.noisy, bpp_clean=None)


class Recorrupted(nn.Module):
    """Input: noisy + alpha * n'. Target: noisy - n' / alpha. n' is new Gaussian noise of the same sigma. Ignores the
    clean image.

    Pang et al., "Recorrupted-to-Recorrupted" (CVPR 2021), eq. (6): unbiased for Gaussian noise of known sigma. Samples
    that clipping to 8 bits saturated do not have Gaussian noise, so their ``weight`` is 0.
    """

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = checks.number("criterion.supervision.alpha", alpha, above=0)

    def forward(self, pair: Pair) -> Pair:
        extra = torch.randn_like(pair.noisy) * (pair.sigma / 255)[:, None, None, None]
        unsaturated = ((pair.noisy > 0) & (pair.noisy < 1)).to(pair.noisy)
        noisier, target = pair.noisy + self.alpha * extra, pair.noisy - extra / self.alpha
        return replace(pair, noisy=noisier, clean=target, bpp_clean=None, weight=unsaturated)


class Taught(nn.Module):
    """Input: the noisy image. Target: the output of a frozen ``teacher`` for it. Ignores the clean image.

    JDC-UD (Brummer and De Vleeschouwer, arXiv 2307.06233): crops are kept where MS-SSIM(target, input) is greater than
    ``min_ms_ssim``. A crop that is not kept is replaced by a kept one of the same batch; if none qualifies, all are
    kept. None: no threshold, which also allows crops smaller than the 176 pixels that MS-SSIM needs.

    differs from the paper: the teacher sees the crop, not the whole image, because its output then need not be stored
    (`jdc predenoise` and jdc_ud_whole do as the paper does).
    """

    def __init__(self, *, teacher: nn.Module | None = None, min_ms_ssim: float | None = 0.8) -> None:
        super().__init__()
        if min_ms_ssim is not None:
            checks.number("min_ms_ssim", min_ms_ssim, least=0, under=1)
        self.teacher, self.min_ms_ssim = teacher, min_ms_ssim
        self.smallest = 1 if min_ms_ssim is None else SMALLEST
        if teacher is not None:
            teacher.requires_grad_(False)

    @torch.no_grad()
    def forward(self, pair: Pair) -> Pair:
        if self.teacher is None:
            raise UserError("a taught codec needs a teacher: use +experiment=jdc_ud, which trains one")
        self.teacher.eval()  # Lightning puts all submodules of a task into training mode
        target = self.teacher(pair.noisy, sigma=pair.sigma, bpp_noisy=pair.bpp_noisy).x_hat.float().clamp(0, 1)
        taught = replace(pair, clean=target, bpp_clean=None)
        if self.min_ms_ssim is None:
            return taught
        kept = ms_ssim(target, pair.noisy) > self.min_ms_ssim
        order = torch.argsort(~kept, stable=True)  # kept crops first, in their order
        count = torch.where(kept.any(), kept.sum(), len(kept))
        place = torch.arange(len(kept), device=kept.device)
        source = torch.where(kept | ~kept.any(), place, order[place % count])
        tensors = {f.name: getattr(taught, f.name) for f in fields(taught)}
        return replace(taught, **{name: t[source] for name, t in tensors.items() if torch.is_tensor(t)})
