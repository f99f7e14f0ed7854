"""Convolutional networks whose channels are scaled by embedded conditions, such as quality and noise level.

After the gained VAE (Cui et al., CVPR 2021) and the intra codecs of DCVC, which scale channels by the rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.models.layers import add, conv3x3, subpixel
from jdcsuite.types import UserError

MAX_BLOCKS = 64


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; the embedded conditions ``e`` scale its inner channels."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first, self.second = conv3x3(channels, channels), conv3x3(channels, channels)
        self.scale = nn.Linear(embedding, channels)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
        scale = (1 + self.scale(e))[:, :, None, None]
        inner = F.leaky_relu_(self.first(x), 0.1)
        inner = inner * scale if torch.is_grad_enabled() else inner.mul_(scale)
        return add(self.second(inner), x)


class Blocks(nn.ModuleList):
    """``count`` residual blocks in sequence."""

    def __init__(self, count: int, channels: int, embedding: int) -> None:
        super().__init__(Block(channels, embedding) for _ in range(count))

    def forward(self, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
        for block in self:
            x = block(x, e)
        return x


class Coarse(nn.Module):
    """Features of ``width`` channels -> a correction of them that is computed at half their resolution and, as far as
    there are more ``levels``, at a half of that. ``levels``: channels and residual blocks of each."""

    def __init__(self, width: int, levels: Sequence[tuple[int, int]], embedding: int) -> None:
        super().__init__()
        (inner, blocks), *coarser = levels
        self.down, self.up = nn.Conv2d(width, inner, 2, stride=2), subpixel(inner, width)
        self.blocks = Blocks(blocks, inner, embedding)
        self.coarse = Coarse(inner, coarser, embedding) if coarser else None

    def forward(self, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
        return self.up(inside(self.blocks, self.coarse, self.down(x), e))


def inside(blocks: Blocks, coarse: Coarse | None, x: Tensor, e: Float[Tensor, "b k"]) -> Tensor:
    """``blocks`` in sequence, and ``coarse`` before the last of them, which sees both resolutions."""
    for place, block in enumerate(blocks, 1):
        if coarse is not None and place == len(blocks):
            x = add(coarse(x, e), x)
        x = block(x, e)
    return x


class ErrorNetwork(nn.Module):
    """Image around 0 -> estimate of its error, at half resolution: of noise before the encoder, of coding behind the
    decoder.

    The output of the network is multiplied by the expected level of the error: an image without stays what it is, and
    the network predicts errors of about unit variance at every level. ``levels``: channels and residual blocks at 1/2,
    1/4 and so on; those at lower resolutions see noise that is correlated over more pixels.
    """

    def __init__(self, levels: Sequence[tuple[int, int]], embedding: int) -> None:
        super().__init__()
        (width, blocks), *coarser = levels
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), conv3x3(12, width))
        self.blocks = Blocks(blocks, width, embedding)
        self.coarse = Coarse(width, coarser, embedding) if coarser else None
        self.leave = nn.Sequential(conv3x3(width, 12), nn.PixelShuffle(2))
        # in pixels: two 3x3 convolutions a block and, at 1/2, those at the ends; squares of pixels of the coarsest
        self.margin = 4 + sum(2 * 2**level * blocks for level, (_, blocks) in enumerate(levels, 1))
        self.margin += 2 ** len(levels) if coarser else 0

    def forward(
        self, x: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 3 h w"]:
        features = inside(self.blocks, self.coarse, self.enter(x), e)
        return level[:, None, None, None] * self.leave(features).to(x)


def error_network(name: str, sizes: Sequence[int] | None, embedding: int) -> ErrorNetwork | None:
    """The network of the configuration's word ``name``: channels and blocks at 1/2, and further pairs for 1/4 and 1/8,
    as in [64,3,40,2]."""
    if sizes is None:
        return None
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) not in (2, 4, 6):
        raise UserError(
            f"{name}={sizes} is not usable: give channels and blocks at 1/2, 1/4 and 1/8 or the first of these, as in "
            f"{name}=[64,3] or [64,3,40,2]"
        )
    levels = list(zip(sizes[::2], sizes[1::2], strict=True))
    for width, blocks in levels:
        checks.whole(f"the width in {name}", width, least=1)
        checks.whole(f"the blocks in {name}", blocks, least=int(len(levels) > 1), most=MAX_BLOCKS)
    return ErrorNetwork(levels, embedding)
