"""Noisy image -> code of the clean image: the scale hyperprior with a longer decoder.

Testolina, Upenik and Ebrahimi, "Towards image denoising in the latent space of learning-based compression" (SPIE
Applications of Digital Image Processing, 2021), the variant that JDC (arXiv 2307.06233) compares with.

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
    """CompressAI's conditional prior with a Laplace instead of a normal distribution; ``scales`` are its parameter
    b."""

    def _standardized_cumulative(self, inputs: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-inputs.abs())
        return torch.where(inputs < 0, tail, 1 - tail)

    @staticmethod
    def _standardized_quantile(quantile: float) -> float:
        return math.log(2 * quantile)  # only quantiles below 1/2 are used


class Testolina(DropIn):
    """``num_channels``, ``num_latents``: N and M of the hyperprior. In training, decoder and rate both see additive
    noise, as published."""

    margin = 192  # pixels: the four convolutions reach 8 latents further than a hyperprior's decoder
    __test__ = False  # pytest would collect the class because of its name

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
