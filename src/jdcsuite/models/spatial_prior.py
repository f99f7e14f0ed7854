"""Latents of the passes before and what z tells -> scales and means of the latents of the next pass; the second part of
`models.dual_prior`.

Latents are coded in two or four passes over interleaved positions: the checkerboards of EVC's dual prior (Wang et al.,
ICLR 2023, arXiv 2302.05071, section 3.2), or the quadtree partition of DCVC-DC (Li et al., CVPR 2023, arXiv
2302.14402).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jdcsuite.coding.tiling import in_windows
from jdcsuite.entropy.quantize import compand
from jdcsuite.models.layers import DepthConv, Float32, exact1x1
from jdcsuite.types import UserError

PASSES = (2, 4)
MARGIN = 2  # how far a result depends on the latents: two 3x3 convolutions


class Cell(NamedTuple):
    """Latents that are coded in one pass: those of a group of channels at one position of every square of 2x2."""

    rows: slice
    columns: slice
    channels: slice
    group: int


def cells(number: int, *, passes: int, num_latents: int) -> list[Cell]:
    """The four of pass ``number``. There are as many groups as passes; in every pass each position has one group, and
    each square an equal share of all. Of two groups, each is a half of the channels in order; of four, channel c
    belongs to group c mod 4, so that every group has low and high frequencies of all positions."""
    found = []
    for row in range(2):
        for column in range(2):
            diagonal = (row + column) % 2
            group = (number - (diagonal if passes == 2 else 2 * diagonal + row)) % passes
            half = num_latents // 2
            halves = slice(half * group, half if group == 0 else num_latents)
            channels = halves if passes == 2 else slice(group, num_latents, passes)
            found.append(Cell(slice(row, None, 2), slice(column, None, 2), channels, group))
    return found


def companded(y: Tensor, *, magnitudes: bool) -> list[Tensor]:
    """What the prior networks are given of latents."""
    signed = compand(y)
    return [signed, signed.abs()] if magnitudes else [signed]


@dataclass
class Context:
    """What a pass knows besides the latents. ``by_z``: companded means, log2 scales and log2 step, from z. ``sums``:
    output of the first convolution for them and the latents of all passes so far; None: computed as a whole each
    time. ``side``: of the windows."""

    by_z: list[Float[Tensor, "b m hy wy"]]
    sums: Float[Tensor, "b n hy wy"] | None = None
    side: int = 0


class SpatialPrior(nn.Sequential):
    """``num_latents``: channels m of the latents. ``width``: inner channels. ``passes``: 2, or 4, where it is also told
    which latents it knows. ``magnitudes``: also given the absolute values of the latents.

    Input channels: companded latents, means, log2 scales, log2 step (m each), m magnitudes if any, and of four passes
    one plane for each group, 1 where it is known.
    """

    def __init__(self, *, num_latents: int, width: int, passes: int, magnitudes: bool) -> None:
        if passes not in PASSES:
            raise UserError(f"model.passes={passes}: give 2 or 4")
        planes = 0 if passes == 2 else passes
        super().__init__(
            exact1x1((4 + magnitudes) * num_latents + planes, width),
            DepthConv(width, width, prior=True), DepthConv(width, width, prior=True),
            Float32(exact1x1(width, 2 * num_latents)),
        )  # fmt: skip
        self.num_latents, self.passes, self.magnitudes = num_latents, passes, magnitudes

    def cells(self, number: int) -> list[Cell]:
        return cells(number, passes=self.passes, num_latents=self.num_latents)

    def mask(self, number: int, like: Tensor) -> Bool[Tensor, "1 m hy wy"]:
        """Latents of pass ``number``."""
        mask = torch.zeros(1, self.num_latents, *like.shape[-2:], dtype=torch.bool, device=like.device)
        for cell in self.cells(number):
            mask[:, cell.channels, cell.rows, cell.columns].fill_(True)
        return mask

    def context(self, by_z: list[Float[Tensor, "b m hy wy"]], *, exact_side: int | None) -> Context:
        """Of the first call of an image. ``exact_side``: where sums of parts are the bits of the whole, so that each
        pass adds only what is new, the side of the windows that bound its memory; None elsewhere."""
        if exact_side is None:
            return Context(by_z)
        m = self.num_latents
        return Context(by_z, self[0].part(torch.cat(by_z, 1), inputs=torch.arange(m, 4 * m), bias=True), exact_side)

    def forward(
        self, context: Context, y_hat: Float[Tensor, "b m hy wy"], number: int
    ) -> tuple[Float[Tensor, "b m hy wy"], Float[Tensor, "b m hy wy"]]:
        """log2 scales and corrections of the means, for the latents of pass ``number``; others are undefined.
        ``y_hat``: 0 where it is not known. Called for one pass after the other."""
        if context.sums is not None:
            return self._by_parts(context, y_hat, number)
        signed, *magnitudes = companded(y_hat, magnitudes=self.magnitudes)
        given = [signed, *context.by_z, *magnitudes]
        if self.passes > 2:
            given.append(self._known(number, y_hat).expand(len(y_hat), -1, -1, -1))
        return super().forward(torch.cat(given, 1)).chunk(2, 1)

    def _known(self, number: int, like: Tensor) -> Float[Tensor, "1 g hy wy"]:
        """1 for each group of channels at the positions where it was coded before pass ``number``."""
        known = like.new_zeros(1, self.passes, *like.shape[-2:])
        for before in range(number):
            for cell in self.cells(before):
                known[:, cell.group, cell.rows, cell.columns].fill_(1)
        return known

    def _by_parts(self, context: Context, y_hat: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The same bits from a third of the products: the first convolution only of the latents of the last pass, the
        last one only for those of this pass."""
        first, *inner, last = self
        m, channels = self.num_latents, torch.arange(first.in_channels)
        for cell in self.cells(number - 1):
            new = companded(y_hat[:, cell.channels, cell.rows, cell.columns], magnitudes=self.magnitudes)
            inputs = [channels[:m][cell.channels]]
            if self.magnitudes:
                inputs.append(channels[4 * m : 5 * m][cell.channels])
            if self.passes > 2:
                new.append(torch.ones_like(new[0][:, :1]))
                inputs.append(channels[-self.passes :][cell.group, None])
            context.sums[..., cell.rows, cell.columns] += first.part(torch.cat(new, 1), inputs=torch.cat(inputs))

        def features(rows: slice, columns: slice) -> Tensor:
            return reduce(lambda x, layer: layer(x), inner, context.sums[..., rows, columns])

        found = in_windows(features, *y_hat.shape[-2:], side=context.side, margin=MARGIN, scale=1)
        scales, corrections = torch.zeros_like(y_hat), torch.zeros_like(y_hat)
        for cell in self.cells(number):
            outputs = torch.cat([part[cell.channels] for part in torch.arange(2 * m).chunk(2)])
            own = last.module.part(found[..., cell.rows, cell.columns], outputs=outputs, bias=True).chunk(2, 1)
            for whole, part in zip((scales, corrections), own, strict=True):
                whole[:, cell.channels, cell.rows, cell.columns] = part
        return scales, corrections
