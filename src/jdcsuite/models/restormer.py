"""Noisy image -> denoised image: Restormer, a U-shaped transformer whose attention is between channels.

Zamir et al., "Restormer: efficient transformer for high-resolution image restoration" (CVPR 2022), in the form that the
paper uses for denoising: layer normalisation without bias, convolutions without bias, output added to the input.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from jdcsuite.models.denoiser import Denoiser
from jdcsuite.types import Output

EXPANSION = 2.66  # of the channels in a feed-forward network

# Parts of the names in the published state_dict -> ours, first match of each line.
PUBLISHED = (
    (r"^patch_embed\.proj\.", "embed."),
    (r"^encoder_level(\d)\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^latent\.", "encoder.3."),
    (r"^decoder_level(\d)\.", lambda m: f"decoder.{int(m[1]) - 1}."),
    (r"^down(\d)_\d\.body\.0\.", lambda m: f"down.{int(m[1]) - 1}."),
    (r"^up\d_(\d)\.body\.0\.", lambda m: f"up.{int(m[1]) - 1}."),
    (r"^reduce_chan_level(\d)\.", lambda m: f"merge.{int(m[1]) - 2}."),
    (r"^refinement\.", "refine."),
    (r"^output\.", "out."),
    (r"\.norm1\.body\.", ".attention.norm."),
    (r"\.attn\.qkv_dwconv\.", ".attention.spread."),
    (r"\.attn\.project_out\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.norm2\.body\.", ".gate.norm."),
    (r"\.ffn\.project_in\.", ".gate.widen."),
    (r"\.ffn\.dwconv\.", ".gate.spread."),
    (r"\.ffn\.project_out\.", ".gate.out."),
)


class _Norm(nn.Module):
    """Each pixel divided by the standard deviation of its channels; the mean is kept, as the paper does to denoise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        deviation = (x.float().var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x / deviation * self.weight[:, None, None]


class _Attention(nn.Module):
    """Self-attention between the channels of each head (section 3.1): its cost is linear in the number of pixels, and
    every output depends on the whole image."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _Norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.spread = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows = self.spread(self.qkv(self.norm(x))).flatten(2)
        query, key, value = (part.unflatten(1, (self.heads, -1)) for part in rows.chunk(3, 1))
        similarity = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
        mixed = (similarity * self.temperature).softmax(-1) @ value
        return x + self.out(mixed.flatten(1, 2).unflatten(2, x.shape[-2:]))


class _GatedFeedForward(nn.Module):
    """Two 1x1 convolutions with a gated depthwise one between them (section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(EXPANSION * channels)
        self.norm = _Norm(channels)
        self.widen = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.spread = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gate, value = self.spread(self.widen(self.norm(x))).chunk(2, 1)
        return x + self.out(F.gelu(gate) * value)


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(channels, heads)
        self.gate = _GatedFeedForward(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.gate(self.attention(x))


def _level(channels: int, *, heads: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels, heads) for _ in range(blocks)))


class Restormer(Denoiser):
    """``width``: channels at full resolution, a multiple of 8; each of the three lower levels has twice as many.
    ``blocks``: of each level, from full resolution down; ``refinement``: blocks at full resolution after the last. The
    defaults are the published ones: 26.1 M parameters.

    ``margin``: overlap of the tiles of an image larger than one tile. They are blended, because attention makes every
    pixel of a tile depend on the whole tile: no margin makes tiles equal to the whole image.

    differs from the paper: images are extended by replication instead of reflection, because they may have any size.
    """

    stride = 8
    margin = 64
    tile = 768  # pixels: 3.5 GiB at the published width
    blended = True

    def __init__(self, *, width: int = 48, blocks: tuple[int, ...] | list[int] = (4, 6, 6, 8), refinement: int = 4):
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        heads = [2**level for level in range(4)]
        wide = [2 * width, *widths[1:3]]  # of the decoder: full resolution keeps the channels of both branches
        levels = list(zip(widths, heads, blocks, strict=True))
        self.embed = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(_level(c, heads=h, blocks=n) for c, h, n in levels)
        self.down = nn.ModuleList(nn.Conv2d(c, c // 2, 3, padding=1, bias=False) for c in widths[:3])
        self.up = nn.ModuleList(nn.Conv2d(c, 2 * c, 3, padding=1, bias=False) for c in widths[1:])
        self.merge = nn.ModuleList(nn.Conv2d(2 * c, c, 1, bias=False) for c in widths[1:3])
        self.decoder = nn.ModuleList(
            _level(c, heads=h, blocks=n) for c, (_, h, n) in zip(wide, levels[:3], strict=True)
        )
        self.refine = _level(2 * width, heads=1, blocks=refinement)
        self.out = nn.Conv2d(2 * width, 3, 3, padding=1, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        *,
        sigma: Float[Tensor, "b"] | None = None,
        bpp_noisy: Float[Tensor, "b"] | None = None,
    ) -> Output:
        """``x``: of any size from 1x1 up."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        features = self.encoder[0](self.embed(padded))
        skips = []
        for down, level in zip(self.down, self.encoder[1:], strict=True):
            skips.append(features)
            features = level(F.pixel_unshuffle(down(features), 2))
        for i in (2, 1, 0):
            features = torch.cat([F.pixel_shuffle(self.up[i](features), 2), skips[i]], 1)
            features = self.decoder[i](self.merge[i - 1](features) if i else features)
        x_hat = self.out(self.refine(features)) + padded
        return Output(x_hat=x_hat[..., :height, :width].float())

    @staticmethod
    def from_published(published: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published state_dict with this module's names."""
        return {_own_name(name): tensor for name, tensor in published.items()}


def _own_name(name: str) -> str:
    for pattern, replacement in PUBLISHED:
        name = re.sub(pattern, replacement, name, count=1)
    return name
