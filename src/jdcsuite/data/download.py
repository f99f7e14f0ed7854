"""Address of a file -> the file on disk, resumed after a broken connection."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from rich.filesize import decimal
from rich.progress import Progress
from urllib3.exceptions import HTTPError

from jdcsuite.imaging import atomic
from jdcsuite.types import UserError

CHUNK = 1 << 16  # bytes; at most so many are lost when a connection breaks


@dataclass(kw_only=True)
class Resume:
    """A downloader for pooch, which has none that can resume: it continues the ``.part`` file of an earlier attempt.

    The server's validator (ETag or Last-Modified) is stored beside the part and sent as If-Range, so that a file that
    has changed meanwhile starts again instead of being appended to the old one.
    ``most``: bytes that the file may have; a larger one is refused before, or while, it is written.
    ``tries``: attempts in all; ``pause``: seconds before the second, doubled each time; ``timeout``: seconds to
    connect, and to wait for the next bytes.
    """

    progress: Progress
    label: str
    most: int
    tries: int = 5
    pause: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)

    def __call__(self, url: str, output_file: str, _pooch: pooch.Pooch | None = None) -> None:
        """Download to ``output_file``. UserError if that fails; the part is kept."""
        part = Path(output_file).with_name(url.rsplit("/", 1)[-1] + ".part")
        validator = part.with_suffix(".validator")
        task = self.progress.add_task(self.label, total=None)
        for attempt in range(self.tries):
            time.sleep(self.pause * 2 ** (attempt - 1) if attempt else 0)
            try:
                self._attempt(url, part, validator, task)
                break
            except (requests.RequestException, HTTPError) as error:
                _raise_if_final(error, url)
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
        if have > self.most:
            have = 0
        headers = {"User-Agent": "jdcsuite", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if response.status_code == 416 and span and span[2] == str(have):
                return  # the part is complete, only the last step was missing
            resumed = response.status_code == 206 and span and span[1] == str(have)
            if response.status_code in (206, 416) and not resumed:
                part.unlink(missing_ok=True)
                raise requests.ConnectionError("the server does not continue from here: start again")
            response.raise_for_status()
            if not resumed:
                have = 0
                part.unlink(missing_ok=True)  # before its validator is replaced: the two must always agree
                etag = response.headers.get("ETag", "W/")  # a weak one does not guarantee the same bytes
                mark = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
                validator.unlink(missing_ok=True)
                if mark:
                    atomic.write(validator, mark.encode())
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            if total is not None and total > self.most:
                self._refuse(url, part)
            require_space(part.parent, (total or 0) - have, what=part.stem)
            self.progress.update(task, total=total, completed=have)
            with part.open("ab" if have else "wb") as out:
                # not decoded: some servers call a .tar.gz "encoded", which would unpack it on the way
                for block in response.raw.stream(CHUNK, decode_content=False):
                    have += len(block)
                    if have > self.most:
                        self._refuse(url, part)
                    out.write(block)
                    self.progress.update(task, advance=len(block))
        if total is not None and part.stat().st_size != total:
            raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")

    def _refuse(self, url: str, part: Path) -> None:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{url} sends more than the {decimal(self.most)} of {part.stem}, so it is another file: look at the "
            "address in a browser, and name a mirror with --base-url if it moved."
        )


def _raise_if_final(error: Exception, url: str) -> None:
    """UserError if another attempt cannot help: a malformed address, or a refusal by the server."""
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    if isinstance(error, ValueError) or (400 <= status < 500 and status not in (408, 429)):
        reason = f"the server answers {status}" if status else "it is no address"
        raise UserError(
            f"{url} cannot be downloaded ({reason}): name a mirror with --base-url, or put the pictures into "
            "the dataset's folder by hand."
        ) from None


def require_space(folder: Path, size: int, *, what: str) -> None:
    """UserError if the disk of ``folder`` has less than ``size`` bytes left."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{what} needs {decimal(size)} and {folder} has {decimal(free)} left: free some space or choose "
            "another --root."
        )
