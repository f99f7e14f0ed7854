"""Noisy image -> denoised image without training: non-local means, and BM3D if it is installed.

Both assume white noise of one level, which real noise is not. The level is estimated from the image unless it is given.
Their `denoise` has the interface of `models.denoiser`, so either can be a teacher.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.data.estimate import estimate_sigma
from jdcsuite.models.denoiser import TILE, tiled
from jdcsuite.types import NotInstalled, UserError

PATCH, DISTANCE = 5, 6  # pixels: side of the compared patches, and radius of the search for them


class _TrainingFree:
    """``sigma``: of the noise in grey levels; None: estimated from each image."""

    name: str

    def __init__(self, *, sigma: float | None = None) -> None:
        self.sigma = None if sigma is None else checks.number("sigma", sigma, least=0)

    def level(self, x: Float[Tensor, "1 3 h w"]) -> float:
        """Noise level for images in [0, 1]. Estimated once from the whole image, so that all its tiles use the same
        level."""
        return (estimate_sigma(x[0]) if self.sigma is None else self.sigma) / 255


class NonLocalMeans(_TrainingFree):
    """Buades, Coll and Morel (CVPR 2005), scikit-image's fast form: 5x5 patches, 13x13 search, h = .8 sigma."""

    name = "nlm"

    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int = TILE) -> Float[Tensor, "1 3 h w"]:
        """One image in [0, 1] -> the denoised image, in tiles of ``tile`` pixels (0: one tile)."""
        from skimage.restoration import denoise_nl_means

        level = self.level(x)
        if level < 1e-6:  # scikit-image divides by it
            return x.clone()

        def work(part: Float[Tensor, "1 3 _ _"]) -> Float[Tensor, "1 3 _ _"]:
            samples = np.ascontiguousarray(part[0].permute(1, 2, 0).double().cpu().numpy())
            denoised = denoise_nl_means(
                samples, patch_size=PATCH, patch_distance=DISTANCE, h=0.8 * level, sigma=level, fast_mode=True,
                channel_axis=-1,
            )  # fmt: skip
            return _tensor(denoised, part)

        return tiled(work, x, tile=tile, margin=DISTANCE + PATCH)


class BM3D(_TrainingFree):
    """Dabov et al. (IEEE TIP 2007), in the authors' package. Never a default, as its licence excludes commercial use.

    It processes the whole image at once, because its result depends on more than a neighbourhood: with tiles of 96
    pixels and margins of 66, the result differed by up to 3 grey levels, .1 on average. Takes .9 GiB and, on one core,
    three minutes per megapixel.
    """

    name = "bm3d"

    def __init__(self, *, sigma: float | None = None) -> None:
        super().__init__(sigma=sigma)
        try:
            self.bm3d = importlib.import_module("bm3d")
        except ImportError:
            raise NotInstalled(
                "BM3D is not installed: `pip install jdcsuite[bm3d]` (its licence is for non-commercial use only), "
                "or take nlm"
            ) from None

    def denoise(self, x: Float[Tensor, "1 3 h w"], *, tile: int = 0) -> Float[Tensor, "1 3 h w"]:
        """One image in [0, 1] -> the denoised image. ``tile`` is ignored."""
        level = self.level(x)
        if level < 1e-6 or min(x.shape[-2:]) < 8:  # side of its blocks
            return x.clone()
        return _tensor(self.bm3d.bm3d_rgb(x[0].permute(1, 2, 0).cpu().numpy(), level), x)


def _tensor(samples: np.ndarray, like: Tensor) -> Float[Tensor, "1 3 _ _"]:
    return torch.from_numpy(samples).to(like).permute(2, 0, 1)[None].clamp(0, 1)


TRAINING_FREE = {denoiser.name: denoiser for denoiser in (NonLocalMeans, BM3D)}  # names on the command line
ENTRY_POINTS = "jdcsuite.denoisers"  # installed packages declare their denoisers in this group


def named(spec: str) -> object | None:
    """The denoiser that a word of the command line names; None for another word.

    ``nlm`` or ``bm3d``; an entry point of the group "jdcsuite.denoisers"; or the path of a class, as
    ``mypackage.MyDenoiser``. After an @, the noise level that it is given in grey levels, as in ``bm3d@5.5``. A class
    has a method ``denoise(x)``, (1, 3, h, w) in [0, 1] -> the same, or is a network as `cascade.denoise` takes.
    UserError: not a noise level, or no denoiser."""
    name, at, level = spec.partition("@")
    make = _factory(name)
    if make is None:
        return None
    try:
        sigma = float(level) if at else None
    except ValueError:
        raise UserError(f"{spec} names no noise level: give grey levels, as in {name}@5.5") from None
    takes_sigma = "sigma" in inspect.signature(make).parameters
    if at and not takes_sigma:
        raise UserError(f"{name} takes no noise level: leave out @{level}")
    denoiser = make(sigma=sigma) if takes_sigma else make()
    if not callable(getattr(denoiser, "denoise", None)) and not isinstance(denoiser, nn.Module):
        raise UserError(f"{name} is no denoiser: its objects need a method denoise(x)")
    return denoiser


def is_named(spec: str) -> bool:
    """Whether `named` knows the word; nothing is built."""
    return _factory(spec.partition("@")[0]) is not None


def _factory(name: str) -> Callable | None:
    if name in TRAINING_FREE:
        return TRAINING_FREE[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return point.load()
    module, _, attribute = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")) or not module:
        return None
    try:
        factory = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    return factory if isinstance(factory, type) else None
