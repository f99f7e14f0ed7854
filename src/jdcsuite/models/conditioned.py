"""Convolutional networks whose channels are scaled by embedded conditions, such as quality and noise level.

After the gained VAE (Cui et al., CVPR 2021) and the intra codecs of DCVC, which scale channels by the rate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.models.layers import add, conv3x3

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


class ErrorNetwork(nn.Module):
    """Image around 0 -> estimate of its error, at half resolution: of noise before the encoder, of coding behind the
    decoder.

    The output of the network is multiplied by the expected level of the error: an image without stays what it is, and
    the network predicts errors of about unit variance at every level. ``width``: channels; ``blocks``: residual blocks.
    """

    def __init__(self, width: int, blocks: int, embedding: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), conv3x3(12, width))
        self.blocks = Blocks(blocks, width, embedding)
        self.leave = nn.Sequential(conv3x3(width, 12), nn.PixelShuffle(2))
        self.margin = 4 * (blocks + 1)  # pixels: 3x3 convolutions at 1/2

    def forward(
        self, x: Float[Tensor, "b 3 h w"], level: Float[Tensor, "b"], e: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 3 h w"]:
        return level[:, None, None, None] * self.leave(self.blocks(self.enter(x), e)).to(x)


def error_network(name: str, sizes: list[int] | None, embedding: int) -> ErrorNetwork | None:
    """The network of the configuration's word ``name``, [width, blocks]."""
    if sizes is None:
        return None
    width, blocks = checks.pair(name, sizes, form="[64,3]")
    checks.whole(f"the width in {name}", width, least=1)
    checks.whole(f"the blocks in {name}", blocks, least=0, most=MAX_BLOCKS)
    return ErrorNetwork(width, blocks, embedding)
