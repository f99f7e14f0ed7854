"""`jdc <verb>`: the suite's tools on the command line. Heavy rooms are imported by the verb that needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jdcsuite.cli import files
from jdcsuite.cli.files import Device, Force, Jobs, level
from jdcsuite.files import pool
from jdcsuite.types import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Train: hands over to `python -m jdcsuite`, with the words that follow."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "jdcsuite", *context.args], check=False).returncode)


for verb in (files.compress, files.decompress, files.info, files.noise):
    app.command()(verb)


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
        float | None,
        typer.Option(
            parser=level, metavar="auto|NUMBER", help="noise in 8-bit grey levels, for nlm and bm3d; default: auto"
        ),
    ] = None,
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
    from jdcsuite.files import predenoising

    pictures = predenoising.plan(inputs, out)
    teacher = predenoising.teacher(weights, sigma=sigma, tile=tile, device=device)
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
    from jdcsuite.data import fetch as fetching

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
    from jdcsuite.judging import evaluation, results

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
    results.write(rows, out)
    console.print(f"{len(rows)} rows in {out}", soft_wrap=True)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="run folders, study folders or csv files")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")],
    against: Annotated[
        str | None, typer.Option(metavar="CURVE", help="a curve, as the table names it: by how much do others beat it?")
    ] = None,
) -> None:
    """Join results and draw them: table, results.csv, rate-distortion figure, picture strip; BD-PSNR, BD-rate."""
    from jdcsuite.judging import report as reporting

    reporting.make(paths, out, console, against=against)


@app.command()
def export(
    weights: Annotated[str, typer.Argument(metavar="RUN_OR_FILE", help="a finished run or a weights file")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the new weights file, .safetensors")],
    licence: Annotated[str | None, typer.Option(help="what others may do with them; jdc info tells it")] = None,
    data: Annotated[str | None, typer.Option(help="what they were trained on, in words; jdc info tells it")] = None,
    force: Force = False,
) -> None:
    """Weights at half their size, in bfloat16, to keep or to send: other weights, with an id and files of their own."""
    from jdcsuite.artifacts import weights as weighing

    if out.suffix != ".safetensors":
        raise UserError(f"{out} is no name for weights: give one that ends in .safetensors")
    if out.exists() and not force:
        raise UserError(f"{out} exists: give another name, or --force to replace it")
    weighing.export(weights, out, licence=licence, data=data)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(metavar="code|train", help="what is measured")] = "code",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD...", help="of train: as of a run, as in +experiment=flagship data.batch=32"),
    ] = None,
    width: Annotated[float, typer.Option(help="code: width of the FLLIC that codes; 1 is the paper's large.")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="code: timed repeats after the warm-up.")] = 5,
    steps: Annotated[int | None, typer.Option(min=1, help="train: steps of a block; 50 on a GPU, else 5.")] = None,
    blocks: Annotated[int, typer.Option(min=1, help="train: timed blocks after the warm-up.")] = 5,
) -> None:
    """Measure this machine: medians after a warm-up. code: coding and the entropy coder, as ratios to CompressAI's.
    train: a training step, as ratios to a bare loop of the same network and to a matrix product."""
    if what == "train":
        from jdcsuite.bench import train

        train.report(console, tuple(overrides or ()), steps=steps, blocks=blocks)
        return
    if what != "code":
        raise UserError(f"{what} is nothing that jdc bench measures: say code or train")
    if overrides:
        raise UserError(f"jdc bench code takes no overrides ({' '.join(overrides)}): give them to jdc bench train")
    from jdcsuite.bench import code

    code.report(console, width=width, repeats=repeats)


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
