"""Downloads of known datasets: resumed, verified, refused."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from dataset_server import BIG, Usage, fetch, png, zipped

from jdcsuite.data import catalog, download
from jdcsuite.imaging import atomic
from jdcsuite.imaging.folders import walk
from jdcsuite.types import UserError

pytest_plugins = ("dataset_server",)


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


def test_lack_of_space_is_reported_before_downloading(server, known, monkeypatch, tmp_path):
    known("toy", {"big.png": BIG})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: Usage(10, 0, 10))
    with pytest.raises(UserError, match=r"big\.png needs \d+\.\d kB .* free some space"):
        fetch("toy", tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_body_without_end_is_cut_at_the_size_of_the_catalogue(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG}, limit=1_000_000)
    server.endless = True
    with pytest.raises(UserError, match=r"sends more than the 1\.0 MB of big\.png, so it is another file"):
        fetch("toy", tmp_path)
    server.endless = False
    assert len(server.log) == 1, "tried again"
    assert not list(tmp_path.rglob("*.part")), "the part is kept"
    assert (fetch("toy", tmp_path) / "big.png").read_bytes() == BIG


def test_a_larger_file_than_in_the_catalogue_is_refused_before_it_is_sent(server, known, slept, tmp_path):
    known("toy", {"big.png": BIG}, limit=1000)
    with pytest.raises(UserError, match=r"sends more than the 1\.0 kB of big\.png"):
        fetch("toy", tmp_path)
    assert len(server.log) == 1 and not list(tmp_path.rglob("*.part"))


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
    with atomic.alone(stage / "lock", busy=""), pytest.raises(UserError, match="another `jdc fetch toy` is running"):
        fetch("toy", tmp_path)
    assert fetch("toy", tmp_path).is_dir()
