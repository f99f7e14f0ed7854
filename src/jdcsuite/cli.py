"""`jdc <verb>`: the suite's tools on the command line. Heavy rooms are imported by the verb that needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jdcsuite.types import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Train: hands over to `python -m jdcsuite`, with the words that follow."""
    raise typer.Exit(subprocess.run([sys.executable, "-m", "jdcsuite", *context.args], check=False).returncode)


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
    codecs: Annotated[list[str], typer.Argument(help="run folders, weights files or standard codecs, as avif")],
    data: Annotated[list[Path], typer.Option(help="folder of clean pictures; repeat for several")],
    out: Annotated[Path, typer.Option(help="csv file to write")],
    sigma: Annotated[list[float], typer.Option(help="noise in grey levels; repeat for several")],
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
        codecs, folders=data, sigmas=sigma, noise_seed=noise_seed, protocol=protocol, device=device, console=console
    )
    runs.write_rows(rows, out)
    console.print(f"{len(rows)} rows in {out}", soft_wrap=True)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="run folders, study folders or csv files")],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")],
) -> None:
    """Join results and draw them: table, results.csv, rate-distortion figure, picture strip."""
    from jdcsuite import report as reporting

    reporting.make(results, out, console)


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
    try:
        app()
    except UserError as error:
        print(f"jdc: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
