"""`jdc compress | decompress | info | noise`: the verbs that work on pictures and `.jdc` files."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jdcsuite.types import UserError

if TYPE_CHECKING:
    from jdcsuite.files.batch import Options
    from jdcsuite.files.paths import Task

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kmg]?)(i?)b?", re.IGNORECASE)


def within(name: str, lowest: float, highest: float, cure: str) -> Callable[[str], float]:
    """Parses a number of ``lowest`` to ``highest``, not infinite."""

    def parse(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest or math.isinf(number):
            raise UserError(f"--{name} {word} is not possible: give {cure}")
        return number

    return parse


def level(word: str) -> float | None:
    """A noise level; None for ``auto``."""
    if word == "auto":
        return None
    try:
        sigma = float(word)
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma < math.inf:
        raise UserError(f"--sigma {word} is no noise level: give auto or grey levels of 0 or more")
    return sigma


def size(word: str) -> int:
    """Bytes; k, M and G are thousands, Ki, Mi and Gi 1024s."""
    match = _SIZE.fullmatch(word.strip())
    if match is None or (match[3] and not match[2]):
        raise UserError(f"--max-size {word} is no size: give bytes, as in 200000, 200k or 1.5M")
    base = 1024 if match[3] else 1000
    number = int(float(match[1]) * base ** " kmg".index(match[2].lower() or " "))
    if number < 1:
        raise UserError(f"--max-size {word} is no size: give bytes, as in 200000, 200k or 1.5M")
    return number


Weights = Annotated[
    list[str] | None,
    typer.Option(
        help="run folder or .safetensors file; several, a glob or a folder of runs to choose from; "
        "default: the weights that came with jdcsuite, for any noise and rate"
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="processes, each with its share of the cores")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Force = Annotated[bool, typer.Option("--force", help="replace outputs that exist")]
Pictures = Annotated[list[str], typer.Argument(metavar="IN...", help="pictures, folders of them, globs")]
Out = Annotated[str, typer.Option("-o", "--out", help="file for one picture, folder for several")]
Json = Annotated[bool, typer.Option("--json", help="a list of objects, for scripts")]


def compress(
    inputs: Pictures,
    out: Out,
    weights: Weights = None,
    quality: Annotated[
        float | None,
        typer.Option(
            parser=within("quality", 0, 100, "0 (smallest file) to 100"), metavar="0..100",
            help="0 is the smallest file; default: where more bits would mostly code what denoising got wrong",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            parser=within("strength", 0, 1, "0 (keep the noise) to 1 (remove it)"), metavar="0..1",
            help="how much of the noise is removed; default: 1, all of it",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            parser=level, metavar="auto|NUMBER", help="noise in 8-bit grey levels; default: auto, it is estimated"
        ),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(
            parser=within("target-bpp", 1e-9, 1e9, "bits a pixel above 0"), metavar="NUMBER",
            help="the nearest to the input in at most so many bits a pixel",
        ),
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            parser=within("target-psnr", 0, 99, "0 to 99 dB"), metavar="NUMBER",
            help="the smallest file with at least so many dB. Measured against the input, noise included: a codec that "
            "denoises well ends near the noise's own PSNR, however many bits it spends",
        ),
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(parser=size, metavar="BYTES", help="no file is larger: 200000, 200k, 1.5M")
    ] = None,
    tile: Annotated[int, typer.Option(help="side of a tile in pixels, a multiple of 64; 0: one tile")] = 1024,
    keep_metadata: Annotated[bool, typer.Option("--keep-metadata", help="keep the ICC profile and EXIF")] = False,
    verify: Annotated[bool, typer.Option(help="decode every file from its bytes before it is written")] = True,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:  # fmt: skip
    """Noisy pictures (PNG, JPEG, WebP, TIFF, BMP; 8 or 16 bits) -> .jdc files, denoised as they are compressed."""
    from jdcsuite.files import batch, paths
    from jdcsuite.files.choosing import Asked
    from jdcsuite.imaging.write import FORMATS

    inputs, weights = paths.divide(inputs, weights or [])
    tasks = paths.plan(inputs, out, ending=".jdc", coded=False)
    if Path(out).suffix.lower() in FORMATS and tasks[0].target == Path(out):
        raise UserError(f"{out} is named like a picture: give a name that ends in .jdc")
    rungs = _ladder(weights)
    asked = Asked(
        sigma=sigma, quality=quality, strength=strength, target_bpp=target_bpp, target_psnr=target_psnr,
        max_size=max_size, tile=tile,
    )  # fmt: skip
    if len(rungs) > 1 and not asked.has_target:
        raise UserError(f"{len(rungs)} weights to choose from: give --target-bpp or --target-psnr, or name one of them")
    options = batch.Options(
        weights=rungs, device=device, force=force, verify=verify, keep_metadata=keep_metadata, asked=asked
    )
    batch.check(options)
    _work(tasks, options, decode=False, jobs=jobs)


def decompress(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help=".jdc files, folders of them, globs")],
    out: Out,
    weights: Weights = None,
    format_: Annotated[
        str, typer.Option("--format", help="of pictures that go into a folder: png, tif, webp (lossless) or jpg")
    ] = "png",
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """.jdc files -> pictures; of several WEIGHTS, those that wrote a file open it."""
    from jdcsuite.files import batch, paths
    from jdcsuite.imaging.write import FORMATS

    inputs, weights = paths.divide(inputs, weights or [])
    ending = f".{format_.lower().removeprefix('.')}"
    tasks = paths.plan(inputs, out, ending=ending, coded=True)
    for task in tasks:
        if task.target.suffix.lower() not in FORMATS:
            raise UserError(f"{task.target} ends in no known image format: use {', '.join(FORMATS)}")
    _work(tasks, batch.Options(weights=_ladder(weights), device=device, force=force), decode=True, jobs=jobs)


def _ladder(words: list[str]) -> tuple[Path, ...]:
    """The weights that were named, else those that came with the package."""
    from jdcsuite.files import paths

    if words:
        return paths.ladder(words)
    from jdcsuite.artifacts.weights import shipped

    return (shipped().resolve(),)


def info(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help=".jdc files, weights or runs")] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="weights or runs; without any FILE: those of jdcsuite")
    ] = None,
    json_: Json = False,
) -> None:
    """What .jdc files say of themselves, no weights needed; or weights: their licence, their data, what they serve."""
    from jdcsuite.files import description

    files, weights = files or [], weights or []
    if not files and not weights:
        from jdcsuite.artifacts.weights import shipped

        weights = [shipped()]
    described, errors = [], []
    for file in [*files, *weights]:
        of_weights = file in weights or file.suffix == ".safetensors" or file.is_dir()
        try:
            described.append(description.of_weights(file) if of_weights else description.of_file(file))
        except UserError as error:
            errors.append(str(error))
    if json_:
        print(json.dumps(described, indent=2))
    else:
        for about in described:
            table = Table(title=about["file"], show_header=False, title_justify="left")
            for name, value in about.items():
                if name != "file" and value is not None:
                    table.add_row(name.replace("_", " "), description.shown(name, value))
            Console().print(table)
    for error in errors:
        print(f"jdc: {error}", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def noise(inputs: Pictures, json_: Json = False, jobs: Jobs = 1) -> None:
    """How noisy pictures are, in 8-bit grey levels: in all, and by an estimate that takes the noise to be white."""
    from jdcsuite.files import noisiness, paths

    readings = list(noisiness.readings(paths.pictures(inputs), jobs=jobs))
    measured = [one for one in readings if not one.error]
    if json_:
        print(json.dumps([{k: v for k, v in asdict(one).items() if k != "error"} for one in measured], indent=2))
    elif measured:
        table = Table("picture", "noise", "white", "correlated", caption=f"noise: {measured[0].estimator} estimate")
        for one in measured:
            table.add_row(one.picture, f"{one.noise:.1f}", f"{one.white:.1f}", "yes" if one.correlated else "no")
        Console().print(table)
    failed = [one for one in readings if one.error]
    for one in failed:
        print(f"jdc: {one.error}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _work(tasks: list[Task], options: Options, *, decode: bool, jobs: int) -> None:
    """Does the tasks under a progress bar, and says at the end what became of them. Exit code 1 if any failed."""
    from jdcsuite.files import batch

    terminal = Console(stderr=True)
    ended = track(
        batch.run(tasks, options, decode=decode, jobs=jobs),
        "decompressing" if decode else "compressing",
        total=len(tasks),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )
    results = []
    for done in ended:
        results.append(done)
        if done.note:
            print(f"{done.task.source} -> {done.task.target}: {done.note}")
    for done in results:
        name = str(done.task.source)
        if done.error:
            print(f"jdc: {done.error if name in done.error else f'{name}: {done.error}'}", file=sys.stderr)
        elif done.warning:
            print(f"jdc: warning: {name}: {done.warning}", file=sys.stderr)
    print(batch.summary(results, decode=decode))
    if any(done.error for done in results):
        raise typer.Exit(1)
