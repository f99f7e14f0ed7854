"""INTERIM, to be deleted: what the tiled codec will do itself, on top of the present one.

Everything above calls a codec through these three functions only. When `Codec` has ``compress(x, sigma=, tile=,
metadata=, colour=)`` and ``decompress_array``, replace the calls in `compression` by the methods and delete this file.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jdcsuite.entropy.container import MAX_TILE, Contents, CorruptFile, Tile, pack, unpack
from jdcsuite.models.codec import Codec


def compress(
    codec: Codec, x: np.ndarray, *, sigma: float | None, tile: int, metadata: dict[str, bytes], colour: int
) -> bytes:
    """``x``: (h, w, 3) uint8 or uint16."""
    if hasattr(codec, "decompress_array"):
        return codec.compress(x, sigma=sigma, tile=tile, metadata=metadata, colour=colour)
    device = next(codec.parameters()).device
    contents = unpack(codec.compress(_floats(x).to(device), sigma=sigma))
    contents = replace(contents, bit_depth=8 * x.itemsize, colour=colour, metadata=metadata)
    contents = replace(contents, tile=tile if max(x.shape[:2]) <= tile <= MAX_TILE else 0)
    # The present codec has no checksum of its symbols; one of header and segments stands in: its coder must not be
    # given other bytes than its own.
    segments = contents.tiles[0].segments
    return pack(replace(contents, tiles=[Tile(_stand_in(contents), segments)]))


def decompress_array(codec: Codec, data: bytes) -> np.ndarray:
    """(h, w, 3), uint8 or uint16 as the file's bit depth says."""
    if hasattr(codec, "decompress_array"):
        return codec.decompress_array(data)
    contents = unpack(data)
    if contents.model_id == codec.model_id and contents.tiles[0].checksum != _stand_in(contents):
        raise CorruptFile("the symbols do not have their checksum")
    x_hat = codec.decompress(data)[0].permute(1, 2, 0).cpu().numpy()
    top, kind = (255, np.uint8) if contents.bit_depth == 8 else (65535, np.uint16)
    return np.rint(x_hat * np.float64(top)).astype(kind)


def _stand_in(contents: Contents) -> int:
    about = repr(replace(contents, tiles=[replace(tile, checksum=0) for tile in contents.tiles]))
    return zlib.crc32(about.encode())


def _floats(x: np.ndarray) -> Tensor:
    top = np.float32(255 if x.dtype == np.uint8 else 65535)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)).astype(np.float32) / top)[None]
