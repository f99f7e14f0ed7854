"""`jdc compress | decompress | info | noise | predenoise`: verbs that read and write image and `.jdc` files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from jdcsuite.cli.options import Device, Force, Jobs, Json, noise_level, size, within
from jdcsuite.types import UserError

if TYPE_CHECKING:
    from jdcsuite.files.batch import BatchOptions
    from jdcsuite.files.paths import Item

T = TypeVar("T")
Images = Annotated[list[str], typer.Argument(metavar="IN...", help="images, folders of images, or glob patterns")]
Coded = Annotated[list[str], typer.Argument(metavar="IN...", help=".jdc files, folders of them, or glob patterns")]
Out = Annotated[str, typer.Option("-o", "--out", help="file for one image, folder for several")]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN_OR_FILE",
        help="run folder or .safetensors file; may be repeated, a pattern, or a folder of runs, to choose from; "
        "default: the weights in jdcsuite, for any noise and rate",
    ),
]


def compress(
    inputs: Images,
    out: Out,
    weights: Weights = None,
    quality: Annotated[
        float | None,
        typer.Option(
            parser=within("quality", 0, 100, "0 (smallest file) to 100"), metavar="0..100",
            help="0 gives the smallest file; default: where more bits would mostly code errors of the denoising",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            parser=within("strength", 0, 1, "0 (keep the noise) to 1 (remove it)"), metavar="0..1",
            help="share of the noise to remove; default: 1, all of it",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            parser=noise_level, metavar="auto|NUMBER",
            help="noise level in 8-bit grey levels; default: auto, estimated from the image",
        ),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(
            parser=within("target-bpp", 1e-9, 1e9, "bits per pixel above 0"), metavar="NUMBER",
            help="best quality within this rate in bits per pixel",
        ),
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            parser=within("target-psnr", 0, 99, "0 to 99 dB"), metavar="NUMBER",
            help="smallest file with this PSNR in dB, against the input, noise included: a codec that denoises well "
            "ends near the PSNR of the noise itself, at any rate",
        ),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            parser=size("max-size"), metavar="BYTES", help="best quality within this file size: 200000, 200k, 1.5M"
        ),
    ] = None,
    tile: Annotated[int, typer.Option(help="tile side in pixels, a multiple of 64; 0: one tile")] = 1024,
    keep_metadata: Annotated[bool, typer.Option("--keep-metadata", help="keep ICC profile and EXIF")] = False,
    verify: Annotated[bool, typer.Option(help="decode every file before it is written")] = True,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:  # fmt: skip
    """Denoise and compress images (PNG, JPEG, WebP, TIFF, BMP; 8 or 16 bits) to .jdc files."""
    from jdcsuite.files import batch, paths
    from jdcsuite.files.rate_control import CompressionOptions
    from jdcsuite.imaging.write import FORMATS

    inputs, weights = paths.split_off_weights(inputs, weights or [])
    items = paths.plan(inputs, out, suffix=".jdc", coded=False)
    if Path(out).suffix.lower() in FORMATS and items[0].target == Path(out):
        raise UserError(f"{out} has the name of an image: give a name that ends in .jdc")
    files = _weights_files(weights)
    compression = CompressionOptions(
        sigma=sigma, quality=quality, strength=strength, target_bpp=target_bpp, target_psnr=target_psnr,
        max_size=max_size, tile=tile,
    )  # fmt: skip
    if len(files) > 1 and not compression.has_target:
        raise UserError(f"{len(files)} weights to choose from: give --target-bpp or --target-psnr, or name one of them")
    options = batch.BatchOptions(
        weights=files, device=device, force=force, verify=verify, keep_metadata=keep_metadata, compression=compression
    )
    _process(items, options, decode=False, jobs=jobs, left_out=paths.left_out(inputs, coded=False))


def decompress(
    inputs: Coded,
    out: Out,
    weights: Weights = None,
    format_: Annotated[
        str, typer.Option("--format", help="of images in an output folder: png, tif, webp (lossless) or jpg")
    ] = "png",
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=size("max-memory"), metavar="BYTES",
            help="refuse files that take more to decode, as 2G, beside the weights; default: any",
        ),
    ] = None,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:  # fmt: skip
    """Decompress .jdc files to images. Of several weights, those that wrote a file are used."""
    from jdcsuite.files import batch, paths
    from jdcsuite.imaging.write import FORMATS

    suffix = f".{format_.lower().removeprefix('.')}"
    if suffix not in FORMATS:
        raise UserError(f"--format {format_} is no known image format: use {', '.join(FORMATS)}")
    inputs, weights = paths.split_off_weights(inputs, weights or [])
    items = paths.plan(inputs, out, suffix=suffix, coded=True)
    for item in items:
        if item.target.suffix.lower() not in FORMATS:
            raise UserError(f"{item.target} ends in no known image format: use {', '.join(FORMATS)}")
    options = batch.BatchOptions(weights=_weights_files(weights), device=device, force=force, max_memory=max_memory)
    _process(items, options, decode=True, jobs=jobs, left_out=paths.left_out(inputs, coded=True))


def _weights_files(words: list[str]) -> tuple[Path, ...]:
    """The weights that were named, or those in the package."""
    from jdcsuite.files import paths

    if words:
        return paths.weights_files(words)
    from jdcsuite.artifacts.weights import shipped

    return (shipped().resolve(),)


def _process(items: list[Item], options: BatchOptions, *, decode: bool, jobs: int, left_out: list[str]) -> None:
    """Process all files under a progress bar, then report failures and totals. Exit status 1 if any file failed."""
    from jdcsuite.files import batch

    for reason in batch.check(options, decode=decode):
        print(f"jdc: warning: {reason}", file=sys.stderr)
    outcomes = []
    results = batch.run(items, options, decode=decode, jobs=jobs)
    for outcome in _progress(results, "decompressing" if decode else "compressing", len(items)):
        outcomes.append(outcome)
        if outcome.note:
            print(f"{outcome.item.source} -> {outcome.item.target}: {outcome.note}")
    for outcome in outcomes:
        if outcome.warning and not outcome.error:
            print(f"jdc: warning: {outcome.item.source}: {outcome.warning}", file=sys.stderr)
    errors = [_named(outcome.error, outcome.item.source) for outcome in outcomes if outcome.error]
    _end(errors, batch.summary(outcomes, decode=decode), left_out)


def info(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help=".jdc files or folders of them, weights files or run folders"),
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="weights files or run folders; default without FILE: those in jdcsuite")
    ] = None,
    json_: Json = False,
) -> None:
    """Show the properties of .jdc files (no weights needed), or the licence, data and use of weights."""
    from jdcsuite.files import description, paths

    files, weights = files or [], weights or []
    if not files and not weights:
        from jdcsuite.artifacts.weights import shipped

        weights = [shipped()]
    described, errors = [], []
    for file in [*(path for given in files for path in paths.describable(given)), *weights]:
        try:
            is_weights = file in weights or paths.is_weights(file)
            described.append(description.of_weights(file) if is_weights else description.of_file(file))
        except UserError as error:
            errors.append(str(error))
    if json_:
        print(json.dumps(described, indent=2))
    else:
        for properties in described:
            print(properties["file"])
            table = Table(show_header=False)
            for name, value in properties.items():
                if name != "file" and value is not None:
                    table.add_row(name.replace("_", " "), Text(description.formatted(name, value)))
            Console().print(table)
    _end(errors)


def noise(inputs: Images, json_: Json = False, jobs: Jobs = 1) -> None:
    """Estimate the noise level of images in 8-bit grey levels: of any noise, and assuming that it is white."""
    from jdcsuite.files import noisiness, paths

    estimates = list(noisiness.estimates(paths.images(inputs), jobs=jobs))
    measured = [estimate for estimate in estimates if not estimate.error]
    if json_:
        print(json.dumps([{k: v for k, v in asdict(e).items() if k != "error"} for e in measured], indent=2))
    elif measured:
        table = Table("image", "noise", "white", "correlated", caption=f"noise: {measured[0].estimator} estimate")
        for e in measured:
            table.add_row(Text(e.picture), f"{e.noise:.1f}", f"{e.white:.1f}", "yes" if e.correlated else "no")
        Console().print(table)
    _end([estimate.error for estimate in estimates if estimate.error], left_out=paths.left_out(inputs, coded=False))


def predenoise(
    inputs: Images,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to make, with noisy/ and clean/")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="RUN_OR_FILE|nlm|bm3d",
            help="the denoiser: a run or weights file, non-local means, or BM3D; bm3d is an extra for non-commercial "
            "use only (pip install jdcsuite\\[bm3d])",
        ),
    ],
    sigma: Annotated[
        float | None,
        typer.Option(
            parser=noise_level,
            metavar="auto|NUMBER",
            help="noise level in 8-bit grey levels, for nlm and bm3d; default: auto, estimated from each image",
        ),
    ] = None,
    tile: Annotated[
        int, typer.Option(help="tile side in pixels, without seams; 0: one tile; bm3d always uses one")
    ] = 512,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="replace the pairs of an earlier predenoise in OUT")] = False,
) -> None:
    """Make training pairs for +experiment=jdc_ud_whole: noisy images, and what a denoiser makes of them.

    scores.csv in OUT lists MS-SSIM(target, input) of each image; predenoised.json names the denoiser and the scenes it
    was trained on, on which training then refuses to test.
    """
    from jdcsuite.files import paths, predenoising

    images = predenoising.plan(inputs, out)
    denoise, teacher = predenoising.load_teacher(weights, sigma=sigma, tile=tile, device=device)
    predenoising.prepare(out, force=force)
    if teacher.train_scenes is None:
        print(
            f"jdc: warning: {weights} does not state its training scenes: make sure that none of them is tested",
            file=sys.stderr,
        )
    results = predenoising.run(images, denoise, teacher, out, processes=jobs)
    outcomes = list(_progress(results, "denoising", len(images)))
    errors = [_named(outcome.error, outcome.image.path) for outcome in outcomes if outcome.error]
    _end(errors, predenoising.summary(outcomes, out), paths.left_out(inputs, coded=False))


def _progress(results: Iterable[T], title: str, total: int) -> Iterator[T]:
    """``results`` under a progress bar, if stderr is a terminal."""
    terminal = Console(stderr=True)
    yield from track(results, title, total=total, console=terminal, transient=True, disable=not terminal.is_terminal)


def _named(error: str, source: Path) -> str:
    """The error with the name of its file, unless it has it already."""
    return error if str(source) in error else f"{source}: {error}"


def _end(errors: list[str], summary: str = "", left_out: Iterable[str] = ()) -> None:
    """Report errors, files of folders that were left out, and the totals. Exit status 1 if there are errors."""
    for error in errors:
        print(f"jdc: {error}", file=sys.stderr)
    for folder in left_out:
        print(f"jdc: warning: {folder}", file=sys.stderr)
    if summary:
        print(summary)
    if errors:
        raise typer.Exit(1)
