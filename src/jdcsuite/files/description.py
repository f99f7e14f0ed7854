"""A `.jdc` file or weights -> their properties: `jdc info`."""

from __future__ import annotations

from pathlib import Path

from jdcsuite.checks import is_number
from jdcsuite.coding.container import Contents, header_bytes, unpack
from jdcsuite.files.paths import read_coded
from jdcsuite.imaging.depth import Depth
from jdcsuite.types import CorruptFile, UserError

UNKNOWN = "not stated"


def of_file(path: Path) -> dict[str, object]:
    """Properties of a `.jdc` file; no weights are needed. UserError: no such file, or a damaged one."""
    try:
        data = read_coded(path)
        contents = unpack(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except CorruptFile as error:
        raise UserError(f"{path}: {error}") from None
    down, across = ((side - 1) // (contents.tile or side) + 1 for side in (contents.height, contents.width))
    return {
        "file": str(path),
        "bytes": len(data),
        "version": data[3],
        "width": contents.width,
        "height": contents.height,
        "bpp": 8 * len(data) / (contents.width * contents.height),
        "bit_depth": contents.bit_depth,
        "used_bits": _used_bits(contents),
        "colour": "grey" if contents.colour else "rgb",
        **_request(contents),
        "model_id": contents.model_id.hex(),
        "tile": contents.tile,
        "tiles_across": across,
        "tiles_down": down,
        "segments": len(contents.tiles[0].segments),
        "header_bytes": header_bytes(contents),
        "guide_bpp": contents.side.h / 256 if contents.side.h else None,
        "same_machine": contents.same_machine,
        "metadata": {name: len(value) for name, value in contents.metadata.items()},
    }


def _used_bits(contents: Contents) -> str | None:
    """Which bits of 16-bit words the image uses, if not all."""
    depth = contents.depth
    lowest = f" above {depth.shift} empty ones" if depth.shift else ""
    return None if depth == Depth() else f"{depth.bits - depth.shift}{lowest}"


def _request(contents: Contents) -> dict[str, object]:
    """Settings of an any-rate file, the noise in grey levels; all None for weights of one rate."""
    request = contents.side.request
    if request is None:
        return dict.fromkeys(("quality", "noise", "strength", "denoised"))
    denoised = "no" if request.strength == 0 else "yes" if request.strength == 100 else "partly"
    return {
        "quality": request.quality / 10,
        "noise": request.noise / 16,
        "strength": request.strength / 100,
        "denoised": denoised,
    }


def of_weights(run_or_file: str | Path) -> dict[str, object]:
    """Metadata of weights and what they can be used for. UserError: no weights, or damaged ones."""
    from jdcsuite.artifacts import weights
    from jdcsuite.coding.codec import Codec

    path = weights.path_of(run_or_file)
    metadata, model = weights.read_about(path), weights.load(path)
    codec = model if isinstance(model, Codec) else None
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "method": metadata.get("method") or UNKNOWN,
        "run": metadata.get("run") or UNKNOWN,
        "licence": metadata.get("licence") or UNKNOWN,
        "data": metadata.get("data") or metadata.get("train_set") or UNKNOWN,
        "samples": metadata.get("samples") or UNKNOWN,
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model_id": codec.model_id.hex() if codec and codec.is_ready else None,
        "rates": _rates(codec, metadata),
        "noise": _noise(codec, metadata),
        "same_machine": None if codec is None else not codec.exact,
    }


def _rates(codec: object | None, metadata: dict) -> str:
    if codec is None:
        return "none: not a codec"
    if codec.any_rate:
        return "any: quality 0 to 100"
    return f"one: lmbda {metadata['lmbda']:g}" if is_number(metadata.get("lmbda")) else "one"


def _noise(codec: object | None, metadata: dict) -> str:
    from jdcsuite.coding.conditions import MAX_SIGMA

    if codec is not None and codec.any_rate:
        return f"any up to sigma {MAX_SIGMA:g}, estimated from the image"
    return f"sigma {metadata['sigma']:g}" if is_number(metadata.get("sigma")) else "as in its training data"


def formatted(name: str, value: object) -> str:
    """The value of a property as text for a table."""
    if name == "same_machine":
        return "yes: opens for certain only on the machine that wrote it" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({size} bytes)" for name, size in value.items()) or "none"
    return f"{value:.4f}" if name in ("bpp", "guide_bpp") else f"{value:g}" if isinstance(value, float) else str(value)
