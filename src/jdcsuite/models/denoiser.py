"""Noisy image of any size -> denoised image, tile by tile: the contract of every learned denoiser.

A denoiser defines `forward` for training. `denoise` applies it to whole images in memory bounded by the tile. Each tile
sees ``margin`` pixels of its neighbours, its whole receptive field, so there are no seams. Any object with such a
`denoise` method can be a teacher (`baselines.denoisers` has two without training).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.coding.tiling import boxes
from jdcsuite.imaging.similarity import full_float32
from jdcsuite.types import Output

TILE = 512  # pixels: a U-Net of width 64 computes 2.1 times the image in 1.0 GiB; at 1024, 1.5 times in 2.6 GiB


def blended(
    work: Callable[[Float[Tensor, "1 3 _ _"]], Float[Tensor, "1 3 _ _"]],
    x: Float[Tensor, "1 3 h w"],
    *,
    tile: int,
    margin: int,
) -> Float[Tensor, "1 3 h w"]:
    """As `tiled`, for networks without a bounded receptive field: in the ``margin`` that each tile shares with its
    neighbours, their results are averaged with weights that fall linearly towards the border of the tile."""
    height, width = x.shape[-2:]
    total, weights = torch.zeros_like(x), x.new_zeros(1, 1, height, width)
    for box in boxes(height, width, tile):
        top, left = max(0, box.top - margin), max(0, box.left - margin)
        part = x[..., top : box.top + box.height + margin, left : box.left + box.width + margin]
        rows, columns = (
            _ramp(start, length, side, margin).to(x)
            for start, length, side in ((top, part.shape[-2], height), (left, part.shape[-1], width))
        )
        weight = rows[:, None] * columns
        inside = (..., slice(top, top + part.shape[-2]), slice(left, left + part.shape[-1]))
        total[inside] += work(part) * weight
        weights[inside] += weight
    return total.div_(weights)


def _ramp(start: int, length: int, side: int, margin: int) -> Float[Tensor, "_"]:
    """Weights along one axis of a part of an image of ``side`` pixels: 1 inside and at borders of the image."""
    rising = (torch.arange(length) + 1.0) / (2 * margin + 1)
    before = rising if start else torch.ones(length)
    after = rising.flip(0) if start + length < side else torch.ones(length)
    return torch.minimum(before, after).clamp(max=1)


def tiled(
    work: Callable[[Float[Tensor, "1 3 _ _"]], Float[Tensor, "1 3 _ _"]],
    x: Float[Tensor, "1 3 h w"],
    *,
    tile: int,
    margin: int,
) -> Float[Tensor, "1 3 h w"]:
    """Applies ``work`` to squares of ``tile`` pixels with a ``margin`` (0: to the whole image) and joins the results on
    the device of ``x``. ``work`` returns the size that it is given."""
    height, width = x.shape[-2:]
    out = torch.empty_like(x)
    for box in boxes(height, width, tile):
        top, left = max(0, box.top - margin), max(0, box.left - margin)
        result = work(x[..., top : box.top + box.height + margin, left : box.left + box.width + margin])
        inside = box._replace(top=box.top - top, left=box.left - left)
        out[..., *box.pixels] = result[..., *inside.pixels]
    return out


class Denoiser(nn.Module, ABC):
    """Base of the learned denoisers. ``stride``: of the coarsest level; the network is equivariant to shifts by its
    multiples. ``margin``: radius of the receptive field in pixels, rounded up to the stride, so that the result of a
    tile equals that of the whole image up to the last bits of a float. ``blended``: the receptive field has no bound;
    ``margin`` is then the overlap of blended tiles. ``tile``: side of a tile in pixels, unless `denoise` is given
    another."""

    stride: int
    margin: int
    tile: int = TILE
    blended: bool = False

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """Training view; ``sigma`` and ``bpp_noisy`` as in `TransformCodec.forward`."""

    @torch.no_grad()
    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int | None = None) -> Float[Tensor, "1 3 h w"]:
        """One image in [0, 1], of any size from 1x1 up -> the denoised image in [0, 1], float32, on the device of
        ``x``.

        ``tile``: side in pixels, a multiple of ``stride``; 0: one tile; None: the denoiser's own. Each tile is
        computed on the device of the weights, in evaluation mode; the mode of the network is restored afterwards.
        ValueError: another ``tile``."""
        tile = self.tile if tile is None else tile
        if tile < 0 or tile % self.stride:
            raise ValueError(f"tiles of {tile} pixels: give a multiple of {self.stride}, or 0 for one tile")
        was_training = self.training
        self.eval()
        try:
            with full_float32():  # TF32 keeps 11 bits, with which the result depends on the size of the tiles
                join = blended if self.blended else tiled
                return join(self._denoise_tile, x.float(), tile=tile, margin=self.margin)
        finally:
            self.train(was_training)

    def _denoise_tile(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        return self(x.to(next(self.parameters()).device)).x_hat.clamp(0, 1).to(x.device)
