"""Noisy image -> denoised image: the U-Net, the teacher of JDC-UD and the denoiser of denoise-then-compress.

Ronneberger et al., "U-Net" (MICCAI 2015), in the form of NIND's denoiser (Brummer and De Vleeschouwer, "Natural image
noise dataset", CVPR workshops 2019): unpadded convolutions on the way down, transposed ones on the way up, so that
the skips match in size; max-pooling, PReLU with one slope, linear output, no normalisation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.models.denoiser import Denoiser
from jdcsuite.types import Output

EDGE = 2  # pixels of replicated border around an image


def _two(inputs: int, outputs: int, *, kinds: tuple[type[nn.Module], type[nn.Module]]) -> nn.Sequential:
    first, second = kinds
    return nn.Sequential(first(inputs, outputs, 3), nn.PReLU(), second(outputs, outputs, 3), nn.PReLU())


class UNet(Denoiser):
    """``width``: features of the first of five levels; each further level has twice as many (31.03 M parameters at 64).

    A pixel depends on up to 107 pixels to each side: 2 (1 + 2 + 4 + 8) from the convolutions on the way down, as many
    on the way up, 15 from the pooling and 32 from the bottom level.

    differs from the reference: borders are replicated instead of reflected, because images may have any size. The tiles
    of a large image overlap by the whole receptive field, so that they equal the whole image; the reference blends
    tiles of 504 pixels that overlap by 12.
    """

    stride = 16
    margin = 112

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        down, up = (nn.Conv2d, nn.Conv2d), (nn.ConvTranspose2d, nn.ConvTranspose2d)
        widths = [width * 2**level for level in range(5)]
        inputs = [3, *widths[:3]]
        self.down = nn.ModuleList(_two(i, o, kinds=down) for i, o in zip(inputs, widths, strict=False))
        self.bottom = _two(widths[3], widths[4], kinds=(nn.Conv2d, nn.ConvTranspose2d))
        upper = widths[3::-1]
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * o, o, 2, stride=2) for o in upper)
        self.up = nn.ModuleList(_two(2 * o, o, kinds=up) for o in upper)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """``x``: of any size from 1x1 up; padded to 104 + 16 k pixels per side, the sizes at which all levels fit."""
        height, width = x.shape[-2:]
        padding = [max(104 - side, (8 - side) % 16) for side in (height, width)]
        x = F.pad(x, (EDGE, EDGE + padding[1], EDGE, EDGE + padding[0]), mode="replicate")
        skips = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for grow, level in zip(self.grow, self.up, strict=True):
            x = level(torch.cat([grow(x), skips.pop()], 1))
        return Output(x_hat=self.out(x)[..., EDGE : EDGE + height, EDGE : EDGE + width].float())
