"""Pixels of one type -> the same pixels of another: every conversion between uint8, uint16 and float images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8, UInt16
from torch import Tensor


def to_unit(images: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """[0, 255] of any type -> float32 in [0, 1]."""
    return images.float() / 255


def to_tensor(image: np.ndarray) -> Float[Tensor, "3 h w"]:
    """(h, w, 3) in [0, 255] -> (3, h, w) float32 in [0, 1], contiguous."""
    return to_unit(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))


def to_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Clip to [0, 1] and round to 8 bits."""
    return image.clamp(0, 1).mul_(255).round_().permute(1, 2, 0).contiguous().byte().cpu().numpy()


def quantized(images: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Rounded and clipped to the 256 levels that an 8-bit file can hold, still as floats in [0, 1]."""
    return (images * 255).round().clamp(0, 255) / 255


def to_eight_bit(pixels: UInt8[np.ndarray, "*shape"] | UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """16-bit samples rounded to 8 bits; 8-bit samples as they are."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) -> (h, w): the rounded mean of the channels, which is the channel itself where all three are equal."""
    return ((pixels.sum(-1, dtype=np.uint32) + 1) // 3).astype(pixels.dtype)
