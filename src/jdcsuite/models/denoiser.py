"""Noisy picture -> denoised picture of any size, tile by tile: the contract that every learned denoiser keeps.

A denoiser defines `forward` (training: picture -> Output). `denoise` runs it on whole pictures in memory that the tile
bounds: each tile sees ``margin`` pixels of its neighbours, as much as the network can look, so that no seam is there to
be seen. Whatever has the same `denoise` can teach (`baselines/denoisers` has two that learned nothing).
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

TILE = 512  # pixels: U-Net of width 64 computes 2.1 times the picture and takes 1.0 GiB; 1024: 1.5 times and 2.6 GiB


def tiled(
    work: Callable[[Float[Tensor, "1 3 _ _"]], Float[Tensor, "1 3 _ _"]],
    x: Float[Tensor, "1 3 h w"],
    *,
    tile: int,
    margin: int,
) -> Float[Tensor, "1 3 h w"]:
    """``work`` on squares of ``tile`` pixels (0: on all at once) that see ``margin`` pixels more, put together again
    where ``x`` is. ``work`` gives back the size that it was given."""
    height, width = x.shape[-2:]
    out = torch.empty_like(x)
    for top, left, down, across in boxes(height, width, tile):
        above, before = max(0, top - margin), max(0, left - margin)
        seen = work(x[..., above : top + down + margin, before : left + across + margin])
        own = seen[..., top - above : top - above + down, left - before : left - before + across]
        out[..., top : top + down, left : left + across] = own
    return out


class Denoiser(nn.Module, ABC):
    """Base of the learned denoisers. ``stride``: of the coarsest level; the network treats a picture alike wherever it
    is shifted by a multiple of it. ``margin``: pixels beyond one that its value depends on, rounded up to the stride,
    so that a tile's result is the whole picture's, up to the last bits of a float."""

    stride: int
    margin: int

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """Training's view; ``sigma`` (grey levels) and ``bpp_noisy`` as in `Codec.forward`."""

    @torch.no_grad()
    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int = TILE) -> Float[Tensor, "1 3 h w"]:
        """One picture in [0, 1], of any size from 1x1 up -> the same without noise, in [0, 1], float32, where ``x`` is.

        ``tile``: side in pixels, a multiple of ``stride``; 0: the picture as one. A tile at a time is on the device of
        the weights. The network is put into evaluation mode for the time and left as it was."""
        if tile < 0 or tile % self.stride:
            raise ValueError(f"tiles of {tile} pixels: this denoiser's are multiples of {self.stride}, or 0 for one")
        was_training = self.training
        self.eval()
        try:
            with full_float32():  # rounded to 11 bits, tiles of other sizes are other pictures
                return tiled(self._one, x.float(), tile=tile, margin=self.margin)
        finally:
            self.train(was_training)

    def _one(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        return self(x.to(next(self.parameters()).device)).x_hat.clamp(0, 1).to(x.device)
