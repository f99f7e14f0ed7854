"""`jdc evaluate` and `jdc report`: results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jdcsuite.cli.options import Device, Jobs


def evaluate(
    codecs: Annotated[
        list[str],
        typer.Argument(
            metavar="CODEC...",
            help="run folders, weights files, standard codecs (avif, or avif@30,50 for these qualities), or "
            "DENOISER+CODEC; DENOISER is a run, a weights file, nlm or bm3d (bm3d@5.5: with this noise level), or the "
            "path of a Python class",
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="folder of clean images, or of noisy/ and clean/ ones, or a run: its test images; may be repeated"
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="csv file to write; rows that it holds are not made again")],
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="noise level to add to clean images, in grey levels; may be repeated"),
    ] = None,
    noise_seed: Annotated[int, typer.Option(help="seed of the added noise")] = 0,
    protocol: Annotated[
        str, typer.Option(help="clip8: noisy images are rounded and clipped to 8 bits; float: they are not")
    ] = "clip8",
    device: Device = "cpu",
    jobs: Jobs = 1,
    force: Annotated[bool, typer.Option("--force", help="start OUT anew if it exists")] = False,
) -> None:
    """Measure codecs on test images: rate, quality against the clean image, and time, one csv row per image.

    Rates are those of files that are written and decoded. The same command again goes on where a stopped one was.
    """
    from jdcsuite.judging import candidates, evaluation

    console = Console()
    for word, reason in candidates.left_out(codecs).items():
        console.print(f"{word} is left out: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    failed = evaluation.evaluate(
        codecs, out=out, folders=data, sigmas=sigma or [], noise_seed=noise_seed, protocol=protocol, device=device,
        console=console, jobs=jobs, force=force,
    )  # fmt: skip
    for row in failed[:20]:
        print(f"failed: {row.run or row.method} on {row.image} of {row.dataset}: {row.error}", file=sys.stderr)
    console.print(f"results in {out}", soft_wrap=True, highlight=False, markup=False)
    if failed:
        print(f"failed rows: {len(failed)}, see the column error; the same command tries them again", file=sys.stderr)
        raise typer.Exit(1)


def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="run folders, study folders, or csv files of results")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")],
    against: Annotated[
        str | None,
        typer.Option(metavar="CURVE", help="compare all curves with this one, named as in the table"),
    ] = None,
) -> None:
    """Join results: a table here; in OUT report.html with all curves, tables, images and commands, and each as a file.

    BD-rate and BD-PSNR are given for all pairs of curves, and with --against with intervals and verdicts.
    """
    from jdcsuite.reports import report as reporting

    reporting.make(paths, out, Console(), against=against)
