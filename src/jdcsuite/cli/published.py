"""`jdc convert`: weights that a paper's authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jdcsuite.cli.options import Force
from jdcsuite.types import UserError


def convert(
    method: Annotated[str, typer.Argument(help="restormer or lcfdnet")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="the authors' .pth files")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the new weights file, .safetensors")],
    force: Force = False,
) -> None:
    """Convert published weights to a weights file, which evaluate, compress and predenoise take. Nothing in the files
    is executed; their authors' terms of use apply."""
    from jdcsuite.artifacts import published

    if out.suffix != ".safetensors":
        raise UserError(f"{out} is not a name for weights: give one that ends in .safetensors")
    if out.exists() and not force:
        raise UserError(f"{out} exists: give another name, or --force to replace it")
    published.convert(method, files, out)
    Console().print(f"{out}: {out.stat().st_size / 1e6:.1f} MB", markup=False, highlight=False, soft_wrap=True)
