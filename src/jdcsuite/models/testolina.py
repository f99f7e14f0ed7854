"""Noisy picture -> code of its clean one: the scale hyperprior with a longer decoder.

Testolina, Upenik and Ebrahimi, "Towards image denoising in the latent space of learning-based compression" (SPIE
Applications of Digital Image Processing, 2021), as JDC (arXiv 2307.06233) compares with it.

    x -> [CompressAI's ScaleHyperprior] -> y_hat -> four 5x5 convolutions -> g_s -> x_hat
"""

from __future__ import annotations

import math

import torch
from compressai.entropy_models import GaussianConditional
from compressai.models.google import get_scale_table
from compressai.models.utils import deconv
from torch import Tensor, nn

from jdcsuite.models.drop_in import DropIn


class LaplaceConditional(GaussianConditional):
    """CompressAI's conditional prior with the Laplace distribution in place of the normal one; ``scales`` are its b."""

    def _standardized_cumulative(self, inputs: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-inputs.abs())
        return torch.where(inputs < 0, tail, 1 - tail)

    @staticmethod
    def _standardized_quantile(quantile: float) -> float:
        return math.log(2 * quantile)  # of the lower half, the only one that is asked for


class Testolina(DropIn):
    """``num_channels``, ``num_latents``: N and M of the hyperprior. Decoder and rate both see additive noise when
    training, as published.
    """

    margin = 192  # pixels: the four convolutions look 8 latents further
    __test__ = False  # no test class, whatever pytest makes of the name

    def __init__(self, *, num_channels: int = 192, num_latents: int = 256) -> None:
        super().__init__(architecture="ScaleHyperprior", num_channels=num_channels, num_latents=num_latents)
        n, m = num_channels, num_latents
        refine: list[nn.Module] = []
        for inputs in (m, n, n, n):
            refine += [nn.Conv2d(inputs, n, 5, padding=2), nn.ReLU()]
        self.net.g_s = nn.Sequential(*refine, deconv(n, n), *list(self.net.g_s)[1:])
        self.net.gaussian_conditional = LaplaceConditional(None)
        self.net.gaussian_conditional.scale_table = get_scale_table()
        self._keep_tables_apart()
