"""The tracker with the real wandb: offline, online with a local server, and with servers that fail.

No test connects to another host: WANDB_BASE_URL is always a port of this one, and the home folder is empty.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from wandb.proto import wandb_internal_pb2

from jdcsuite.training import loggers
from jdcsuite.training import tracker as module
from jdcsuite.training.loggers import LocalCsv
from jdcsuite.training.tracker import Mode, Tracker, report_run, sync_command, tracker

KEY = "0" * 40


class Server:
    """The parts of a W&B server that a run needs. ``front``: HTTP status of the front page, ``status``: of the rest."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.front, self.status, self.mute, self.end = 200, 200, False, Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                if server.mute:
                    server.end.wait(60)
                    return
                sent = json.loads(body) if body.startswith(b"{") else {}
                query = re.search(r"(?:query|mutation)\s+(\w+)", str(sent.get("query")))
                name = query[1] if query else self.path
                server.calls.append((name, sent.get("variables") or sent))
                answer = json.dumps({"data": server.data(name, sent.get("variables") or {})}).encode()
                self.send_response(server.front if name == "/" else server.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, daemon=True).start()

    def data(self, name: str, sent: dict) -> dict:
        project = {"name": sent.get("project"), "entity": {"name": "me", "id": "e"}}
        bucket = {"id": "x", "name": sent.get("name"), "displayName": "d", "historyLineCount": 0}
        return {
            "RunResumeStatus": {"model": {"id": "x", **project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}},
            "CreateRunFiles": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}},
        }.get(name, {})

    def history(self) -> list[dict]:
        """All rows of metrics that were received."""
        files = [sent.get("files", {}) for name, sent in self.calls if name.endswith("file_stream")]
        lines = [line for file in files for line in file.get("wandb-history.jsonl", {}).get("content", [])]
        return [json.loads(line) for line in lines]


@pytest.fixture
def server() -> Iterator[Server]:
    local = Server()
    yield local
    local.end.set()
    local.http.shutdown()


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user without a key. wandb reads its variables when its service starts, so each test ends the service."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", "")  # restored after the test, whatever it sets
    monkeypatch.delenv("WANDB_DATA_DIR")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    module._reset()


def arguments(folder: Path, *, id: str = "key1", mode: Mode = "auto") -> dict:
    config = {"lmbda": 512, "data": {"root": Path("photos")}}
    named = {"project": "suite", "group": "study", "job_type": "train", "name": "fllic-s10-l512", "id": id}
    return {"folder": folder, **named, "tags": ["fllic", "fllic"], "mode": mode, "config": config}


def make(folder: Path, *, id: str = "key1", mode: Mode = "auto") -> Tracker:
    run = tracker(**arguments(folder, id=id, mode=mode))
    assert run is not None
    return run


def parts(folder: Path) -> list[str]:
    return sorted(part.name.split("-", 3)[-1] for part in folder.glob("wandb/offline-run-*"))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of the tracker itself, without those of wandb."""
    ours = [r for r in caplog.records if r.name == "jdcsuite.training.tracker" and r.levelno >= logging.WARNING]
    return [record.getMessage() for record in ours]


def test_wandb_is_not_imported_with_the_module() -> None:
    assert "wandb" not in vars(module)


def test_without_a_key_a_run_is_offline_and_syncs_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    for first in (0, 2):  # the second part is from a requeued job
        run = make(tmp_path)
        for step in (first, first + 1):
            run.log_metrics({"train/loss": 1 / (1 + step)}, step)
        run.log_image("test/pictures", [np.zeros((8, 8, 3), np.uint8)], step=first + 1, caption=["clean"])
        loggers.finish([run])
        if first == 0:
            time.sleep(1.1)  # wandb names parts by the second
    assert server.calls == []
    assert parts(tmp_path) == ["key1", "key1"]

    command = sync_command(tmp_path)
    assert command.startswith("wandb sync ")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(command, shell=True, check=True, timeout=60, capture_output=True)
    losses = {row["trainer/global_step"]: row["train/loss"] for row in server.history() if "train/loss" in row}
    assert losses == {step: 1 / (1 + step) for step in range(4)}
    assert sum("test/pictures" in row for row in server.history()) == 2
    resumes = [sent for name, sent in server.calls if name == "RunResumeStatus"]
    assert [sent["name"] for sent in resumes] == ["key1", "key1"]  # both parts continue one run
    assert sync_command(tmp_path) == ""


def test_with_a_key_and_an_answer_a_run_is_online(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    runs = [make(tmp_path, id="one/1"), make(tmp_path, id="two")]
    for run in runs:  # the second job does not log into the run that the first left open
        run.log_hyperparams({"batch": 8})
        run.log_metrics({"loss": 0.5}, 10)
    for run in runs:
        run.finish(failed=run is runs[1])
        run.finish()
    started = [sent for name, sent in server.calls if name == "UpsertBucket" and sent.get("groupName")]
    assert [sent["name"] for sent in started] == ["one-1", "two"]
    assert {(sent["project"], sent["groupName"], sent["jobType"]) for sent in started} == {("suite", "study", "train")}
    assert json.loads(started[0]["config"])["data"]["value"] == {"root": "photos"}
    rows = [(row["trainer/global_step"], row["loss"]) for row in server.history()]
    assert rows == [(10, 0.5), (10, 0.5)]
    ended = [sent["exitcode"] for name, sent in server.calls if "exitcode" in sent]
    assert ended == [0, 1]
    assert parts(tmp_path) == []


def test_a_server_that_never_answers_delays_the_start_by_the_probe_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert module.PROBE_SECONDS == 5
    monkeypatch.setattr(module, "PROBE_SECONDS", 1.5)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as hole:  # the kernel accepts connections, nobody reads
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        start = time.monotonic()
        run = make(tmp_path)
        run.log_metrics({"loss": 1.0}, 0)
        assert 1.5 <= time.monotonic() - start < 6
        run.finish()
    assert parts(tmp_path) == ["key1"]
    (warning,) = warned(caplog)
    assert "does not answer" in warning and "wandb sync" in warning


@pytest.mark.parametrize("case", ["nothing listens", "down", "half down", "key refused", "key malformed"])
def test_a_server_that_fails_leaves_an_offline_run(
    case: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short" if case == "key malformed" else KEY)
    monkeypatch.setattr(module, "INIT_SECONDS", 3.0)
    if case != "nothing listens":
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
    server.status = {"down": 500, "half down": 500, "key refused": 401}.get(case, 200)
    server.front = 500 if case == "down" else 200
    start = time.monotonic()
    run = make(tmp_path)
    run.log_metrics({"loss": 1.0}, 0)
    run.finish()
    assert time.monotonic() - start < 10
    assert parts(tmp_path) == ["key1"]
    (warning,) = warned(caplog)
    assert "W&B is offline" in warning
    assert not server.history()
    if case == "down":
        assert [name for name, _ in server.calls] == ["/"]


def test_a_server_that_dies_delays_the_end_by_bounded_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FINISH_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = make(tmp_path)
    run.log_metrics({"loss": 1.0}, 0)
    server.mute = True
    start = time.monotonic()
    run.log_metrics({"loss": 0.5}, 1)
    assert time.monotonic() - start < 1
    run.finish()
    assert 0.9 < time.monotonic() - start < 10
    (part,) = tmp_path.glob("wandb/run-*")
    (warning,) = warned(caplog)
    assert "is not complete" in warning and str(part) in warning


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the process in /proc")
def test_the_death_of_wandbs_service_ends_neither_this_job_nor_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path / "a")
    run.log_metrics({"loss": 1.0}, 0)
    killed = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        pid, name, _, parent = re.match(r"(\d+) \((.*)\) (\S+) (\d+)", stat.read_text()).groups()
        if int(parent) == os.getpid() and name.startswith("wandb"):
            os.kill(int(pid), signal.SIGKILL)
            killed += 1
    assert killed == 1
    time.sleep(0.3)
    for step in range(3):
        run.log_metrics({"loss": 0.5}, step)
    run.log_image("a", [np.zeros((8, 8, 3), np.uint8)])
    (warning,) = warned(caplog)
    assert "not used any more" in warning
    run.finish()
    other = make(tmp_path / "b", id="key2")  # the next job of the sweep
    other.log_metrics({"loss": 1.0}, 0)
    assert not other._silent
    other.finish()
    assert parts(tmp_path / "b") == ["key2"]


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = (self.layer(batch[0]) - 1).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("broken", [False, True])
def test_training_finishes_with_and_without_a_working_tracker(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    if broken:
        monkeypatch.setattr(wandb, "init", lambda *args, **keywords: sys.exit(1))
    run_loggers = loggers.create(folder=tmp_path, tracker=tracker(**arguments(tmp_path)))
    trainer = L.Trainer(
        max_steps=4,
        logger=run_loggers,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
    )
    try:
        trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(4, 1))))
    finally:
        loggers.finish(run_loggers)
    assert trainer.global_step == 4
    assert Path(trainer.log_dir) == tmp_path
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert float(rows[3]["train/loss"]) < float(rows[0]["train/loss"])
    assert parts(tmp_path) == ([] if broken else ["key1"])


def test_metrics_csv_is_continued_when_a_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    first = LocalCsv(folder=tmp_path)
    for step in range(5):
        first.log_metrics({"loss": float(step)}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("9.")  # the job was killed while writing
    second = LocalCsv(folder=tmp_path)
    second.log_hyperparams({"a": 1})
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 6
    second.log_metrics({"loss": 30.0, "psnr": 28.0}, 3)
    second.log_metrics({"loss": 40.0}, 4)
    second.finalize("success")
    rows = pd.read_csv(tmp_path / "metrics.csv")
    assert rows["step"].tolist() == [0, 1, 2, 3, 4]
    assert rows["loss"].tolist() == [0.0, 1.0, 2.0, 30.0, 40.0]
    assert rows["psnr"].dropna().tolist() == [28.0]


def test_a_sweeps_report_holds_the_curves(tmp_path: Path) -> None:
    columns = {"label": ["fllic", "fllic", "noisy + avif"], "dataset": "kodak24", "sigma": 10.0}
    columns |= {"bpp": [0.5, 1.5, 1.0], "psnr": [26.0, 30.5, 31.0], "ms_ssim": [0.9, np.nan, np.nan]}
    curves = pd.DataFrame(columns)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "rd.png")
    run = make(tmp_path, mode="offline")
    report_run(tracker=run, curves=curves, pictures={"rd": tmp_path / "rd.png"})
    assert run._silent
    media = tmp_path / "wandb" / "latest-run" / "files" / "media"
    (table,) = media.glob("table/report/curves*.json")
    table = json.loads(table.read_text())
    assert table["columns"] == list(curves)
    assert table["data"] == [
        ["fllic", "kodak24", 10, 0.5, 26, 0.9],
        ["fllic", "kodak24", 10, 1.5, 30.5, None],
        ["noisy + avif", "kodak24", 10, 1, 31, None],
    ]
    (chart,) = media.glob("table/rd/kodak24-s10_*.json")
    points = {tuple(row) for row in json.loads(chart.read_text())["data"]}
    assert {(0.5, "fllic", 26), (1.5, "fllic", 30.5), (1, "noisy + avif", 31)} <= points
    (chart,) = media.glob("table/rd/kodak24-s10-ms_ssim*.json")
    assert {tuple(row) for row in json.loads(chart.read_text())["data"]} == {(0.5, "fllic", 0.9)}
    (picture,) = media.glob("images/report/*.png")
    assert Image.open(picture).size == (40, 30)
    assert any((tmp_path / "wandb" / "artifacts").rglob("*"))  # and not in the home folder
    report_run(tracker=None, curves=curves, pictures={})


def records(part: Path) -> Iterator[wandb_internal_pb2.Record]:
    """The transaction log of an offline part: blocks of 32 KiB with records as in LevelDB's log."""
    (path,) = part.glob("*.wandb")
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:  # padding at the end of a block
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def test_the_report_of_a_sweep_is_read_back_as_one_run_with_charts_over_bpp(tmp_path: Path) -> None:
    """What was logged offline, with the same id after a requeue."""
    curves = pd.DataFrame({"label": ["fllic", "noisy + avif"], "dataset": "kodak24", "sigma": 10.0, "bpp": [0.5, 1.0],
                           "psnr": [26.0, np.inf], "ms_ssim": [0.9, 1.0]})  # fmt: skip
    for part in range(2):
        named = arguments(tmp_path / "report", mode="offline", id="report-1") | {"job_type": "report"}
        report_run(tracker=tracker(**named), curves=curves, pictures={})
        time.sleep(1.1 - part)  # wandb names parts by the second
    assert sync_command(tmp_path) == f"wandb sync {tmp_path}/*/wandb/offline-run-*"
    for part in tmp_path.glob("report/wandb/offline-run-*"):
        logged = list(records(part))
        (run,) = [record.run for record in logged if record.HasField("run")]
        assert (run.run_id, run.job_type, run.run_group) == ("report-1", "report", "study")
        items = [item for record in logged if record.HasField("history") for item in record.history.item]
        keys = {item.key or item.nested_key[0] for item in items}
        assert {"report/curves", "rd/kodak24-s10_table", "rd/kodak24-s10-ms_ssim_table"} <= keys
        updates = [item for record in logged if record.HasField("config") for item in record.config.update]
        charts = " ".join(item.value_json for item in updates if "visualize" in "".join(item.nested_key))
        assert '"xname":"bpp"' in charts.replace(" ", "") and "wandb/lineseries/v0" in charts, charts
        (points,) = part.glob("files/media/table/rd/kodak24-s10_*.json")
        assert {tuple(row) for row in json.loads(points.read_text())["data"]} == {(0.5, "fllic", 26)}, "no infinity"


def test_disabled_and_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracker(**arguments(tmp_path, mode="disabled")) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracker(**arguments(tmp_path, mode="online")) is None
    assert [type(logger) for logger in loggers.create(folder=tmp_path)] == [LocalCsv]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert tracker(**arguments(tmp_path / "run")) is None
    (logger,) = loggers.create(folder=tmp_path / "run")
    logger.log_metrics({"loss": 1.0}, 0)
    loggers.finish([logger])
    assert not (tmp_path / "run").exists()
