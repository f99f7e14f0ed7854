"""A local server of datasets that breaks connections, ignores Range and changes files, for the tests of downloads."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jdcsuite.data import catalog, download
from jdcsuite.data import fetch as fetching
from jdcsuite.data.entries import Dataset, File


@dataclass
class Sent:
    path: str
    range: str | None
    status: int
    bytes: int


@dataclass
class Server:
    """``files``: path -> bytes. ``cut``: how many of the next responses are truncated, after ``cut_at`` bytes.
    ``endless``: bodies have no length and go on until the client disconnects."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    etag: str | None = None
    validators: bool = True
    status: int | None = None
    endless: bool = False
    cut: int = 0
    cut_at: int = 0
    log: list[Sent] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server(files={})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args):
            pass

        def do_GET(self):
            body = state.files.get(self.path)
            requested = self.headers.get("Range")
            status = state.status or (200 if body is not None else 404)
            if status != 200:
                state.log.append(Sent(self.path, requested, status, 0))
                self.send_error(status)
                return
            etag = state.etag or f'"{hashlib.sha256(body).hexdigest()[:8]}"'
            start = 0
            if requested and state.ranges and self.headers.get("If-Range") == etag:
                start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1])
                status = 206 if start < len(body) else 416
            part = body[start:] if status != 416 else b""
            self.send_response(status)
            if not state.endless:
                self.send_header("Content-Length", str(len(part)))
            if state.validators:
                self.send_header("ETag", etag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(body)}")
            if state.cut:
                state.cut -= 1
                part = part[: state.cut_at]
            state.log.append(Sent(self.path, requested, status, len(part)))  # before the client continues
            self.end_headers()
            with suppress(ConnectionError):  # a client without disk space disconnects
                self.wfile.write(part)  # then the connection closes, before Content-Length if truncated
                while state.endless:
                    self.wfile.write(bytes(1 << 16))
                    state.log[-1].bytes += 1 << 16

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The pauses between attempts, recorded instead of slept."""
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def known(server, monkeypatch):
    """known(name, files, **entry) puts a dataset on the server and in the catalogue."""

    def add(
        name: str, bodies: dict[str, bytes], *, checksum: bool = True, inside: str = "", limit: int = 1 << 30
    ) -> Dataset:
        files = []
        for file, body in bodies.items():
            server.files[f"/{file}"] = body
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}" if checksum else None
            files.append(File(url=f"{server.url}/{file}", checksum=digest, limit=limit))
        entry = Dataset(name=name, what="a test", licence="none", files=tuple(files), inside=inside)
        monkeypatch.setitem(catalog.CATALOG, name, entry)
        return entry

    return add


def fetch(name: str, root: Path, **options) -> Path:
    return fetching.fetch(name, root, Console(file=io.StringIO()), **options)


def png(seed: int, size: int = 8) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def tarred(members: dict[str, bytes], link: tuple[str, str] | None = None, mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(info)
    return out.getvalue()


Usage = namedtuple("Usage", "total used free")


BIG = png(0, 512)  # noise does not compress: about 790 kB, a dozen of fetch's chunks
