"""Noisy picture -> denoised picture without training: non-local means, and BM3D where it is installed.

Both take white noise of one level, which real noise is not: the level is estimated from the picture unless it is
given. Their `denoise` is that of `models/denoiser`, so either can teach.
"""

from __future__ import annotations

import importlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.models.denoiser import TILE, tiled
from jdcsuite.types import UserError

PATCH, DISTANCE = 5, 6  # pixels: side of the patches that are compared, and how far a picture is searched for them


class _Untaught:
    """``sigma``: of the noise in grey levels; None: estimated from each picture."""

    name: str

    def __init__(self, *, sigma: float | None = None) -> None:
        if sigma is not None and not 0 <= sigma < float("inf"):
            raise UserError(f"sigma={sigma} is not a noise level: give grey levels of 0 or more")
        self.sigma = sigma

    def level(self, x: Float[Tensor, "1 3 h w"]) -> float:
        """Of the noise in [0, 1] units. Estimated once for the whole picture, so that all its tiles have the same."""
        return (estimate_sigma(x[0]) if self.sigma is None else self.sigma) / 255


class NonLocalMeans(_Untaught):
    """Buades, Coll and Morel (CVPR 2005), scikit-image's fast form: 5x5 patches, 13x13 search, h = .8 sigma."""

    name = "nlm"

    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int = TILE) -> Float[Tensor, "1 3 h w"]:
        """One picture in [0, 1] -> the same without noise, in tiles of ``tile`` pixels (0: all at once)."""
        from skimage.restoration import denoise_nl_means

        level = self.level(x)
        if level < 1e-6:  # scikit-image divides by it
            return x.clone()

        def work(part: Float[Tensor, "1 3 _ _"]) -> Float[Tensor, "1 3 _ _"]:
            samples = np.ascontiguousarray(part[0].permute(1, 2, 0).double().cpu().numpy())
            made = denoise_nl_means(
                samples, patch_size=PATCH, patch_distance=DISTANCE, h=0.8 * level, sigma=level, fast_mode=True,
                channel_axis=-1,
            )  # fmt: skip
            return _tensor(made, part)

        return tiled(work, x, tile=tile, margin=DISTANCE + PATCH)


class BM3D(_Untaught):
    """Dabov et al. (IEEE TIP 2007), the authors' package, whose licence is for non-commercial use: never a default.

    It sees the picture as one, since its result depends on more than a neighbourhood: tiles of 96 pixels with 66 of
    their neighbours' differed by up to 3 grey levels, .1 on average. That takes .9 GiB and, on one core, three
    minutes a megapixel.
    """

    name = "bm3d"

    def __init__(self, *, sigma: float | None = None) -> None:
        super().__init__(sigma=sigma)
        try:
            self.bm3d = importlib.import_module("bm3d")
        except ImportError:
            raise UserError(
                "BM3D is not installed: `pip install jdcsuite[bm3d]` (its licence is for non-commercial use only), "
                "or take nlm"
            ) from None

    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int = 0) -> Float[Tensor, "1 3 h w"]:
        """One picture in [0, 1] -> the same without noise. ``tile`` is not looked at."""
        level = self.level(x)
        if level < 1e-6 or min(x.shape[-2:]) < 8:  # the side of its blocks
            return x.clone()
        return _tensor(self.bm3d.bm3d_rgb(x[0].permute(1, 2, 0).cpu().numpy(), level), x)


def _tensor(samples: np.ndarray, like: Tensor) -> Float[Tensor, "1 3 _ _"]:
    return torch.from_numpy(samples).to(like).permute(2, 0, 1)[None].clamp(0, 1)


UNTAUGHT = {kind.name: kind for kind in (NonLocalMeans, BM3D)}  # the words of the command line


def untaught(word: str) -> object | None:
    """The denoiser ``nlm`` or ``bm3d``; behind an @ the noise level in grey levels where it is known, as ``bm3d@5.5``.
    None for any other word."""
    name, at, said = word.partition("@")
    if name not in UNTAUGHT:
        return None
    try:
        sigma = float(said) if at else None
    except ValueError:
        raise UserError(f"{word} names no noise level: give grey levels, as in {name}@5.5") from None
    return UNTAUGHT[name](sigma=sigma)
