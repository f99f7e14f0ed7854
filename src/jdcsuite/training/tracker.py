"""Metrics of a run, or the report of a sweep -> W&B, online or as offline parts in the run folder.

No error of W&B ends a run: the first one is a warning, and nothing more is logged. W&B goes online only where a key is
configured and the server answers within 5 s, because ``wandb.init`` otherwise waits 90 s and then raises. Lightning's
``WandbLogger(offline=True)`` decides that beforehand, for the whole process (it sets WANDB_MODE), and all jobs of a
process share its run; so the run is started here and given to a WandbLogger. wandb is imported at first use.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import wraps
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import requests
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)
T = TypeVar("T")
Mode = Literal["auto", "online", "offline", "disabled"]

PROBE_SECONDS = 5.0  # for the first answer of the server, name resolution included
INIT_SECONDS = 15.0  # for wandb.init once the server has answered
FINISH_SECONDS = 30.0  # for the remaining upload; what is left stays on disk for `wandb sync`
NO_KEY = "no key is configured"
QUALITY = {"psnr": "PSNR in dB", "ms_ssim": "MS-SSIM"}
ERRORS = (Exception, SystemExit)  # wandb's command-line code may exit the process


def tracker(
    *,
    folder: Path,
    project: str,
    group: str | None,
    job_type: str,
    name: str,
    id: str,
    tags: Sequence[str],
    mode: Mode,
    config: dict[str, Any],
) -> Tracker | None:
    """Starts or continues the W&B run ``id`` and returns a Lightning logger to it.

    None on ranks other than 0, where the mode (or the variable WANDB_MODE) is ``disabled``, and where W&B fails.
    ``auto`` and ``online`` both fall back to offline; ``online`` warns even where there is just no key. ``id``: unique
    within the project; a resumed or requeued job passes the id of its first part. Takes bounded time and never raises.
    """
    if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled" or rank_zero_only.rank != 0:
        return None
    # wandb refuses other characters in ids and projects, and tags longer than 64
    project, id = (re.sub(r"[^\w. -]", "-", text).strip()[:128] for text in (project, id))
    tags = [tag[:64] for tag in dict.fromkeys(tags) if tag]
    config = json.loads(json.dumps(config, default=str, skipkeys=True))
    named = {"project": project, "name": name, "id": id}
    try:
        run = _start(folder, mode, named | {"group": group, "job_type": job_type, "tags": tags, "config": config})
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    except ERRORS as error:
        log.warning("W&B failed and is not used: %s", line(error))
        return None
    return Tracker(experiment=run, save_dir=folder, **named)


def sync_command(folder: Path) -> str:
    """The command that uploads the offline parts below the folder of a run or sweep; "" if there is none. Where none
    was uploaded before, patterns for the shell, because a sweep may have hundreds of parts."""
    every = sorted(folder.rglob("wandb/offline-run-*/"))
    parts = [part for part in every if not any(part.glob("*.synced"))]
    if not parts:
        return ""
    if parts != every:
        return shlex.join(["wandb", "sync", *map(str, parts)])
    depths = sorted({len(part.relative_to(folder).parts) - 2 for part in parts})
    return " ".join(["wandb sync", *(f"{shlex.quote(str(folder))}/{'*/' * n}wandb/offline-run-*" for n in depths)])


def report_run(*, tracker: Tracker | None, curves: pd.DataFrame, pictures: Mapping[str, Path]) -> None:
    """Ends a sweep with one W&B run: the curves as a Table, a chart over bpp, and images. Never raises.

    ``tracker``: of job_type "report"; the same id for a repeated report. ``curves``: from `curves.points`.
    ``pictures``: caption -> PNG.
    """
    if tracker:
        try:
            tracker.log_report(curves=curves, pictures=pictures)
        finally:
            tracker.finish()


def _bounded(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``. TimeoutError: it took longer, and continues in a daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """A method of a tracker that warns at its first error instead of raising, and does nothing afterwards."""

    @wraps(method)
    def call(self: Tracker, *args: Any, **keywords: Any) -> None:
        if not self._silent:
            try:
                method(self, *args, **keywords)
            except ERRORS as error:
                self._silent = True
                log.warning("W&B failed and is not used any more: %s", line(error))

    return call


class Tracker(WandbLogger):
    """Lightning's W&B logger of a run that has started; every call is guarded, except calls on ``experiment``."""

    _silent = _finished = False

    @_guarded
    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(params)

    @_guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @_guarded
    def log_image(self, key: str, images: list[Any], step: int | None = None, **keywords: Any) -> None:
        super().log_image(key, images, step, **keywords)

    @_guarded
    def log_report(self, *, curves: pd.DataFrame, pictures: Mapping[str, Path]) -> None:
        """The curves as a Table, PSNR and MS-SSIM over bpp as charts of each dataset, the images with captions."""
        # otherwise a Table is staged in the user's home, where a sync from another machine does not find it
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(self.save_dir).absolute() / "wandb"))
        # online, wandb sends a request for each Table before it returns
        logged = _report(curves, pictures).items()
        _bounded(FINISH_SECONDS, lambda: [self.experiment.log({key: value}) for key, value in logged])

    def finish(self, *, failed: bool = False) -> None:
        """Closes the run. If the upload takes too long, a warning names the command that completes it."""
        if self._finished:
            return
        self._silent = self._finished = True
        try:
            _bounded(FINISH_SECONDS + 5, lambda: self.experiment.finish(exit_code=int(failed)))
        except ERRORS as error:
            part = shlex.join(["wandb", "sync", str(self.experiment.settings.sync_dir)])
            log.warning("The upload to W&B is not complete (%s); complete it with: %s", line(error), part)
            _reset()


def _start(folder: Path, mode: Mode, init: dict[str, Any]) -> Any:
    """wandb's Run, online or else offline. ``init``: arguments of wandb.init."""
    # read when wandb is imported: its error reports go to another host than the configured one
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        reason = "logger.mode=offline" if mode == "offline" else no_route()
        if reason is None:
            run = _bounded(INIT_SECONDS + 5, lambda: _init(folder, "online", init))
            log.info("W&B: %s", run.url)
            return run
    except ERRORS as error:
        reason = line(error)
        _reset()
    run = _bounded(INIT_SECONDS + 5, lambda: _init(folder, "offline", init))
    expected = mode == "offline" or (mode == "auto" and reason == NO_KEY)
    level = logging.INFO if expected else logging.WARNING
    upload = shlex.join(["wandb", "sync", str(run.settings.sync_dir)])
    log.log(level, "W&B is offline: %s; upload later: %s", reason, upload)
    return run


def _init(folder: Path, mode: Literal["online", "offline"], init: dict[str, Any]) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        **init,
        dir=str(folder),
        resume="allow",
        mode=mode,
        reinit="create_new",  # otherwise the second job of a sweep logs into the run of the first
        settings=wandb.Settings(
            silent=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            # metrics, config and images only: no console, code, packages or hardware counters
            console="off",
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            x_disable_stats=True,
        ),
    )


def _reset() -> None:
    """Ends wandb's service process: after an error it may be dead, or report the id of the run as in use for ever."""
    import wandb

    with suppress(*ERRORS):
        _bounded(PROBE_SECONDS, wandb.teardown)


def no_route() -> str | None:
    """Why W&B cannot go online, or None. Within 5 s the server has to give any answer but a server error."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode != "online":
        return f"WANDB_MODE={settings.mode}"
    if not wandb.login(prompt=False, verify=False):  # looks for a key, without asking the user or the server
        return NO_KEY

    def probe() -> int:
        # auth: else requests looks up a password for the host; no redirect to any other host
        with requests.get(
            settings.base_url, timeout=PROBE_SECONDS, stream=True, allow_redirects=False, auth=lambda r: r
        ) as answer:
            return answer.status_code

    try:
        status = _bounded(PROBE_SECONDS, probe)
    except ERRORS as error:
        return f"{settings.base_url} does not answer ({type(error).__name__})"
    return f"{settings.base_url} answers {status}" if status >= 500 else None


def _report(curves: pd.DataFrame, pictures: Mapping[str, Path]) -> dict[str, Any]:
    """What a report logs: name -> image, Table or chart."""
    import wandb

    logged: dict[str, Any] = {f"report/{name}": wandb.Image(str(path), caption=name) for name, path in pictures.items()}
    for metric, suffix in {"psnr": "", "ms_ssim": "-ms_ssim"}.items():
        coded = curves[np.isfinite(curves[["bpp", metric]].astype(float)).all(axis=1)]
        for (dataset, sigma), panel in coded.groupby(["dataset", "sigma"], dropna=False):
            lines = {label: line.sort_values("bpp") for label, line in panel.groupby("label")}
            logged[f"rd/{dataset}-s{sigma:g}{suffix}"] = wandb.plot.line_series(
                xs=[line["bpp"].tolist() for line in lines.values()],
                ys=[line[metric].tolist() for line in lines.values()],
                keys=list(lines),
                title=f"{dataset}, sigma {sigma:g}: {QUALITY[metric]} over bpp",
                xname="bpp",
            )
    plain = curves.astype(object).where(curves.notna(), None)  # a Table takes None for empty, not NaN
    logged["report/curves"] = wandb.Table(columns=list(plain.columns), data=plain.to_numpy().tolist())
    return logged


def line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
