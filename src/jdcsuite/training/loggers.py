"""Metrics of a run -> ``metrics.csv`` in the run folder, and W&B where a tracker is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from jdcsuite.artifacts.rows import read_rows, write_rows
from jdcsuite.training.tracker import Tracker


def create(*, folder: Path, tracker: Tracker | None = None) -> list[Logger]:
    """The loggers of a run. ``metrics.csv`` is first, so that ``trainer.log_dir`` is the run folder."""
    return [LocalCsv(folder=folder)] + ([tracker] if tracker else [])


def finish(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """Closes the tracker among the loggers; to be called in a ``finally``. Takes bounded time and never raises."""
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.finish(failed=failed)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning warns here that the folder is not empty, and deletes the file."""


class LocalCsv(CSVLogger):
    """Lightning's ``metrics.csv``, directly in the run folder, continued when a run resumes: rows up to the step of the
    checkpoint are kept."""

    def __init__(self, *, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self._file = Path(folder, "metrics.csv")
        self._resumed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer, with the rows of earlier parts of the run."""
        if self._experiment is None:
            earlier = self._rows()
            self._experiment = _Writer(log_dir=self.log_dir)
            self._restore(earlier)
            self._resumed = bool(earlier)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a row; the first one after a resume removes the rows of the steps that are repeated."""
        if self.experiment and self._resumed and step is not None:
            self._restore([row for row in self._rows() if int(row["step"]) < step])
        self._resumed = False
        super().log_metrics(dict(metrics), step)

    def _rows(self) -> list[dict[str, str]]:
        return [row for row in read_rows(self._file) if (row.get("step") or "").isdigit()]

    def _restore(self, rows: list[dict[str, str]]) -> None:
        if rows:
            write_rows(rows, self._file)
            self._experiment.metrics_keys = list(rows[0])
        else:
            self._file.unlink(missing_ok=True)
