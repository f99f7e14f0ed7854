"""Tasks, a picture each -> each done or told why not: the work of `jdc compress`, `jdc decompress` and `jdc info`, in
this process or in several.

The codec's libraries take seconds to load, so the functions that code import them: a wrong path is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jdcsuite import pool
from jdcsuite.entropy.container import CorruptFile, header_bytes, unpack
from jdcsuite.paths import Task
from jdcsuite.types import UserError

if TYPE_CHECKING:
    from jdcsuite.models.codec import Codec


@dataclass(frozen=True)
class Options:
    """What is the same for every picture. ``weights``: one file, or a ladder to choose from. ``sigma``: None = auto.
    ``target_bpp``, ``target_psnr``: what a rung must meet, in bits per pixel (at most) and dB (at least)."""

    weights: tuple[Path, ...]
    device: str = "cpu"
    force: bool = False
    sigma: float | None = None
    tile: int = 1024
    verify: bool = True
    keep_metadata: bool = False
    target_bpp: float | None = None
    target_psnr: float | None = None


@dataclass(frozen=True)
class Done:
    """``error``: the sentence of a picture that failed. ``note``: what else is to be said of it. ``same_machine``: its
    file is marked so."""

    task: Task
    read: int = 0
    written: int = 0
    pixels: int = 0
    note: str = ""
    same_machine: bool = False
    error: str = ""


# -- what is said -----------------------------------------------------------------------------------------------


def summary(results: list[Done], *, decode: bool) -> str:
    """Pictures, bytes in and out, how many times smaller the coded ones are, and their bits per pixel."""
    done = [one for one in results if not one.error]
    read, written = sum(one.read for one in done), sum(one.written for one in done)
    small, large = (read, written) if decode else (written, read)
    pixels = sum(one.pixels for one in done)
    parts = [f"{len(done)} picture{'s' * (len(done) != 1)}"]
    if done:
        parts += [f"{read} -> {written} bytes", f"ratio {large / small:.2f}", f"{8 * small / pixels:.3f} bpp"]
    if bound := sum(one.same_machine for one in done):
        parts.append(f"{bound} open for certain on this machine only")
    if len(done) < len(results):
        parts.append(f"{len(results) - len(done)} failed")
    return ", ".join(parts)


def describe(path: Path) -> dict[str, object]:
    """What a `.jdc` file says of itself. UserError: no such file, or not a whole one."""
    try:
        data = path.read_bytes()
        contents = unpack(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except CorruptFile as error:
        raise UserError(f"{path}: {error}") from None
    down, across = ((side - 1) // (contents.tile or side) + 1 for side in (contents.height, contents.width))
    return {
        "file": str(path),
        "bytes": len(data),
        "width": contents.width,
        "height": contents.height,
        "bpp": 8 * len(data) / (contents.width * contents.height),
        "bit_depth": contents.bit_depth,
        "colour": "grey" if contents.colour else "rgb",
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


def shown(value: object) -> str:
    """A value of `describe` for people."""
    if isinstance(value, bool):
        return "yes: opens for certain only on the machine that wrote it" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({size} bytes)" for name, size in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "none" if value is None else str(value)


# -- doing it ---------------------------------------------------------------------------------------------------


def run(
    tasks: list[Task],
    options: Options,
    *,
    decode: bool,
    jobs: int = 1,
    work: Callable[[Task], Done] | None = None,
) -> Iterator[Done]:
    """Every task, as each ends. ``jobs``: processes (`pool`). ``work``: for the tests."""
    work = work or partial(_guarded, options=options, decode=decode)
    yield from pool.run(tasks, work, jobs=jobs, died=lambda task: Done(task, error=pool.DIED))


def _guarded(task: Task, *, options: Options, decode: bool) -> Done:
    """One picture; whatever is wrong with it alone is its error, and the others are still done."""
    try:
        if task.target.exists() and not options.force:
            raise UserError(f"{task.target} exists: give --force to replace it, or another place")
        if task.target.exists() and task.target.samefile(task.source):
            raise UserError(f"{task.target} is the input itself: give another place")
        task.target.parent.mkdir(parents=True, exist_ok=True)
        return (_decompress if decode else _compress)(task, options)
    except (UserError, CorruptFile) as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename or task.target}: {error.strerror or error}"
    except MemoryError:
        said = "there is not enough memory: give a smaller --tile, or fewer --jobs"
    except RuntimeError as error:  # torch's; those of a full memory among them
        said = f"it could not be coded ({str(error).splitlines()[0]}): a smaller --tile needs less memory"
    except Exception as error:  # a fault of ours must not take the other pictures with it
        said = f"unforeseen {type(error).__name__} ({error}): please report it"
    return Done(task, error=said)


def _compress(task: Task, options: Options) -> Done:
    from jdcsuite import compression
    from jdcsuite.data import files

    picture = files.read(task.source)
    pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
    encode = partial(
        compression.compress,
        picture.pixels,
        sigma=options.sigma,
        tile=options.tile,
        metadata=picture.metadata if options.keep_metadata else {},
        grey=picture.grey,
        device=options.device,
    )
    if options.target_bpp is None and options.target_psnr is None:
        data, note = encode(options.weights[0]), ""
        if options.verify:
            _verified(data, options.weights[0], picture.pixels, options.device)
    else:
        data, note = _best_rung(encode, picture.pixels, options)
    files.write(task.target, data)
    return Done(task, task.source.stat().st_size, len(data), pixels, note, unpack(data).same_machine)


def _verified(data: bytes, weights: Path, pixels: np.ndarray, device: str) -> np.ndarray:
    """The picture that ``data`` decodes to: from the bytes alone, its symbols checked on the way."""
    from jdcsuite import compression

    try:
        decoded = compression.decompress(data, weights, device=device)
    except CorruptFile as error:
        raise CorruptFile(f"the file did not decode when it was verified, and was not written ({error})") from error
    if decoded.shape != pixels.shape or decoded.dtype != pixels.dtype:
        raise CorruptFile("the file decoded to another size when it was verified, and was not written")
    return decoded


def _best_rung(encode: partial[bytes], pixels: np.ndarray, options: Options) -> tuple[bytes, str]:
    """Every rung tried; of those that meet the targets the smallest file where a PSNR is asked for, else the one
    nearest to the input. Always decoded, so always verified."""
    from jdcsuite.compression import psnr

    area = pixels.shape[0] * pixels.shape[1]
    tried = []
    for weights, _ in _rungs(options):
        data = encode(weights)
        db = psnr(_verified(data, weights, pixels, options.device), pixels)
        tried.append((8 * len(data) / area, db, weights, data))
    most = float("inf") if options.target_bpp is None else options.target_bpp
    least = 0.0 if options.target_psnr is None else options.target_psnr
    meeting = [rung for rung in tried if rung[0] <= most and rung[1] >= least]
    if not meeting:
        reached = "; ".join(f"{_rung(w)}: {bpp:.3f} bpp, {db:.2f} dB" for bpp, db, w, _ in tried)
        raise UserError(f"no rung meets the target ({reached}): give another target or more --weights")
    by_size = options.target_psnr is not None
    bpp, db, weights, data = min(meeting, key=lambda rung: rung[0] if by_size else -rung[1])
    return data, f"{_rung(weights)}, {bpp:.3f} bpp, {db:.2f} dB to the input, noise included"


def _rung(weights: Path) -> str:
    """A run's name, or that of a weights file that was exported."""
    return weights.parent.name if weights.name == "weights.safetensors" else weights.stem


def _decompress(task: Task, options: Options) -> Done:
    from jdcsuite import compression
    from jdcsuite.data import files

    data = task.source.read_bytes()
    contents = unpack(data)
    weights = _with_id(contents.model_id, options)
    pixels = compression.decompress(data, weights, device=options.device)
    picture = files.Picture(pixels, bool(contents.colour), contents.metadata)
    image = files.encode(picture, task.target)
    files.write(task.target, image)
    return Done(task, len(data), len(image), contents.height * contents.width)


def _with_id(model_id: bytes, options: Options) -> Path:
    """The one of the weights that wrote a file."""
    others = []
    for weights, codec in _rungs(options):
        if codec.model_id == model_id:
            return weights
        others.append(codec.model_id.hex())
    given = f"the weights given are {others[0]}" if len(others) == 1 else f"none of the {len(others)} weights given is"
    raise CorruptFile(f"this file was written with weights {model_id.hex()} and {given}: give those with --weights")


def _rungs(options: Options) -> Iterator[tuple[Path, Codec]]:
    """The codecs among the weights: a folder of runs also holds networks that code nothing."""
    from jdcsuite import compression

    found = 0
    for weights in options.weights:
        try:
            codec = compression.load(weights, device=options.device)
        except compression.NoCodec:
            if len(options.weights) == 1:
                raise
            continue
        found += 1
        yield weights, codec
    if not found:
        raise UserError(f"none of the {len(options.weights)} weights given is a codec's: give a codec's run")
