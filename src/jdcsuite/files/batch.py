"""Compress or decompress many files, in this process or in several; one failure never stops the rest.

The libraries of the codec take seconds to load, so they are imported by the functions that code: a wrong path is
reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jdcsuite.coding.container import unpack
from jdcsuite.files import pool
from jdcsuite.files.paths import Item, read_coded
from jdcsuite.files.rate_control import CompressionOptions, EncodedFile, ImageEncoder, choose
from jdcsuite.imaging import atomic
from jdcsuite.types import CorruptFile, UserError

if TYPE_CHECKING:
    from jdcsuite.coding.codec import Codec
    from jdcsuite.imaging.picture import Picture


@dataclass(frozen=True)
class BatchOptions:
    """Options of all files. ``weights``: one weights file, or several to choose from. ``max_memory``: bytes that
    decoding a file may take, None for any."""

    weights: tuple[Path, ...]
    device: str = "cpu"
    force: bool = False
    verify: bool = True
    keep_metadata: bool = False
    max_memory: int | None = None
    compression: CompressionOptions = field(default_factory=CompressionOptions)


@dataclass(frozen=True)
class Outcome:
    """Result of one file. ``read``, ``written``: bytes. ``error``: why it failed. ``note``: the chosen settings.
    ``warning``: of a file that was written. ``same_machine``: it opens for certain on this machine only."""

    item: Item
    read: int = 0
    written: int = 0
    pixels: int = 0
    note: str = ""
    same_machine: bool = False
    error: str = ""
    warning: str = ""


def summary(outcomes: list[Outcome], *, decode: bool) -> str:
    """One line: images, bytes read and written, compression ratio, bits per pixel, failures."""
    succeeded = [outcome for outcome in outcomes if not outcome.error]
    read, written = sum(outcome.read for outcome in succeeded), sum(outcome.written for outcome in succeeded)
    small, large = (read, written) if decode else (written, read)
    pixels = sum(outcome.pixels for outcome in succeeded)
    parts = [f"{len(succeeded)} image{'s' * (len(succeeded) != 1)}"]
    if succeeded:
        parts += [f"{read} -> {written} bytes", f"ratio {large / small:.2f}", f"{8 * small / pixels:.3f} bpp"]
    if bound := sum(outcome.same_machine for outcome in succeeded):
        parts.append(f"{bound} open for certain on this machine only")
    if len(succeeded) < len(outcomes):
        parts.append(f"{len(outcomes) - len(succeeded)} failed")
    return ", ".join(parts)


def check(options: BatchOptions, *, decode: bool) -> list[str]:
    """Load all weights and check the options against them, so that a mistake is reported once and before any image.
    Returns why some of several weights cannot be used. UserError: no weights, device or options that can be used."""
    from jdcsuite.files import compression

    wanted = options.compression
    if wanted.has_target and wanted.quality is not None:
        raise UserError("both a quality and a target were given: leave one of them out")
    compression.check_tile(wanted.tile)
    unusable: list[str] = []
    for _, codec in _codecs(options, unusable):
        if not decode:
            compression.check_tile(wanted.tile, codec)
            compression.check_options(codec, sigma=wanted.sigma, quality=wanted.quality, strength=wanted.strength)
    return unusable


def run(
    items: list[Item],
    options: BatchOptions,
    *,
    decode: bool,
    jobs: int = 1,
    work: Callable[[Item], Outcome] | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of every file as it finishes. ``jobs``: number of processes. ``work``: replaced by tests."""
    work = work or partial(_process, options=options, decode=decode)
    yield from pool.run(
        items, work, jobs=jobs, died=lambda item: Outcome(item, error=f"{pool.DIED}: {_advice(decode)}")
    )


def _process(item: Item, *, options: BatchOptions, decode: bool) -> Outcome:
    """One file; every exception becomes its error."""
    try:
        atomic.check(item.target)
        if item.target.exists() and not options.force:
            raise UserError(f"{item.target} exists: give --force to replace it, or another place")
        if item.target.exists() and item.target.samefile(item.source):
            raise UserError(f"{item.target} is the input itself: give another place")
        item.target.parent.mkdir(parents=True, exist_ok=True)
        return (_decompress if decode else _compress)(item, options)
    except Exception as error:  # must not stop the other files
        return Outcome(item, error=pool.reason(error, item.target, advice=_advice(decode)))


def _advice(decode: bool) -> str:
    """What needs less memory. The tiles of a file are those that it was written with."""
    return pool.FEWER if decode else pool.SMALLER


def _compress(item: Item, options: BatchOptions) -> Outcome:
    from jdcsuite.artifacts.weights import read_about
    from jdcsuite.files import compression, noisiness
    from jdcsuite.imaging.depth import Depth
    from jdcsuite.imaging.metadata import is_srgb
    from jdcsuite.imaging.picture import Picture

    image, wanted = Picture.read(item.source), options.compression
    pixels = image.pixels.shape[0] * image.pixels.shape[1]
    metadata = image.metadata if options.keep_metadata else {}
    encoders = []
    for path, codec in _codecs(options):
        encode = partial(
            compression.compress, image.pixels, codec, tile=wanted.tile, metadata=metadata, grey=image.grey,
            depth=image.depth,
        )  # fmt: skip
        measure = partial(_verified_psnr, codec=codec, image=image)
        encoders.append(ImageEncoder(path, codec, image.full_scale, wanted, encode, measure, metadata))
    file = choose(encoders, pixels)
    warnings = [noisiness.warning(image.full_scale, read_about(file.weights), file.request, sigma=wanted.sigma)]
    if options.verify:
        psnr = file.psnr if file.was_decoded else file.measure(file.data)
        warnings.append(noisiness.loss_warning(image.full_scale, psnr, file.request, sigma=wanted.sigma))
    atomic.write(item.target, file.data)
    if wanted.sigma is not None and image.bit_depth == 16 and image.declared is None and image.depth.bits < 16:
        warnings.append(
            f"its largest sample suggests {image.depth.bits} bits, and --sigma was taken in 256ths of their full scale"
        )
    if "icc" in image.metadata and not metadata and not is_srgb(image.metadata["icc"]):
        warnings.append("its colours will look different: its ICC profile is not sRGB, keep it by --keep-metadata")
    if image.lost_colour:
        declared = ", ".join(image.lost_colour)
        warnings.append(f"its colours will look different: a .jdc file does not hold their declaration, {declared}")
    note = _note(file, pixels, wanted) if file.request or wanted.has_target else ""
    if (contents := unpack(file.data)).depth != Depth():
        note = f"{image.depth.bits - image.depth.shift} bits in 16-bit words{note and ', '}{note}"
    size = item.source.stat().st_size
    warning = "; ".join(filter(None, warnings))
    return Outcome(item, size, len(file.data), pixels, note, contents.same_machine, warning=warning)


def _note(file: EncodedFile, pixels: int, options: CompressionOptions) -> str:
    result = file.describe(pixels) + (" against the input, noise included" if file.was_decoded else "")
    if file.request is None:
        return f"{file.codec_name}, {result}"
    noise = f"noise {file.request.noise / 16:.1f} {'estimated' if options.sigma is None else 'as given'}"
    return ", ".join([noise, *(["kept"] if file.request.strength == 0 else []), result])


def _verified_psnr(data: bytes, *, codec: Codec, image: Picture) -> float:
    """PSNR in dB of the image that ``data`` decodes to. CorruptFile: it does not decode, or to other symbols."""
    from jdcsuite.files import compression

    try:
        decoded = compression.decompress(data, codec)
    except CorruptFile as error:
        raise CorruptFile(f"the file failed verification and was not written ({error})") from error
    if decoded.shape != image.pixels.shape or decoded.dtype != image.pixels.dtype:
        raise CorruptFile("the file failed verification (it decodes to another size) and was not written")
    return compression.psnr(decoded, image.pixels, peak=image.depth.peak)


def _decompress(item: Item, options: BatchOptions) -> Outcome:
    from jdcsuite.files import compression
    from jdcsuite.imaging.picture import Picture
    from jdcsuite.imaging.write import encode

    data = read_coded(item.source)
    contents = unpack(data)
    pixels = compression.decompress(data, _codec_with_id(contents.model_id, options), max_memory=options.max_memory)
    image = encode(Picture(pixels, bool(contents.colour), contents.metadata), item.target)
    atomic.write(item.target, image)
    return Outcome(item, len(data), len(image), contents.height * contents.width)


def _codec_with_id(model_id: bytes, options: BatchOptions) -> Codec:
    """The codec that wrote a file. CorruptFile: none of the weights did."""
    from jdcsuite.artifacts.weights import SHIPPED

    others = []
    for _, codec in _codecs(options):
        if codec.model_id == model_id:
            return codec
        others.append(codec.model_id.hex())
    given = f"none of the {len(others)} weights given is"
    if len(others) == 1:
        shipped = options.weights[0] == SHIPPED.resolve()
        given = f"{'the weights in jdcsuite' if shipped else 'the weights given'} are {others[0]}"
    raise CorruptFile(f"this file was written with weights {model_id.hex()} and {given}: give those with --weights")


def _codecs(options: BatchOptions, unusable: list[str] | None = None) -> Iterator[tuple[Path, Codec]]:
    """The codecs among the weights; other networks in a folder of runs are skipped, and damaged files, which
    ``unusable`` receives. UserError: there is no codec."""
    from jdcsuite.files import compression

    count, reasons = 0, [] if unusable is None else unusable
    for path in options.weights:
        try:
            codec = compression.load(path, device=options.device)
        except UserError as error:
            if len(options.weights) == 1:
                raise
            if not isinstance(error, compression.NoCodec):
                reasons.append(str(error))
            continue
        count += 1
        yield path, codec
    if not count:
        nothing = f"none of the {len(options.weights)} weights given is a codec: give a codec's run"
        raise UserError(reasons[0] if reasons else nothing)
