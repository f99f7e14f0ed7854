"""Downloads of known datasets from a local server that breaks connections, ignores Range and changes files."""

from __future__ import annotations

import hashlib
import io
import json
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
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.data.unpack import ARCHIVES
from jdcsuite.imaging.folders import walk
from jdcsuite.types import UserError


@dataclass
class Sent:
    path: str
    range: str | None
    status: int
    bytes: int


@dataclass
class Server:
    """``files``: path -> bytes. ``cut``: how many of the next responses are truncated, after ``cut_at`` bytes."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    etag: str | None = None
    validators: bool = True
    status: int | None = None
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

    def add(name: str, bodies: dict[str, bytes], *, checksum: bool = True, inside: str = "") -> Dataset:
        files = []
        for file, body in bodies.items():
            server.files[f"/{file}"] = body
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}" if checksum else None
            files.append(File(url=f"{server.url}/{file}", checksum=digest))
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


def test_single_files_are_downloaded_once(server, known, tmp_path):
    bodies = {"a.png": png(1), "b.png": png(2)}
    known("toy", bodies)
    (tmp_path / "toy").mkdir()  # an empty folder is no obstacle
    path = fetch("toy", tmp_path)
    assert path == tmp_path / "toy" == catalog.folder(tmp_path, "toy")
    assert {p.name: p.read_bytes() for p in walk(path)} == bodies
    assert sorted(p.name for p in path.iterdir()) == ["a.png", "b.png"], "only images"
    assert [s.path for s in server.log] == ["/a.png", "/b.png"]
    assert fetch("toy", tmp_path) == path
    assert len(server.log) == 2, "the second call sent a request"


@pytest.mark.parametrize("pack", ["toy.zip", "toy.tar", "toy.tar.gz"])
def test_archive_gives_the_inner_folder(pack, server, known, tmp_path):
    members = {"top/hr/a.png": png(1), "top/hr/b.png": png(2), "top/noisy/a.png": png(3), "README": b"text"}
    body = zipped(members) if pack.endswith("zip") else tarred(members, mode="w" if pack.endswith("r") else "w:gz")
    known("toy", {pack: body}, inside="top/hr")
    path = fetch("toy", tmp_path)
    assert {p.name: p.read_bytes() for p in path.rglob("*")} == {"a.png": png(1), "b.png": png(2)}
    assert not (tmp_path / ".fetch" / "toy").exists(), "the archive was not removed"


def test_macos_metadata_is_skipped(known, tmp_path):
    known("toy", {"toy.zip": zipped({"a.png": png(1), "__MACOSX/a.png": b"junk", "._a.png": b"junk"})})
    assert [p.name for p in walk(fetch("toy", tmp_path))] == ["a.png"]


def test_broken_download_is_resumed(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG})
    server.cut, server.cut_at = 1, 400_000
    path = fetch("toy", tmp_path)
    assert (path / "big.png").read_bytes() == BIG
    first, second = server.log
    assert (first.range, first.status, first.bytes) == (None, 200, 400_000)
    kept = int(re.fullmatch(r"bytes=(\d+)-", second.range)[1])
    assert 400_000 - download.CHUNK < kept <= 400_000
    assert (second.status, second.bytes) == (206, len(BIG) - kept), "more than the rest was sent"
    assert slept == [0, 1]


def test_a_second_command_resumes_the_download_of_the_first(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG})
    server.cut, server.cut_at = 5, 130_000
    with pytest.raises(UserError, match=r"broke 5 times .* run the same command again .* kB"):
        fetch("toy", tmp_path)
    assert slept == [0, 1, 2, 4, 8], "attempts are bounded, pauses double"
    assert not (tmp_path / "toy").exists()
    with pytest.raises(UserError, match="jdc fetch toy"):
        catalog.folder(tmp_path, "toy")
    (part,) = (tmp_path / ".fetch" / "toy").glob("*.part")
    kept = part.stat().st_size
    assert kept >= 5 * download.CHUNK and part.read_bytes() == BIG[:kept]
    server.log.clear()
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG
    assert [(s.range, s.status, s.bytes) for s in server.log] == [(f"bytes={kept}-", 206, len(BIG) - kept)]


def test_without_range_support_the_download_starts_again(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG})
    server.ranges, server.cut, server.cut_at = False, 1, 400_000
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG
    assert server.log[1].range and [(s.status, s.bytes) for s in server.log] == [
        (200, 400_000),
        (200, len(BIG)),
    ]


@pytest.mark.parametrize("flaw", [{"validators": False}, {"etag": 'W/"weak"'}])
def test_without_a_strong_validator_the_download_starts_again(flaw, server, known, slept, tmp_path):
    known("toy", {"big.png": BIG})
    server.cut, server.cut_at = 1, 400_000
    for key, value in flaw.items():
        setattr(server, key, value)
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG
    assert [(s.range, s.bytes) for s in server.log] == [(None, 400_000), (None, len(BIG))]


def test_a_changed_file_is_downloaded_from_the_start(server, known, slept, monkeypatch, tmp_path):
    known("toy", {"big.png": BIG}, checksum=False)
    server.cut, server.cut_at = 5, 130_000
    with pytest.raises(UserError):
        fetch("toy", tmp_path)
    server.files["/big.png"] = other = png(9, 512)
    with monkeypatch.context() as full, pytest.raises(UserError, match="free some space"):
        full.setattr(download.shutil, "disk_usage", lambda _path: Usage(10, 0, 10))
        fetch("toy", tmp_path)  # fails between the new headers and the new bytes
    assert server.log[-1].range is not None and server.log[-1].status == 200
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == other, "parts of two files were joined"
    assert server.log[-1].bytes == len(other)


def test_a_complete_part_is_not_downloaded_again(server, known, tmp_path):
    known("toy", {"big.png": BIG})
    stage = tmp_path / ".fetch" / "toy"
    stage.mkdir(parents=True)
    (stage / "big.png.part").write_bytes(BIG)
    (stage / "big.png.validator").write_text(f'"{hashlib.sha256(BIG).hexdigest()[:8]}"')
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG
    assert [(s.status, s.bytes) for s in server.log] == [(416, 0)]


def test_a_part_longer_than_the_file_starts_again(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG})
    stage = tmp_path / ".fetch" / "toy"
    stage.mkdir(parents=True)
    (stage / "big.png.part").write_bytes(BIG + b"more")
    (stage / "big.png.validator").write_text(f'"{hashlib.sha256(BIG).hexdigest()[:8]}"')
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG
    assert [s.status for s in server.log] == [416, 200]


def test_wrong_checksum_is_one_sentence_and_leaves_nothing(server, known, tmp_path):
    known("toy", {"a.png": png(1)})
    server.files["/a.png"] = png(2)
    with pytest.raises(UserError, match=r"^a\.png has a wrong checksum and was removed: run .*again\.$"):
        fetch("toy", tmp_path)
    assert not (tmp_path / "toy").exists()
    assert [p.name for p in (tmp_path / ".fetch" / "toy").iterdir()] == ["lock"]
    server.files["/a.png"] = png(1)
    assert (fetch("toy", tmp_path) / "a.png").read_bytes() == png(1)


def test_first_download_is_recorded_and_checked_later(server, known, tmp_path):
    known("toy", {"a.png": png(1)}, checksum=False)
    fetch("toy", tmp_path)
    record = tmp_path / "toy.checksums.json"
    assert json.loads(record.read_text()) == {"a.png": f"sha256:{hashlib.sha256(png(1)).hexdigest()}"}
    (tmp_path / "toy" / "a.png").unlink()
    server.files["/a.png"] = png(2)
    with pytest.raises(UserError, match=r"wrong checksum .*delete .*toy\.checksums\.json"):
        fetch("toy", tmp_path)
    record.unlink()
    assert (fetch("toy", tmp_path) / "a.png").read_bytes() == png(2)


def test_error_page_served_as_archive_is_never_trusted(server, known, tmp_path):
    known("toy", {"toy.zip": b"<html>moved</html>"}, checksum=False)
    with pytest.raises(UserError, match=r"toy\.zip is not what was expected"):
        fetch("toy", tmp_path)
    assert not (tmp_path / "toy.checksums.json").exists()
    server.files["/toy.zip"] = zipped({"a.png": png(1)})
    assert (fetch("toy", tmp_path) / "a.png").read_bytes() == png(1)


UNSAFE = {
    "up.zip": zipped({"../evil.png": png(1)}),
    "deep.zip": zipped({"a/../../evil.png": png(1)}),
    "root.zip": zipped({"/evil.png": png(1)}),
    "dos.zip": zipped({"..\\evil.png": png(1)}),
    "drive.zip": zipped({"C:evil.png": png(1)}),
    "up.tar": tarred({"../evil.png": png(1)}, mode="w"),
    "up.tar.gz": tarred({"../evil.png": png(1)}),
    "link.tar.gz": tarred({"a.png": png(1)}, link=("out", "/etc")),
}


@pytest.mark.parametrize("pack", UNSAFE)
def test_unsafe_archive_is_refused(pack, known, tmp_path):
    root = tmp_path / "deep" / "er" / "data"
    known("toy", {pack: UNSAFE[pack]})
    with pytest.raises(UserError, match=f"{pack} is unsafe to unpack"):
        fetch("toy", root)
    assert not list(tmp_path.rglob("*.png")) and not (root / "toy").exists()
    assert not (root / ".fetch" / "toy" / pack).exists()


def test_symbolic_link_in_a_zip_is_refused(known, tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("out")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
    known("toy", {"link.zip": out.getvalue()})
    with pytest.raises(UserError, match="unsafe to unpack because of 'out'"):
        fetch("toy", tmp_path)


@pytest.mark.parametrize("pack", ["bomb.zip", "bomb.tar.gz"])
def test_bomb_is_refused_before_unpacking(pack, known, tmp_path):
    members = {"a.png": bytes(30 << 20)}
    known("toy", {pack: zipped(members) if pack.endswith("zip") else tarred(members)})
    with pytest.raises(UserError, match=r"would grow to 31\.5 MB"):
        fetch("toy", tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_changed_layout_names_the_missing_folder(known, tmp_path):
    known("toy", {"toy.zip": zipped({"else/a.png": png(1)})}, inside="top")
    with pytest.raises(UserError, match=r"toy\.zip has no folder top"):
        fetch("toy", tmp_path)
    assert not (tmp_path / "toy").exists()


def test_lack_of_space_is_reported_before_downloading(server, known, monkeypatch, tmp_path):
    known("toy", {"big.png": BIG})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: Usage(10, 0, 10))
    with pytest.raises(UserError, match=r"big\.png needs \d+\.\d kB .* free some space"):
        fetch("toy", tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_missing_file_is_requested_once(server, known, slept, tmp_path):
    known("toy", {"a.png": png(1)})
    server.files.clear()
    with pytest.raises(UserError, match=r"the server answers 404.* --base-url"):
        fetch("toy", tmp_path)
    assert len(server.log) == 1


def test_a_busy_server_is_tried_again(server, known, slept, tmp_path):
    known("toy", {"a.png": png(1)})
    server.status = 503
    with pytest.raises(UserError, match="broke 5 times"):
        fetch("toy", tmp_path)
    assert [s.status for s in server.log] == [503] * 5


def test_mirror_and_bad_address(server, known, tmp_path):
    known("toy", {"a.png": png(1)})
    server.files["/mirror/a.png"] = server.files.pop("/a.png")
    with pytest.raises(UserError, match="it is no address"):
        fetch("toy", tmp_path, base_url="mirror")
    fetch("toy", tmp_path, base_url=f"{server.url}/mirror/")
    assert [s.path for s in server.log] == ["/mirror/a.png"]


def test_unusable_targets_are_refused(server, known, tmp_path):
    known("toy", {"a.png": png(1)})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write below .*file \(Not a directory\): choose another --root"):
        fetch("toy", tmp_path / "file")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "notes.txt").touch()
    with pytest.raises(UserError, match="holds files but no pictures: move it away"):
        fetch("toy", tmp_path)
    assert not server.log


def test_two_at_once_are_refused(known, tmp_path):
    known("toy", {"a.png": png(1)})
    stage = tmp_path / ".fetch" / "toy"
    stage.mkdir(parents=True)
    with fetching._locked(stage), pytest.raises(UserError, match="another `jdc fetch toy` is running"):
        fetch("toy", tmp_path)
    assert fetch("toy", tmp_path).is_dir()


def test_sidd_blocks_become_pairs(known, monkeypatch, tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    blocks = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 8, 8, 3), dtype=np.uint8)
    bodies = {}
    for side, value in zip(("Noisy", "Gt"), blocks, strict=True):
        out = io.BytesIO()
        scipy_io.savemat(out, {f"Validation{side}BlocksSrgb": value}, do_compression=True)
        bodies[f"Validation{side}BlocksSrgb.mat"] = out.getvalue()
    known("toy", bodies, checksum=False)
    shots = find_shots(fetch("toy", tmp_path), Source(folder="toy"))
    assert len(shots) == 6
    assert shots[4].noisy.name == shots[4].clean.name == "01_01.png"
    for path, side in zip((shots[4].noisy, shots[4].clean), blocks, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), side[1, 1])


def test_datasets_without_download_say_what_to_do(tmp_path):
    for name in ("nind", "featured_pictures"):
        with pytest.raises(UserError, match=rf"commons\.wikimedia\.org.*{tmp_path / name}/"):
            fetch(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_names_and_missing_folders_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'kodak' is no known dataset: choose one of .*kodak24"):
        fetch("kodak", tmp_path)
    root = tmp_path / "my data"
    with pytest.raises(UserError, match="does not exist"):
        catalog.folder(root, "mine")
    for name in ("mine", "empty"):
        (root / name).mkdir(parents=True)
    (root / "mine" / "a.PNG").write_bytes(png(1))
    assert catalog.folder(root, "mine") == root / "mine"
    with pytest.raises(UserError, match=rf"no folder {root}/their: .*has empty, mine;"):
        catalog.folder(root, "their")
    with pytest.raises(UserError, match=r"empty holds no pictures"):
        catalog.folder(root, "empty")
    with pytest.raises(UserError, match=rf"`jdc fetch bsd68 --root '{root}'`"):
        catalog.folder(root, "bsd68")
    (root / "kodak24").mkdir()
    with pytest.raises(UserError, match="`jdc fetch kodak24"):
        catalog.folder(root, "kodak24")


def test_alias_finds_the_folder(tmp_path):
    (tmp_path / "cbsd68").mkdir()
    (tmp_path / "cbsd68" / "a.png").write_bytes(png(1))
    assert catalog.folder(tmp_path, "bsd68") == catalog.folder(tmp_path, "cbsd68") == tmp_path / "cbsd68"


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("mine", ["noisy/a.png", "clean/a.png", "b.png"], [("noisy/a.png", "clean/a.png")]),
        (
            "sidd",
            ["s/NOISY_SRGB_010.PNG", "s/GT_SRGB_010.PNG"],
            [("s/NOISY_SRGB_010.PNG", "s/GT_SRGB_010.PNG")],
        ),
        ("sidd", ["noisy/a.png", "clean/a.png"], [("noisy/a.png", "clean/a.png")]),
        (
            "nind",
            [f"s/NIND_s_ISO{iso}.jpg" for iso in ("200", "200-2", "1600", "H1")] + ["t/NIND_t_ISO100.png"],
            [("s/NIND_s_ISO1600.jpg", "s/NIND_s_ISO200.jpg"), ("s/NIND_s_ISOH1.jpg", "s/NIND_s_ISO200.jpg")],
        ),
    ],
)
def test_pairs(name, files, expected, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    pairs = [(shot.noisy, shot.clean) for shot in find_shots(tmp_path, Source(folder=name))]
    assert [tuple(str(p.relative_to(tmp_path)) for p in pair) for pair in pairs] == expected


def test_catalogue_is_well_formed():
    names = {"flickr2k", "div2k", "kodak24", "cbsd68", "urban100", "sidd", "sidd_val", "nind", "clic_pro"}
    assert names | {"featured_pictures"} <= set(catalog.CATALOG)
    lengths = {"sha256": 64, "md5": 32}
    for name, entry in catalog.CATALOG.items():
        assert name == entry.name and bool(entry.files) != bool(entry.by_hand) and entry.licence
        assert bool(entry.evidence) == bool(entry.files), f"{name}: no source of its addresses"
        assert len({f.name for f in entry.files}) == len(entry.files)
        assert sum(f.name.endswith(ARCHIVES) for f in entry.files) <= 1, "one archive, one folder"
        for file in entry.files:
            assert re.fullmatch(r"https?://[^?#\s]+\.(zip|tar\.gz|tar|mat|png)", file.url), file.url
            kind, _, value = (file.checksum or "none:").partition(":")
            assert kind == "none" or re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", value), file
    rows = {row[0]: row for row in fetching.listing()}
    assert rows["kodak24"][2] == "15.4 MB, sha256" and rows["nind"][2] == "by hand"
    assert rows["sidd_val"][2] == "461.8 MB, checksum kept from the first download"
    assert all(len(row) == 4 and all(row) for row in rows.values())
