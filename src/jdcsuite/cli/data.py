"""`jdc fetch` and `jdc cache`: data sets and the cache of decoded images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table


def fetch(
    name: Annotated[str | None, typer.Argument(help="a data set of the catalogue")] = None,
    root: Annotated[Path, typer.Option(help="data folder; the data set goes into ROOT/NAME")] = Path("data"),
    base_url: Annotated[str | None, typer.Option(help="a mirror that has the files under their names")] = None,
    list_: Annotated[bool, typer.Option("--list", help="show the catalogue")] = False,
) -> None:
    """Download a data set, verify and unpack it; an interrupted download is resumed."""
    from jdcsuite.data import fetch as fetching

    console = Console()
    if list_ or name is None:
        table = Table("name", "content", "size and check", "licence")
        for row in fetching.listing():
            table.add_row(*row)
        console.print(table)
        return
    console.print(str(fetching.fetch(name, root, console, base_url=base_url)), soft_wrap=True)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="delete them; a later run decodes its images again")] = False,
) -> None:
    """Show the cache of decoded images, or clear it."""
    from jdcsuite.data import cache as caching

    folder = caching.folder()
    sizes = {file: file.stat().st_size for file in caching.files()}
    shown = caching.clear() if clear else sizes
    summary = f"{len(shown)} files, {decimal(sum(sizes[file] for file in shown))}{' deleted' if clear else ''}"
    Console().print(f"{folder}: {summary}", soft_wrap=True, highlight=False, markup=False)
