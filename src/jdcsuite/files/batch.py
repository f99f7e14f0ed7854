"""Tasks, a picture each -> each done or told why not: the work of `jdc compress` and `jdc decompress`, in this
process or in several.

The codec's libraries take seconds to load, so the functions that code import them: a wrong path is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jdcsuite.coding.container import unpack
from jdcsuite.files import pool
from jdcsuite.files.choosing import Asked, Coding, File, choose
from jdcsuite.files.paths import Task
from jdcsuite.types import CorruptFile, UserError

if TYPE_CHECKING:
    from jdcsuite.coding.codec import Codec


@dataclass(frozen=True)
class Options:
    """What is the same for every picture. ``weights``: one file, or several to choose from. ``asked``: of every file
    that is compressed."""

    weights: tuple[Path, ...]
    device: str = "cpu"
    force: bool = False
    verify: bool = True
    keep_metadata: bool = False
    asked: Asked = field(default_factory=Asked)


@dataclass(frozen=True)
class Done:
    """``error``: the sentence of a picture that failed. ``note``: what else is to be said of it, ``warning``: what is
    wrong with it though it was done. ``same_machine``: its file is marked so."""

    task: Task
    read: int = 0
    written: int = 0
    pixels: int = 0
    note: str = ""
    same_machine: bool = False
    error: str = ""
    warning: str = ""


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


def check(options: Options) -> None:
    """UserError where not all of the weights can serve what is asked: told once, before any picture."""
    from jdcsuite.files.compression import check_asked

    asked = options.asked
    if asked.has_target and asked.quality is not None:
        raise UserError("a quality and a target are asked for: leave one of them out")
    if (asked.sigma, asked.quality, asked.strength) == (None, None, None):
        return  # weights are loaded by those who code
    for _, codec in _rungs(options):
        check_asked(codec, sigma=asked.sigma, quality=asked.quality, strength=asked.strength)


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
    from jdcsuite.artifacts.weights import read_about
    from jdcsuite.files import compression, noisiness
    from jdcsuite.imaging import atomic
    from jdcsuite.imaging.picture import Picture

    picture, asked = Picture.read(task.source), options.asked
    pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
    metadata = picture.metadata if options.keep_metadata else {}
    codings = []
    for path, codec in _rungs(options):
        encode = partial(
            compression.compress, picture.pixels, codec, tile=asked.tile, metadata=metadata, grey=picture.grey
        )
        decode = partial(_verified, codec=codec, pixels=picture.pixels)
        codings.append(Coding(path, codec, picture.pixels, asked, encode, decode, metadata))
    one = choose(codings, pixels)
    if options.verify and not one.was_decoded:
        one.decode(one.data)
    atomic.write(task.target, one.data)
    warning = noisiness.warning(picture.pixels, read_about(one.weights), one.request, sigma=asked.sigma)
    note = _note(one, pixels, asked) if one.request or asked.has_target else ""
    read, same_machine = task.source.stat().st_size, unpack(one.data).same_machine
    return Done(task, read, len(one.data), pixels, note, same_machine, warning=warning)


def _note(one: File, pixels: int, asked: Asked) -> str:
    said = one.described(pixels) + (" to the input, noise included" if one.was_decoded else "")
    if one.request is None:
        return f"{one.name}, {said}"
    noise = f"noise {one.request.noise / 16:.1f} {'estimated' if asked.sigma is None else 'as given'}"
    return ", ".join([noise, *(["kept"] if one.request.strength == 0 else []), said])


def _verified(data: bytes, *, codec: Codec, pixels: np.ndarray) -> float:
    """dB between a picture and what ``data`` decodes to: from the bytes alone, its symbols checked on the way."""
    from jdcsuite.files import compression

    try:
        decoded = compression.decompress(data, codec)
    except CorruptFile as error:
        raise CorruptFile(f"the file did not decode when it was verified, and was not written ({error})") from error
    if decoded.shape != pixels.shape or decoded.dtype != pixels.dtype:
        raise CorruptFile("the file decoded to another size when it was verified, and was not written")
    return compression.psnr(decoded, pixels)


def _decompress(task: Task, options: Options) -> Done:
    from jdcsuite.files import compression
    from jdcsuite.imaging import atomic
    from jdcsuite.imaging.picture import Picture
    from jdcsuite.imaging.write import encode

    data = task.source.read_bytes()
    contents = unpack(data)
    weights = _with_id(contents.model_id, options)
    pixels = compression.decompress(data, weights, device=options.device)
    picture = Picture(pixels, bool(contents.colour), contents.metadata)
    image = encode(picture, task.target)
    atomic.write(task.target, image)
    return Done(task, len(data), len(image), contents.height * contents.width)


def _with_id(model_id: bytes, options: Options) -> Path:
    """The one of the weights that wrote a file."""
    from jdcsuite.artifacts.weights import SHIPPED

    others = []
    for weights, codec in _rungs(options):
        if codec.model_id == model_id:
            return weights
        others.append(codec.model_id.hex())
    given = f"none of the {len(others)} weights given is"
    if len(others) == 1:
        own = options.weights[0] == SHIPPED.resolve()
        given = f"{'those that came with jdcsuite' if own else 'the weights given'} are {others[0]}"
    raise CorruptFile(f"this file was written with weights {model_id.hex()} and {given}: give those with --weights")


def _rungs(options: Options) -> Iterator[tuple[Path, Codec]]:
    """The codecs among the weights: a folder of runs also holds networks that code nothing."""
    from jdcsuite.files import compression

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
