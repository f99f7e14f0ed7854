"""A catalogue name -> its folder below the data root, downloaded, checked and unpacked.

Everything is made in ``ROOT/.fetch/NAME`` and moved to ``ROOT/NAME`` when it is complete, so a folder that
exists is whole, and the same command again goes on where the last one stopped. pooch keeps the registry,
checks checksums and unpacks; it cannot resume, so it is given a downloader that can (``Resume``).
"""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
import requests
from rich.console import Console
from rich.filesize import decimal
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
from urllib3.exceptions import HTTPError

from jdcsuite.data import catalog
from jdcsuite.imaging import atomic
from jdcsuite.imaging.folders import has_images, walk
from jdcsuite.types import UserError

CHUNK = 1 << 16  # bytes; what a broken connection can cost at most
INFLATION = 20  # pictures are compressed already: an archive that grows more than this is a bomb
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)


@dataclass(kw_only=True)
class Resume:
    """A pooch downloader that goes on from the ``.part`` file of an earlier attempt.

    The server's validator (ETag or Last-Modified) is kept beside the part and sent as If-Range, so that a
    file that changed meanwhile starts afresh instead of being glued to the old one.
    ``tries``: attempts in all; ``pause``: seconds before the second, doubled each time;
    ``timeout``: seconds to connect, and to wait for the next bytes.
    """

    progress: Progress
    label: str
    tries: int = 5
    pause: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)

    def __call__(self, url: str, output_file: str, _pooch: pooch.Pooch | None = None) -> None:
        """Download to ``output_file``; UserError where that cannot be done (the part is kept)."""
        part = Path(output_file).with_name(url.rsplit("/", 1)[-1] + ".part")
        validator = part.with_suffix(".validator")
        task = self.progress.add_task(self.label, total=None)
        for attempt in range(self.tries):
            time.sleep(self.pause * 2 ** (attempt - 1) if attempt else 0)
            try:
                self._attempt(url, part, validator, task)
                break
            except (requests.RequestException, HTTPError) as error:
                _refuse_if_final(error, url)
        else:
            kept = decimal(part.stat().st_size) if part.exists() else "nothing"
            raise UserError(
                f"the connection broke {self.tries} times at {url}: run the same command again to go on from "
                f"what has come ({kept})."
            )
        self.progress.remove_task(task)
        part.replace(output_file)
        validator.unlink(missing_ok=True)

    def _attempt(self, url: str, part: Path, validator: Path, task: int) -> None:
        have = part.stat().st_size if part.exists() and validator.exists() else 0
        headers = {"User-Agent": "jdcsuite", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if answer.status_code == 416 and span and span[2] == str(have):
                return  # every byte had come, only the last step was missing
            resumed = answer.status_code == 206 and span and span[1] == str(have)
            if answer.status_code in (206, 416) and not resumed:
                part.unlink(missing_ok=True)
                raise requests.ConnectionError("the server does not go on from here: start again")
            answer.raise_for_status()
            if not resumed:
                have = 0
                part.unlink(missing_ok=True)  # before the new mark is written: they must never disagree
                etag = answer.headers.get("ETag", "W/")  # a weak one does not promise the same bytes
                mark = answer.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
                validator.unlink(missing_ok=True)
                if mark:
                    atomic.write(validator, mark.encode())
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            _room(part.parent, int(length or 0), what=part.stem)
            self.progress.update(task, total=total, completed=have)
            with part.open("ab" if have else "wb") as out:
                # undecoded: some servers call a .tar.gz "encoded", and would have it unpacked on the way
                for block in answer.raw.stream(CHUNK, decode_content=False):
                    out.write(block)
                    self.progress.update(task, advance=len(block))
        if total is not None and part.stat().st_size != total:
            raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")


def _refuse_if_final(error: Exception, url: str) -> None:
    """UserError where trying again cannot help: a malformed address, or a server that says no."""
    answer = getattr(error, "response", None)
    status = answer.status_code if answer is not None else 0
    if isinstance(error, ValueError) or (400 <= status < 500 and status not in (408, 429)):
        reason = f"the server answers {status}" if status else "it is no address"
        raise UserError(
            f"{url} cannot be downloaded ({reason}): name a mirror with --base-url, or put the pictures into "
            "the dataset's folder by hand."
        ) from None


def _room(folder: Path, size: int, *, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{what} needs {decimal(size)} and {folder} has {decimal(free)} left: free some space or choose "
            "another --root."
        )


def check_archive(path: Path) -> int:
    """Bytes it holds; UserError where it writes outside its folder, has links or devices, or is a bomb."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            kinds = {0, stat.S_IFREG, stat.S_IFDIR}  # 0: packed without Unix modes
            members = [(m.filename, m.file_size, m.external_attr >> 16) for m in archive.infolist()]
            members = [(name, size, stat.S_IFMT(mode) in kinds) for name, size, mode in members]
    else:
        with tarfile.open(path) as archive:
            members = [(m.name, m.size, m.isfile() or m.isdir()) for m in archive]
    for name, _, plain in members:
        posix = PurePosixPath(name.replace("\\", "/"))
        if not plain or posix.is_absolute() or ".." in posix.parts or PureWindowsPath(name).drive:
            raise UserError(f"{path.name} is unsafe to unpack because of {name!r}: tell its publisher.")
    size = sum(size for _, size, _ in members)
    if size > INFLATION * path.stat().st_size + (1 << 20):
        raise UserError(f"{path.name} would grow to {decimal(size)}, which no pictures do: tell its publisher.")
    return size


def _unpack(path: Path, inside: str, ready: Path) -> None:
    """Unpack an archive so that what lies in its folder ``inside`` lies in ``ready``."""
    try:
        size = check_archive(path)
    except UserError:
        path.unlink()
        raise
    _room(path.parent, size, what=f"unpacking {path.name}")
    raw = path.with_name("raw")
    shutil.rmtree(raw, ignore_errors=True)
    tool = pooch.Unzip if path.suffix == ".zip" else pooch.Untar
    tool(members=[inside] if inside else None, extract_dir=raw.name)(str(path), "download", None)
    shutil.rmtree(raw / "__MACOSX", ignore_errors=True)  # copies of the names, not of the pictures
    if not (raw / inside).is_dir():
        raise UserError(f"{path.name} has no folder {inside}, so it changed: unpack {path} by hand.")
    (raw / inside).replace(ready)


def _blocks(path: Path, ready: Path) -> None:
    """SIDD's blocks, uint8 (image, block, height, width, 3), to ``noisy/`` or ``clean/`` IMAGE_BLOCK.png."""
    from PIL import Image
    from scipy.io import loadmat  # these files hold plain arrays; nothing in them is executed

    try:
        (blocks,) = (value for key, value in loadmat(path).items() if not key.startswith("__"))
    except Exception as error:  # the reader of a foreign format may raise anything
        raise ValueError(f"no MATLAB file with one array: {error}") from None
    if blocks.ndim != 5 or blocks.dtype != "uint8":
        raise ValueError(f"blocks are {blocks.dtype} {blocks.shape}")
    side = ready / ("noisy" if "Noisy" in path.name else "clean")
    side.mkdir(parents=True)
    for i, image in enumerate(blocks):
        for j, block in enumerate(image):
            Image.fromarray(block).save(side / f"{i:02d}_{j:02d}.png")


def _assemble(entry: catalog.Dataset, stage: Path) -> Path:
    """The dataset's folder, made of the downloaded files; a file that cannot be read is removed."""
    ready = stage / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    for path in [stage / file.name for file in entry.files]:
        try:
            if path.name.endswith(ARCHIVES):
                _unpack(path, entry.inside, ready)
            elif path.suffix == ".mat":
                _blocks(path, ready)
            else:
                ready.mkdir(exist_ok=True)
                shutil.copyfile(path, ready / path.name)
        except UNREADABLE as error:
            path.unlink()
            raise UserError(
                f"{path.name} is not what was expected ({error}) and was removed: look at its address in a "
                "browser, and name a mirror with --base-url if it moved."
            ) from None
        except RuntimeError as error:  # zipfile: an unknown compression, or a password
            raise UserError(f"{path} cannot be unpacked here ({error}): unpack it by hand.") from None
    if not has_images(ready):
        raise UserError(f"{entry.name} came without pictures: look at {stage}.")
    return ready


@contextmanager
def _alone(stage: Path) -> Iterator[None]:
    """Two downloads of one file would write into the same part."""
    with (stage / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another `jdc fetch {stage.name}` is running: wait until it ends.") from None
        except OSError:
            pass  # a file system without locks must not forbid downloads
        yield


def _download(entry: catalog.Dataset, stage: Path, record: Path, console: Console, base_url: str | None) -> None:
    """All files of an entry into ``stage``, checked against the published or the recorded checksums."""
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
            resume = Resume(progress=progress, label=f"{file.name} ({number}/{len(entry.files)})")
            try:
                store.fetch(file.name, downloader=resume)
            except ValueError:  # pooch's word for a wrong checksum; it has removed the download
                cure = "" if file.checksum else f" (delete {record} first if its publisher changed it)"
                raise UserError(
                    f"{file.name} has a wrong checksum and was removed: run the same command again{cure}."
                ) from None


def fetch(name: str, root: Path | str, console: Console | None = None, *, base_url: str | None = None) -> Path:
    """The dataset's folder ``root/NAME``, downloaded if it is not there yet (then nothing is sent or hashed).

    ``base_url``: take the files, by their names, from this address instead of the catalogue's (a mirror).
    UserError: unknown name, a set that must be had by hand, no space, a broken connection (what came is
    kept), a wrong checksum (what came is removed), an archive that is unsafe or not what was expected.
    """
    entry = catalog.entry(name)
    root = Path(root).expanduser()
    target, record = root / entry.name, root / f"{entry.name}.checksums.json"
    console = console or Console(stderr=True)
    if has_images(target):
        console.out(f"{entry.name} is already there: {len(list(walk(target)))} pictures in {target}")
        return target
    if entry.by_hand:
        raise UserError(entry.by_hand.format(folder=target) + ".")
    pooch.get_logger().setLevel("WARNING")
    stage = root / ".fetch" / entry.name
    try:
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} holds files but no pictures: move it away and run the command again.")
        stage.mkdir(parents=True, exist_ok=True)
        with _alone(stage):
            _download(entry, stage, record, console, base_url)
            ready = _assemble(entry, stage)
            # only now, so that an error page served as a file is never trusted
            unknown = [f.name for f in entry.files if not f.checksum]
            if unknown:
                sums = {file: f"sha256:{pooch.file_hash(str(stage / file))}" for file in unknown}
                atomic.write(record, (json.dumps(sums, indent=2) + "\n").encode())
            ready.replace(target)
            shutil.rmtree(stage)
    except OSError as error:
        raise UserError(f"cannot write below {root} ({error.strerror or error}): choose another --root.") from None
    console.out(f"{entry.name}: {len(list(walk(target)))} pictures in {target} ({entry.licence})")
    return target


def listing() -> list[tuple[str, str, str, str]]:
    """(name, what it is, size and how it is checked, licence) of every catalogue entry."""

    def how(entry: catalog.Dataset) -> str:
        if entry.by_hand:
            return "by hand"
        sizes = [file.size for file in entry.files]
        size = decimal(sum(sizes)) if all(sizes) else "size unknown"
        published = (entry.files[0].checksum or "").split(":")[0]
        return f"{size}, {published or 'checksum kept from the first download'}"

    return [(e.name, e.what, how(e), e.licence) for e in catalog.CATALOG.values()]
