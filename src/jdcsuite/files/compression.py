"""Array -> the bytes of a `.jdc` file -> array: the codec as two functions, weights loaded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from torch import nn

from jdcsuite.artifacts.weights import load as load_model
from jdcsuite.artifacts.weights import path_of, shipped
from jdcsuite.coding.codec import TILE, Codec
from jdcsuite.coding.container import GREY, MAX_METADATA, METADATA, RGB, unpack
from jdcsuite.types import CorruptFile, UserError

__all__ = ["TILE", "CorruptFile", "NoCodec", "compress", "decompress", "load", "psnr"]

_KEPT = 8  # models held at a time: a ladder
_models: OrderedDict[tuple[str, int, int, str], Codec] = OrderedDict()
_lock = threading.Lock()


class NoCodec(UserError):
    """Weights of a model that codes nothing, as a clean-entropy network's."""


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
    device: str = "cpu",
) -> bytes:
    """One RGB picture, (height, width, 3) uint8 or uint16 -> the bytes of a `.jdc` file.

    ``weights``: a run folder, a weights file (loaded once) or a loaded codec; None: those that came with the package.
    ``quality``: 0 (smallest file) to 100, of weights of any rate (None: where the rate curve bends, which depends on
    the noise). ``strength``: 0 (keep the noise) to 1 (None: remove it). ``sigma``: standard deviation of the noise in
    8-bit grey levels (None: estimated from the picture). ``tile``: side of a tile in pixels, a multiple of 64 to 4096;
    0: the picture as one. ``metadata``: "icc", "exif" -> bytes to keep. ``grey``: the three channels are one and are
    decoded to one in image files. UserError: any other array, and what these weights cannot serve.
    """
    picture = _checked(array)
    if tile % 64 or not 0 <= tile <= 4096:
        raise UserError(f"tile={tile} is not possible: give a multiple of 64 up to 4096, or 0 for one tile")
    if not tile and picture.shape[0] * picture.shape[1] > 4096**2:
        raise UserError(f"the picture has over {4096**2} pixels, too many for one tile: give tile={TILE}")
    metadata = metadata or {}
    if not METADATA.keys() >= metadata.keys() or sum(map(len, metadata.values())) > MAX_METADATA:
        raise UserError(f"metadata is {' and '.join(METADATA)}, {MAX_METADATA >> 20} MiB together: leave the rest out")
    codec = load(weights, device=device)
    check_asked(codec, sigma=sigma, quality=quality, strength=strength)
    if 0 < tile < min(codec.margin, max(picture.shape[:2])):
        raise UserError(f"tile={tile} is less than this codec looks at: give a multiple of 64 from {codec.margin} on")
    colour = GREY if grey else RGB
    return codec.compress(
        picture, sigma=sigma, quality=quality, strength=strength, tile=tile, metadata=metadata, colour=colour
    )


def check_asked(codec: Codec, *, sigma: float | None, quality: float | None, strength: float | None) -> None:
    """UserError: what no codec can be asked for, or not this one."""
    if quality is not None and not 0 <= quality <= 100:
        raise UserError(f"quality {quality:g} is not possible: give 0 (smallest file) to 100")
    if strength is not None and not 0 <= strength <= 1:
        raise UserError(f"strength {strength:g} is not possible: give 0 (keep the noise) to 1 (remove it)")
    if sigma is not None and not 0 <= sigma < float("inf"):
        raise UserError(f"sigma={sigma} is not a noise level: give grey levels of 0 or more, as in sigma=10")
    if not codec.any_rate and (quality is not None or strength is not None):
        what = " and ".join(name for name, it in {"quality": quality, "strength": strength}.items() if it is not None)
        raise UserError(f"these weights serve one rate and remove all noise: leave {what} out, or take other weights")
    if sigma is not None and not codec.takes_sigma:
        raise UserError("these weights take no noise level, they have learned theirs: leave sigma out")


def decompress(
    data: bytes | bytearray | memoryview, weights: str | Path | nn.Module | None = None, *, device: str = "cpu"
) -> np.ndarray:
    """The bytes of a `.jdc` file -> (height, width, 3) uint8, or uint16 where the file's bit depth is 16.

    `CorruptFile` for any bytes that these weights did not write, and where its symbols cannot be decoded here.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UserError(f"a .jdc file is bytes, not {type(data).__name__}: give Path(file).read_bytes()")
    data = bytes(data)
    unpack(data)  # what is no file at all is told before weights are loaded
    return load(weights, device=device).decompress_array(data)


def load(weights: str | Path | nn.Module | None = None, *, device: str = "cpu") -> Codec:
    """A codec that is ready to code; None: the one of the package. Those loaded from a path are kept until their file
    changes."""
    if isinstance(weights, nn.Module):
        if not isinstance(weights, Codec):
            raise NoCodec(f"a {type(weights).__name__} is no codec: give a codec's run, weights file or model")
        if not weights.is_ready:
            raise UserError("this codec is not ready to code: call eval() and update() first")
        return weights
    path = (shipped() if weights is None else path_of(weights)).resolve()
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, device)
    with _lock:
        if key not in _models:
            _models[key] = _loaded(path, device)
            while len(_models) > _KEPT:
                _models.popitem(last=False)
        _models.move_to_end(key)
        return _models[key]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB between two pictures of one type, all samples pooled; inf where they are equal."""
    # By rows: a gigapixel in float64 would take 24 GB.
    error = sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in zip(a, b, strict=True)) / a.size
    top = np.iinfo(a.dtype).max
    return float("inf") if error == 0 else float(10 * np.log10(top**2 / error))


def _loaded(path: Path, device: str) -> Codec:
    model = load_model(path, device=device)
    if not isinstance(model, Codec):
        raise NoCodec(f"{path} holds no codec but a {type(model).__name__}: give a codec's run")
    if not model.is_ready:
        raise UserError(f"{path} holds no coding tables: give the weights of a finished run")
    return model


def _checked(array: object) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise UserError(f"a picture is a numpy array, not a {type(array).__name__}: give np.asarray(picture)")
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError("the picture has NaN or infinite samples: mend them, then convert it to uint8 or uint16")
        raise UserError(f"the picture is {array.dtype}: convert it to uint8, or to uint16 for 16 bits a sample")
    if array.ndim != 3 or array.shape[2] != 3:
        raise UserError(
            f"the picture has shape {array.shape}: give (height, width, 3); a grey one as np.stack([grey] * 3, -1)"
        )
    if array.size == 0:
        raise UserError(f"the picture is empty ({array.shape[0]} x {array.shape[1]} pixels): give at least one pixel")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
