"""Metrics of a run -> W&B (online, or offline parts in the run folder) and ``metrics.csv``.

Nothing here ends a run: the tracker's first error is one warning, after which it is silent. W&B goes online
only where a key is configured and the server answers within 5 s, because ``wandb.init`` waits a minute and a
half for a server that does not answer and then raises. wandb itself is imported at first use.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import wraps
from pathlib import Path
from threading import Thread
from typing import Any, Literal, TypeVar

import pandas as pd
import requests
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

log = logging.getLogger(__name__)
T = TypeVar("T")
Mode = Literal["auto", "online", "offline", "disabled"]

PROBE_SECONDS = 5.0  # for the server's first answer, name look-up included
INIT_SECONDS = 15.0  # for wandb.init once the server has answered
FINISH_SECONDS = 30.0  # for the upload of what is left; the rest stays on disk for `wandb sync`
NO_KEY = "no key is configured"
ERRORS = (Exception, SystemExit)  # wandb's click code may exit the process


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
    """A Lightning logger to W&B, or None where the mode (or the variable WANDB_MODE) is ``disabled``.

    ``auto`` and ``online`` both fall back to offline; ``online`` warns even where there is just no key.
    ``id`` is the run's key: a requeued or resumed job continues the same W&B run.
    """
    if mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
        return None
    # wandb refuses these characters in ids and projects, and tags over 64 characters
    project, id = (re.sub(r"[^\w. -]", "-", text).strip()[:128] for text in (project, id))
    tags = [tag[:64] for tag in dict.fromkeys(tags) if tag]
    config = json.loads(json.dumps(config, default=str, skipkeys=True))
    init = {"project": project, "group": group, "job_type": job_type, "name": name, "id": id, "tags": tags}
    return Tracker(folder=folder, mode=mode, init=init | {"config": config})


def loggers(*, folder: Path, tracker: Logger | None) -> list[Logger]:
    """A run's loggers: ``metrics.csv`` first, so that ``trainer.log_dir`` is the run folder, then W&B."""
    return [LocalCsv(folder=folder)] + ([tracker] if tracker else [])


def finish(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """Close every tracker among the loggers; belongs in a ``finally``, takes bounded time, never raises."""
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.finish(failed=failed)


def sync_command(folder: Path) -> str:
    """The command that uploads the offline parts under a run's or a sweep's folder; "" if there is none."""
    parts = [p for p in sorted(folder.rglob("wandb/offline-run-*")) if not any(p.glob("*.synced"))]
    return shlex.join(["wandb", "sync", *map(str, parts)]) if parts else ""


def report_run(*, tracker: Tracker | None, curves: pd.DataFrame, pictures: Mapping[str, Path]) -> None:
    """End a sweep with one W&B run: the curves as a Table, a chart over bpp, the pictures. Never raises.

    ``tracker``: made with job_type "report" and an id from the sweep's key, so that a repeated report goes to
    the same run. ``curves``: what ``report.curves`` returns. ``pictures``: caption -> PNG.
    """
    if tracker:
        try:
            tracker.log_report(curves=curves, pictures=pictures)
        finally:
            tracker.finish()


def _bounded(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``, or TimeoutError: the caller goes on while a daemon thread is left behind."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """Let no error of a tracker's method out: warn once, then be silent."""

    @wraps(method)
    def call(self: Tracker, *args: Any, **keywords: Any) -> None:
        if not self._silent and rank_zero_only.rank == 0:
            try:
                method(self, *args, **keywords)
            except ERRORS as error:
                self._fall_silent(error)

    return call


class Tracker(WandbLogger):
    """Lightning's W&B logger with every call guarded, and a start that is bounded and falls back to offline.

    The run starts at first use, on rank 0 only. ``init``: arguments of ``wandb.init``. ``experiment`` is
    wandb's own Run: calls on it are not guarded.
    """

    def __init__(self, *, folder: Path, mode: Mode, init: dict[str, Any]) -> None:
        super().__init__(save_dir=folder, **init)
        self._wandb_init.pop("anonymous")  # wandb warns of it even where it is None
        self._mode = mode
        self._silent = False
        self._part = ""  # the folder that wandb writes this part of the run to

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """wandb's Run; an object that swallows every call once the tracker is silent."""
        if self._experiment is None and not self._silent:
            try:
                self._experiment = self._begin()
                self._part = str(self._experiment.settings.sync_dir)
                self._experiment.define_metric("trainer/global_step")
                self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            except ERRORS as error:
                self._fall_silent(error)
        return _Silence() if self._silent else self._experiment

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
        """The curves as a Table, PSNR over bpp as a chart for each dataset, the pictures with captions."""
        # a Table is staged in the user's home otherwise, where a sync from another machine does not find it
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(self.save_dir).absolute() / "wandb"))
        run = self.experiment
        # online, a Table makes wandb ask the server before it returns: one at a time, in bounded time
        _bounded(FINISH_SECONDS, lambda: [run.log({k: v}) for k, v in _report(curves, pictures).items()])

    def finish(self, *, failed: bool = False) -> None:
        """Close the run. What could not be uploaded in time is named with the command that does it later."""
        run, self._experiment, self._silent = self._experiment, None, True
        if run is None:
            return
        try:
            _bounded(FINISH_SECONDS + 5, lambda: run.finish(exit_code=int(failed)))
        except ERRORS as error:
            log.warning(
                "W&B did not take everything (%s); the rest: %s",
                _line(error),
                shlex.join(["wandb", "sync", self._part]),
            )
            _reset()

    def _begin(self) -> Any:
        # read at wandb's import: error reports would go to another host than the one configured
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            reason = "as asked" if self._mode == "offline" else _no_route()
            if reason is None:
                run = _bounded(INIT_SECONDS + 5, lambda: self._init("online"))
                log.info("W&B: %s", run.url)
                return run
        except ERRORS as error:
            reason = _line(error)
            _reset()
        run = _bounded(INIT_SECONDS + 5, lambda: self._init("offline"))
        quiet = self._mode == "offline" or (self._mode == "auto" and reason == NO_KEY)
        level = logging.INFO if quiet else logging.WARNING
        upload = shlex.join(["wandb", "sync", str(run.settings.sync_dir)])
        log.log(level, "W&B is offline: %s; upload later: %s", reason, upload)
        return run

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        return wandb.init(
            **self._wandb_init,
            mode=mode,
            reinit="create_new",  # else the second job of a sweep logs into the run of the first
            settings=wandb.Settings(
                silent=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
                # what W&B shows is what the run folder holds: no console, code, packages or hardware counters
                console="off",
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=True,
            ),
        )

    def _fall_silent(self, error: BaseException) -> None:
        if not self._silent:
            self._silent = True
            log.warning("W&B failed and is left out from here on: %s", _line(error))


class _Silence:
    """Stands in for wandb's Run once the tracker is silent."""

    def __getattr__(self, name: str) -> _Silence:
        return self

    def __call__(self, *args: Any, **keywords: Any) -> _Silence:
        return self


class LocalCsv(CSVLogger):
    """Lightning's ``metrics.csv``, straight in the run folder, which a resumed run continues.

    Lightning deletes the file of the run that it resumes; here its rows are kept up to the step resumed from.
    """

    def __init__(self, *, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self._file = Path(folder, "metrics.csv")
        self._resumed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, holding the rows of the run's earlier parts."""
        if self._experiment is None:
            earlier = self._rows()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the folder is not empty is no news
                super().experiment  # noqa: B018  # starts the writer, which deletes the file
            self._restore(earlier)
            self._resumed = bool(earlier)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; the first one after a resume drops the rows of the steps that are now done again."""
        if self.experiment and self._resumed and step is not None:
            self._restore([row for row in self._rows() if int(row["step"]) < step])
        self._resumed = False
        super().log_metrics(dict(metrics), step)

    def _rows(self) -> list[dict[str, str]]:
        if not self._file.exists():
            return []
        with self._file.open(newline="") as file:  # a killed job may leave a torn last line
            return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]

    def _restore(self, rows: list[dict[str, str]]) -> None:
        self._file.unlink(missing_ok=True)
        self._experiment.metrics = rows
        self._experiment.save()


def _reset() -> None:
    """End wandb's service, which after an error may be dead, or keep the run's id as "in use" for ever."""
    import wandb

    with suppress(*ERRORS):
        _bounded(PROBE_SECONDS, wandb.teardown)


def _no_route() -> str | None:
    """Why W&B cannot go online, or None. Its server has 5 s for any answer that is not its own failure."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode != "online":
        return f"WANDB_MODE={settings.mode}"
    if not wandb.login(prompt=False, verify=False):  # looks for a key, asks neither user nor server
        return NO_KEY

    def probe() -> int:
        # auth: or requests would look for a password of that host; no redirect: to no host but that one
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
    """What a report logs: name -> picture, Table or chart."""
    import wandb

    logged: dict[str, Any] = {f"report/{name}": wandb.Image(str(path), caption=name) for name, path in pictures.items()}
    coded = curves.dropna(subset=["bpp", "psnr"])
    for (dataset, sigma), panel in coded.groupby(["dataset", "sigma"], dropna=False):
        lines = dict(list(panel.groupby("label")))
        logged[f"rd/{dataset}-s{sigma:g}"] = wandb.plot.line_series(
            xs=[line["bpp"].tolist() for line in lines.values()],
            ys=[line["psnr"].tolist() for line in lines.values()],
            keys=list(lines),
            title=f"{dataset}, sigma {sigma:g}: PSNR in dB over bpp",
            xname="bpp",
        )
    plain = curves.astype(object).where(curves.notna(), None)  # a Table takes None for empty, not NaN
    logged["report/curves"] = wandb.Table(columns=list(plain.columns), data=plain.to_numpy().tolist())
    return logged


def _line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
