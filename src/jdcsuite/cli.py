"""`jdc <verb>`: the suite's tools on the command line. Heavy rooms are imported by the verb that needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jdcsuite import pool
from jdcsuite.types import UserError

if TYPE_CHECKING:
    from jdcsuite.batch import Options
    from jdcsuite.paths import Task

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Train: hands over to `python -m jdcsuite`, with the words that follow."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "jdcsuite", *context.args], check=False).returncode)


Weights = Annotated[
    list[str],
    typer.Option(help="run folder or .safetensors file; several, a glob or a folder of runs to choose from"),
]
Jobs = Annotated[int, typer.Option(min=1, help="processes, each with its share of the cores")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Force = Annotated[bool, typer.Option("--force", help="replace outputs that exist")]


@app.command()
def compress(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="pictures, folders of them, globs")],
    out: Annotated[str, typer.Option("-o", "--out", help="file for one picture, folder for several")],
    weights: Weights,
    sigma: Annotated[
        str, typer.Option(metavar="auto|NUMBER", help="noise in 8-bit grey levels, for codecs that are guided by it")
    ] = "auto",
    target_bpp: Annotated[
        float | None, typer.Option(help="of several WEIGHTS, the nearest to the input in at most so many bits a pixel")
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            help="of several WEIGHTS, the smallest file with at least so many dB. Measured against the input, noise "
            "included: a codec that denoises well ends near the noise's own PSNR, however many bits it spends"
        ),
    ] = None,
    tile: Annotated[int, typer.Option(help="side of a tile in pixels, a multiple of 64; 0: one tile")] = 1024,
    keep_metadata: Annotated[bool, typer.Option("--keep-metadata", help="keep the ICC profile and EXIF")] = False,
    verify: Annotated[bool, typer.Option(help="decode every file from its bytes before it is written")] = True,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Noisy pictures (PNG, JPEG, WebP, TIFF, BMP; 8 or 16 bits) -> .jdc files, denoised as they are compressed."""
    from jdcsuite import batch, paths

    inputs, weights = paths.divide(inputs, weights)
    tasks = paths.plan(inputs, out, ending=".jdc", coded=False)
    if Path(out).suffix.lower() in paths.IMAGE_ENDINGS and tasks[0].target == Path(out):
        raise UserError(f"{out} is named like a picture: give a name that ends in .jdc")
    rungs = paths.ladder(weights)
    if len(rungs) > 1 and target_bpp is None and target_psnr is None:
        raise UserError(f"{len(rungs)} weights to choose from: give --target-bpp or --target-psnr, or name one of them")
    options = batch.Options(
        weights=rungs, device=device, force=force, sigma=_sigma(sigma), tile=tile, verify=verify,
        keep_metadata=keep_metadata, target_bpp=target_bpp, target_psnr=target_psnr,
    )  # fmt: skip
    _work(tasks, options, decode=False, jobs=jobs)


@app.command()
def decompress(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help=".jdc files, folders of them, globs")],
    out: Annotated[str, typer.Option("-o", "--out", help="file for one picture, folder for several")],
    weights: Weights,
    format_: Annotated[
        str, typer.Option("--format", help="of pictures that go into a folder: png, tif, webp (lossless) or jpg")
    ] = "png",
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """.jdc files -> pictures; of several WEIGHTS, those that wrote a file open it."""
    from jdcsuite import batch, paths

    inputs, weights = paths.divide(inputs, weights)
    ending = f".{format_.lower().removeprefix('.')}"
    tasks = paths.plan(inputs, out, ending=ending, coded=True)
    for task in tasks:
        if task.target.suffix.lower() not in paths.IMAGE_ENDINGS:
            raise UserError(f"{task.target} ends in no known image format: use {', '.join(paths.IMAGE_ENDINGS)}")
    _work(tasks, batch.Options(weights=paths.ladder(weights), device=device, force=force), decode=True, jobs=jobs)


@app.command()
def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".jdc files")],
    json_: Annotated[bool, typer.Option("--json", help="a list of objects, for scripts")] = False,
) -> None:
    """What .jdc files say of themselves; no weights needed."""
    import json

    from jdcsuite import batch

    described, errors = [], []
    for file in files:
        try:
            described.append(batch.describe(file))
        except UserError as error:
            errors.append(str(error))
    if json_:
        print(json.dumps(described, indent=2))
    else:
        for about in described:
            table = Table(title=about["file"], show_header=False, title_justify="left")
            for name, value in about.items():
                if name != "file":
                    table.add_row(name.replace("_", " "), batch.shown(value))
            console.print(table)
    for error in errors:
        print(f"jdc: {error}", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def _sigma(word: str) -> float | None:
    try:
        sigma = None if word == "auto" else float(word)
    except ValueError:
        raise UserError(f"--sigma {word} is no noise level: give auto or grey levels of 0 or more") from None
    if sigma is not None and not 0 <= sigma < float("inf"):
        raise UserError(f"--sigma {word} is no noise level: give auto or grey levels of 0 or more")
    return sigma


def _work(tasks: list[Task], options: Options, *, decode: bool, jobs: int) -> None:
    """Does the tasks under a progress bar, and says at the end what became of them. Exit code 1 if any failed."""
    from jdcsuite import batch

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
    failed = [done for done in results if done.error]
    for done in failed:
        name = str(done.task.source)
        print(f"jdc: {done.error if name in done.error else f'{name}: {done.error}'}", file=sys.stderr)
    print(batch.summary(results, decode=decode))
    if failed:
        raise typer.Exit(1)


@app.command()
def predenoise(
    inputs: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="folders of pictures, pictures, globs")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to make: noisy/ and clean/ with equal names")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="RUN_OR_FILE|nlm|bm3d",
            help="the teacher: a denoiser's run or weights file, non-local means, or BM3D (an extra, for "
            "non-commercial use only: pip install jdcsuite\\[bm3d])",
        ),
    ],
    sigma: Annotated[
        str, typer.Option(metavar="auto|NUMBER", help="noise in 8-bit grey levels, for nlm and bm3d")
    ] = "auto",
    tile: Annotated[
        int, typer.Option(help="side of a tile in pixels, 0: the picture as one; no seams at any. BM3D has none")
    ] = 512,
    jobs: Jobs = 1,
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="make OUT anew where predenoise made it before")] = False,
) -> None:
    """Pictures -> pairs whose clean half a denoiser made of the whole picture: what +experiment=jdc_ud_whole trains on.

    scores.csv in OUT holds MS-SSIM(target, input) of each; predenoised.json names the teacher and the scenes that it
    learned from, and training refuses to be tested on those.
    """
    from jdcsuite import predenoising

    pictures = predenoising.plan(inputs, out)
    teacher = predenoising.teacher(weights, sigma=_sigma(sigma), tile=tile, device=device)
    predenoising.prepare(out, force=force)
    if teacher.about.train_scenes is None:
        print(f"jdc: {weights} does not say which scenes it learned from: see that none is tested", file=sys.stderr)
    terminal = Console(stderr=True)
    made = track(
        predenoising.run(pictures, teacher, out, processes=jobs), "predenoising", total=len(pictures),
        console=terminal, transient=True, disable=not terminal.is_terminal,
    )  # fmt: skip
    results = list(made)
    failed = [done for done in results if done.error]
    for done in failed:
        name = str(done.job.source)
        print(f"jdc: {done.error if name in done.error else f'{name}: {done.error}'}", file=sys.stderr)
    print(predenoising.summary(results, out))
    if failed:
        raise typer.Exit(1)


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="a dataset of the catalogue")] = None,
    root: Annotated[Path, typer.Option(help="data folder; the dataset goes into ROOT/NAME")] = Path("data"),
    base_url: Annotated[str | None, typer.Option(help="a mirror that holds the files by name")] = None,
    list_: Annotated[bool, typer.Option("--list", help="show the catalogue")] = False,
) -> None:
    """Download a dataset: resumed where it broke off, checked, unpacked."""
    from jdcsuite import fetch as fetching

    if list_ or name is None:
        table = Table("name", "what", "size and check", "licence")
        for row in fetching.listing():
            table.add_row(*row)
        console.print(table)
        return
    console.print(str(fetching.fetch(name, root, console, base_url=base_url)), soft_wrap=True)


@app.command()
def evaluate(
    codecs: Annotated[
        list[str],
        typer.Argument(
            help="run folders, weights files, standard codecs (avif, or avif@30,50 at these qualities only), "
            "DENOISER+CODEC (DENOISER: a run, a weights file, nlm, bm3d, or bm3d@5.5, told the level)"
        ),
    ],
    data: Annotated[list[Path], typer.Option(help="folder of clean pictures, or of noisy/ and clean/ ones; repeat")],
    out: Annotated[Path, typer.Option(help="csv file to write")],
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="noise in grey levels to add to clean pictures; repeat for several"),
    ] = None,
    noise_seed: int = 0,
    protocol: Annotated[str, typer.Option(help="clip8 or float")] = "clip8",
    device: str = "cpu",
    force: Annotated[bool, typer.Option(help="replace OUT where it exists")] = False,
) -> None:
    """Judge codecs on real bytes: one row a picture, against the clean one."""
    from jdcsuite import evaluation, runs

    if out.exists() and not force:
        raise UserError(f"{out} exists: give another --out, or --force to replace it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"the folder of {out} does not exist: make it first")
    rows = evaluation.evaluate(
        codecs,
        folders=data,
        sigmas=sigma or [],
        noise_seed=noise_seed,
        protocol=protocol,
        device=device,
        console=console,
    )
    runs.write_rows(rows, out)
    console.print(f"{len(rows)} rows in {out}", soft_wrap=True)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="run folders, study folders or csv files")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")],
    against: Annotated[
        str | None, typer.Option(metavar="CURVE", help="a curve, as the table names it: by how much do others beat it?")
    ] = None,
) -> None:
    """Join results and draw them: table, results.csv, rate-distortion figure, picture strip; BD-PSNR, BD-rate."""
    from jdcsuite import report as reporting

    reporting.make(results, out, console, against=against)


@app.command()
def export(
    weights: Annotated[str, typer.Argument(metavar="RUN_OR_FILE", help="a finished run or a weights file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the new weights file, .safetensors")],
    force: Force = False,
) -> None:
    """Weights at half their size, in bfloat16, to keep or to send: other weights, with an id and files of their own."""
    from jdcsuite import weights as weighing

    if out.suffix != ".safetensors":
        raise UserError(f"{out} is no name for weights: give one that ends in .safetensors")
    if out.exists() and not force:
        raise UserError(f"{out} exists: give another name, or --force to replace it")
    weighing.export(weights, out)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def bench(
    width: Annotated[float, typer.Option(help="Width of the FLLIC that codes; 1 is the paper's large.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Timed repeats after the warm-up.")] = 5,
) -> None:
    """Measure training, coding and the entropy coder: ratios against named alternatives, medians after a warm-up."""
    from jdcsuite import bench as benching

    benching.bench(console, width=width, repeats=repeats)


def main() -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    pool.quieten()
    try:
        app()
    except UserError as error:
        print(f"jdc: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
