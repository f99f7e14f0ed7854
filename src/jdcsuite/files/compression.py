"""Array -> bytes of a `.jdc` file -> array: `jdcsuite.compress` and `jdcsuite.decompress`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from torch import nn

from jdcsuite.artifacts.weights import load as load_model
from jdcsuite.artifacts.weights import path_of, shipped
from jdcsuite.checks import noise_level
from jdcsuite.coding.codec import TILE, Codec
from jdcsuite.coding.container import GREY, MAX_METADATA, METADATA, RGB, unpack
from jdcsuite.imaging.depth import Depth
from jdcsuite.types import CorruptFile, UserError

__all__ = ["TILE", "CorruptFile", "NoCodec", "compress", "decompress", "load", "psnr"]

_CACHED = 8  # loaded models that are kept: a ladder of rates
_models: OrderedDict[tuple[str, int, int, str], Codec] = OrderedDict()
_lock = threading.Lock()


class NoCodec(UserError):
    """Weights of a model that is not a codec, such as a clean-entropy network."""


def compress(
    array: np.ndarray,
    weights: str | Path | nn.Module | None = None,
    *,
    sigma: float | None = None,
    quality: float | None = None,
    strength: float | None = None,
    tile: int = TILE,
    metadata: dict[str, bytes] | None = None,
    grey: bool = False,
    depth: Depth | None = None,
    device: str = "cpu",
) -> bytes:
    """Compress one RGB image, (height, width, 3) uint8 or uint16, to the bytes of a `.jdc` file.

    ``weights``: run folder, weights file (loaded once) or loaded codec; None: the weights in the package.
    ``quality``: 0 (smallest file) to 100, of any-rate weights (None: the bend of the rate curve, which depends on the
    noise). ``strength``: 0 (keep the noise) to 1 (None: remove it). ``sigma``: standard deviation of the noise in 8-bit
    grey levels, of which white has 255 whatever the depth (None: estimated from the image). ``tile``: side in pixels, a
    multiple of 64 up to 4096; 0: one tile.
    ``metadata``: "icc", "exif" -> bytes to keep. ``grey``: the channels are equal; image files are decoded to one.
    ``depth``: which bits of 16-bit words the image uses (None: found from the samples); 10, 12 or 14 bits are coded at
    full scale, and `decompress` restores them. UserError: any other array, or an option that these weights do not
    support.
    """
    image = _checked(array)
    check_tile(tile)
    if not tile and image.shape[0] * image.shape[1] > 4096**2:
        raise UserError(f"the image has over {4096**2} pixels, too many for one tile: give tile={TILE}")
    metadata = metadata or {}
    if not METADATA.keys() >= metadata.keys() or sum(map(len, metadata.values())) > MAX_METADATA:
        raise UserError(f"metadata is {' and '.join(METADATA)}, {MAX_METADATA >> 20} MiB together: leave the rest out")
    codec = load(weights, device=device)
    check_options(codec, sigma=sigma, quality=quality, strength=strength)
    if tile < max(image.shape[:2]):
        check_tile(tile, codec)
    depth = Depth.of(image) if depth is None else depth
    return codec.compress(
        depth.full_scale(image), sigma=sigma, quality=quality, strength=strength, tile=tile, metadata=metadata,
        colour=GREY if grey else RGB, depth=Depth() if image.dtype == np.uint8 else depth,
    )  # fmt: skip


def check_tile(tile: int, codec: Codec | None = None) -> None:
    """UserError: a tile side that no codec, or not this one, can use."""
    if tile % 64 or not 0 <= tile <= 4096:
        raise UserError(f"tile={tile} is not possible: give a multiple of 64 up to 4096, or 0 for one tile")
    if codec is not None and 0 < tile < codec.margin:
        raise UserError(f"tile={tile} is too small for this codec: give a multiple of 64 of {codec.margin} or more")


def check_options(codec: Codec, *, sigma: float | None, quality: float | None, strength: float | None) -> None:
    """UserError: a value out of range, or one that this codec does not support."""
    if quality is not None and not 0 <= quality <= 100:
        raise UserError(f"quality {quality:g} is not possible: give 0 (smallest file) to 100")
    if strength is not None and not 0 <= strength <= 1:
        raise UserError(f"strength {strength:g} is not possible: give 0 (keep the noise) to 1 (remove it)")
    if sigma is not None:
        noise_level(sigma)
    if not codec.any_rate and (quality is not None or strength is not None):
        given = {"quality": quality, "strength": strength}
        names = " and ".join(name for name, value in given.items() if value is not None)
        raise UserError(f"these weights serve one rate and remove all noise: leave {names} out, or take other weights")
    if sigma is not None and not codec.takes_sigma:
        raise UserError("these weights take no noise level, they were trained for one: leave sigma out")


def decompress(
    data: bytes | bytearray | memoryview,
    weights: str | Path | nn.Module | None = None,
    *,
    max_memory: int | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """Decompress the bytes of a `.jdc` file to (height, width, 3) uint8, or uint16 where the image had more bits: the
    samples have the scale that they had when they were compressed.

    ``max_memory``: bytes that decoding may take beyond the weights, approximately (None: any); UserError: more.
    `CorruptFile`: bytes that these weights did not write, or symbols that fail their checksum here.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UserError(f"a .jdc file is bytes, not {type(data).__name__}: give Path(file).read_bytes()")
    data = bytes(data)
    unpack(data)  # other files are refused before weights are loaded
    return load(weights, device=device).decompress_array(data, max_memory=max_memory)


def load(weights: str | Path | nn.Module | None = None, *, device: str = "cpu") -> Codec:
    """A codec that is ready to code; None: the one in the package. Codecs loaded from a path are cached until their
    file changes."""
    if isinstance(weights, nn.Module):
        if not isinstance(weights, Codec):
            raise NoCodec(f"a {type(weights).__name__} is not a codec: give a codec's run, weights file or model")
        if not weights.is_ready:
            raise UserError("this codec is not ready to code: call eval() and update() first")
        return weights
    path = (shipped() if weights is None else path_of(Path(weights).expanduser())).resolve()
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, device)
    with _lock:
        if key not in _models:
            _models[key] = _load_file(path, device)
            while len(_models) > _CACHED:
                _models.popitem(last=False)
        _models.move_to_end(key)
        return _models[key]


def _load_file(path: Path, device: str) -> Codec:
    model = load_model(path, device=device)
    if not isinstance(model, Codec):
        raise NoCodec(f"{path} is a {type(model).__name__}, not a codec: give a codec's run")
    if not model.is_ready:
        raise UserError(f"{path} holds no coding tables: give the weights of a finished run")
    return model


def psnr(a: np.ndarray, b: np.ndarray, *, peak: int | None = None) -> float:
    """PSNR in dB of two arrays of one integer type, pooled over all samples; inf if they are equal. ``peak``: their
    largest possible value (None: that of their type)."""
    # Row by row, because a gigapixel in float64 would take 24 GB.
    error = sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in zip(a, b, strict=True)) / a.size
    top = np.iinfo(a.dtype).max if peak is None else peak
    return float("inf") if error == 0 else float(10 * np.log10(top**2 / error))


def _checked(array: object) -> np.ndarray:
    """The array, contiguous and in native byte order."""
    if not isinstance(array, np.ndarray):
        raise UserError(f"an image is a numpy array, not a {type(array).__name__}: give np.asarray(image)")
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError("the image has NaN or infinite samples: replace them, then convert it to uint8 or uint16")
        raise UserError(f"the image is {array.dtype}: convert it to uint8, or to uint16 for 16 bits a sample")
    if array.ndim != 3 or array.shape[2] != 3:
        raise UserError(
            f"the image has shape {array.shape}: give (height, width, 3); a grey one as np.stack([grey] * 3, -1)"
        )
    if array.size == 0:
        raise UserError(f"the image is empty ({array.shape[0]} x {array.shape[1]} pixels): give at least one pixel")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
