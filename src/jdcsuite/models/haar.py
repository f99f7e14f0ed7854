"""Random transforms -> transforms initialised as an orthonormal Haar wavelet packet and its inverse.

differs from the papers: they initialise at random, because they can afford the thousands of steps that learning the
identity takes (`experiments/synthetic_awgn` compares the two). Here a codec is a linear transform coder at step 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.models.layers import DepthConv, ResidualDown, ResidualUp

# Orthonormal luma and two chroma axes, close to the colour KLT of photographs.
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# Variation of a colour inside a block: a first-order Markov model, fitted to the log energies of the 768 bands of 16x16
# blocks in photos_train (`experiments/starts/bands.py`). The plain correlation of neighbouring pixels is .98, but that
# misestimates the many weak bands, and those are the ones to choose between.
CORRELATION = 0.74
COLOUR_VARIANCES = (0.021, 0.00104, 0.00040)  # of samples in [0, 1]
BLOCK_VARIANCES = (0.19, 0.033, 0.0080)  # of block means, which the model above does not cover
SMALL = 0.01  # gain of branches that the packet does not use, to break symmetry
HAAR = {0: (1.0, 1.0), 1: (1.0, -1.0)}


@dataclass(frozen=True)
class Band:
    """One channel as a separable filter: colour axis, row vector and column vector."""

    colour: int
    rows: np.ndarray
    columns: np.ndarray

    @property
    def variance(self) -> float:
        """Expected energy of the channel for samples in [0, 1] minus 0.5."""
        of_block = BLOCK_VARIANCES[self.colour] * self.rows.sum() ** 2 * self.columns.sum() ** 2
        return COLOUR_VARIANCES[self.colour] * _energy(self.rows) * _energy(self.columns) + of_block

    def child(self, vertical: int, horizontal: int) -> Band:
        return Band(self.colour, _extend(self.rows, vertical), _extend(self.columns, horizontal))


def _extend(vector: np.ndarray, kind: int) -> np.ndarray:
    return np.concatenate([sign * vector for sign in HAAR[kind]]) / np.sqrt(2)


def _energy(vector: np.ndarray) -> float:
    lag = np.abs(np.subtract.outer(np.arange(len(vector)), np.arange(len(vector))))
    return float(vector @ CORRELATION**lag @ vector)


def _split(bands: list[Band], width: int) -> tuple[list[Band], Tensor]:
    """The ``width`` child bands of largest expected variance, and their taps (children, bands, 2, 2)."""
    children = [
        (band.child(v, h), i, torch.tensor(np.outer(HAAR[v], HAAR[h]) / 2))
        for i, band in enumerate(bands)
        for v in HAAR
        for h in HAAR
    ]
    kept = sorted(children, key=lambda child: -child[0].variance)[:width]
    taps = torch.zeros(len(kept), len(bands), 2, 2)
    for row, (_, parent, tap) in enumerate(kept):
        taps[row, parent] = tap
    return [child for child, _, _ in kept], taps


def packet(widths: Sequence[int]) -> tuple[list[Float[Tensor, "o i 2 2"]], Float[Tensor, "m"]]:
    """Kernels of stride 2 for each depth, from RGB on, that keep the ``widths`` bands of largest energy, and the
    expected energies of the last bands for samples in [0, 1] minus 0.5."""
    pixel = np.ones(1)
    bands, stages = [Band(colour, pixel, pixel) for colour in range(3)], []
    for width in widths:
        bands, taps = _split(bands, width)
        stages.append(taps if stages else torch.einsum("oiyx,ic->ocyx", taps, torch.tensor(COLOURS).to(taps)))
    return stages, torch.tensor([band.variance for band in bands])


@torch.no_grad()
def orthogonal_start(net: nn.Module) -> None:
    """Sets orthogonal kernels (except depthwise ones) and zero biases, in place."""
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        nn.init.zeros_(conv.bias)
        if conv.groups == 1:
            nn.init.orthogonal_(conv.weight)


@torch.no_grad()
def haar_start(g_a: nn.Sequential, g_s: nn.Sequential) -> Float[Tensor, "m"]:
    """Initialises an EVC analysis and synthesis in place and returns the expected energies of the latents. Channels and
    residual branches that the packet does not use keep a small random initialisation."""
    modules = [*g_a.modules(), *g_s.modules()]
    orthogonal_start(g_a)
    orthogonal_start(g_s)
    for block in (m for m in modules if isinstance(m, DepthConv)):
        for branch in (block.spatial, block.pointwise):
            [layer for layer in branch if isinstance(layer, nn.Conv2d)][-1].weight.mul_(SMALL)

    down, last = [layer for layer in g_a if isinstance(layer, ResidualDown)], g_a[-1].module
    stages, variances = packet([*(layer.skip.out_channels for layer in down), last.out_channels])
    for layer, weight in zip(down, stages, strict=False):
        _place(layer.skip.weight, weight)
        layer.body[2].weight.mul_(SMALL)
    last.weight.mul_(SMALL)
    # the right and lower taps of a 3x3 kernel cover the block, the others the block before it
    _place(last.weight[:, :, 1:, 1:], stages[-1])

    nn.init.zeros_(g_s[0].module.weight)[:, :, 0, 0].fill_diagonal_(1)
    up = [layer for layer in g_s if isinstance(layer, ResidualUp)]
    for layer, weight in zip(up, reversed(stages[1:]), strict=True):
        _place_transposed(layer.skip[0], weight)
        layer.body[2].weight.mul_(SMALL)
    _place_transposed(g_s[-1].module[0], stages[0])
    return variances


@torch.no_grad()
def haar_start_5x5(g_a: Sequence[nn.Conv2d], g_s: Sequence[nn.ConvTranspose2d]) -> Float[Tensor, "m"]:
    """As `haar_start` for 5x5 convolutions of stride 2, first to last. Channels that the packet does not use keep their
    random initialisation; the packet does not depend on them."""
    stages, variances = packet([conv.out_channels for conv in g_a])
    for conv, weight in zip(g_a, stages, strict=True):
        # taps 2 and 3 cover the block, the first two the block before it
        _place(conv.weight[:, :, 2:4, 2:4], weight, all_of=conv.weight)
    for conv, weight in zip(g_s, reversed(stages), strict=True):
        kernel = conv.weight.transpose(0, 1)
        _place(kernel[:, :, 2:4, 2:4], weight.transpose(0, 1), all_of=kernel)
    for conv in (*g_a, *g_s):
        nn.init.zeros_(conv.bias)
    return variances


def _place(kernel: Tensor, weight: Tensor, *, all_of: Tensor | None = None) -> None:
    """Writes ``weight`` (o, i, 2, 2) to the first outputs of ``kernel`` and zeros the rest of these outputs, in all of
    the kernel ``all_of`` of which ``kernel`` is a view."""
    outputs, inputs = weight.shape[:2]
    (kernel if all_of is None else all_of)[:outputs] = 0
    kernel[:outputs, :inputs] = weight


def _place_transposed(conv: nn.Conv2d, weight: Tensor) -> None:
    """Writes the transpose of ``weight`` (o, i, 2, 2) to a 1x1 convolution that a pixel shuffle follows."""
    outputs, inputs = weight.shape[:2]
    nn.init.zeros_(conv.weight)
    shuffled = conv.weight.view(-1, 4, conv.in_channels)
    shuffled[:inputs, :, :outputs] = weight.permute(1, 2, 3, 0).reshape(inputs, 4, outputs)
