"""Name of a known dataset -> its folder below the data root, downloaded, verified and unpacked.

Everything happens in ``ROOT/.fetch/NAME``, which is moved to ``ROOT/NAME`` when it is complete. So a folder that exists
is complete, and the same command continues where an earlier one stopped.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pooch
from rich.console import Console
from rich.filesize import decimal
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from jdcsuite.data import catalog
from jdcsuite.data.download import Resume
from jdcsuite.data.entries import Dataset
from jdcsuite.data.unpack import assemble
from jdcsuite.imaging import atomic
from jdcsuite.imaging.folders import has_images, walk
from jdcsuite.types import UserError


def fetch(name: str, root: Path | str, console: Console | None = None, *, base_url: str | None = None) -> Path:
    """The dataset's folder ``root/NAME``, downloaded unless it exists (then nothing is requested or hashed).

    ``base_url``: download the files, by their names, from this address instead of the catalogue's (a mirror).
    UserError: unknown name, a dataset without plain download, no space, a broken connection (the part is kept), a wrong
    checksum (the download is removed), an archive that is unsafe or not what was expected.
    """
    entry = catalog.entry(name)
    root = Path(root).expanduser()
    target, record = root / entry.name, root / f"{entry.name}.checksums.json"
    console = console or Console(stderr=True)
    if has_images(target):
        console.out(f"{entry.name} is already there: {_count(target)} pictures in {target}")
        return target
    if entry.by_hand:
        raise UserError(entry.by_hand.format(folder=target) + ".")
    pooch.get_logger().setLevel("WARNING")
    stage = root / ".fetch" / entry.name
    try:
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} holds files but no pictures: move it away and run the command again.")
        stage.mkdir(parents=True, exist_ok=True)
        with atomic.alone(stage / "lock", busy=f"another `jdc fetch {name}` is running: wait until it ends."):
            _download(entry, stage, record, console, base_url)
            ready = assemble(entry, stage)
            # recorded only now, so that an error page served as a file is never trusted
            unpublished = [f.name for f in entry.files if not f.checksum]
            if unpublished:
                sums = {file: f"sha256:{pooch.file_hash(str(stage / file))}" for file in unpublished}
                atomic.write(record, (json.dumps(sums, indent=2) + "\n").encode())
            ready.replace(target)
            shutil.rmtree(stage)
    except OSError as error:
        raise UserError(f"cannot write below {root} ({error.strerror or error}): choose another --root.") from None
    console.out(f"{entry.name}: {_count(target)} pictures in {target} ({entry.licence})")
    return target


def _count(folder: Path) -> int:
    return sum(1 for _ in walk(folder))


def _download(entry: Dataset, stage: Path, record: Path, console: Console, base_url: str | None) -> None:
    """Download all files of an entry to ``stage`` and verify the published or recorded checksums."""
    try:
        recorded = json.loads(record.read_text()) if record.exists() else {}
    except ValueError:
        raise UserError(f"{record} cannot be read: delete it and run the same command again.") from None
    store = pooch.create(
        path=stage,
        base_url="",
        registry={f.name: f.checksum or recorded.get(f.name) for f in entry.files},
        urls={f.name: f"{base_url.rstrip('/')}/{f.name}" if base_url else f.url for f in entry.files},
    )
    columns = *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console) as progress:
        for number, file in enumerate(entry.files, start=1):
            resume = Resume(
                progress=progress, label=f"{file.name} ({number}/{len(entry.files)})", most=file.size or file.limit
            )
            try:
                store.fetch(file.name, downloader=resume)
            except ValueError:  # pooch: wrong checksum; the download is removed
                cure = "" if file.checksum else f" (delete {record} first if its publisher changed it)"
                raise UserError(
                    f"{file.name} has a wrong checksum and was removed: run the same command again{cure}."
                ) from None


def listing() -> list[tuple[str, str, str, str]]:
    """(name, what it is, size and how it is verified, licence) of every known dataset."""

    def verification(entry: Dataset) -> str:
        if entry.by_hand:
            return "by hand"
        sizes = [file.size for file in entry.files]
        size = decimal(sum(sizes)) if all(sizes) else "size unknown"
        published = (entry.files[0].checksum or "").split(":")[0]
        return f"{size}, {published or 'checksum kept from the first download'}"

    return [(e.name, e.what, verification(e), e.licence) for e in catalog.CATALOG.values()]
