"""Progress of a count -> a bar on a terminal; elsewhere, as in a log file, a line every so often with the time left."""

from __future__ import annotations

import time

from rich import progress
from rich.console import Console

INTERVAL = 30.0  # seconds between lines


class Progress:
    """``total``: number of units. Nothing is printed for work that takes less than ``interval`` seconds in a log."""

    def __init__(self, title: str, *, total: int, console: Console, interval: float = INTERVAL) -> None:
        self.title, self.total, self.console, self.interval = title, total, console, interval
        columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
        self._bar = progress.Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        self.done, self._start = 0, time.monotonic()
        self._printed = self._start
        if self._bar:
            self._task = self._bar.add_task(self.title.replace("[", r"\["), total=self.total)
            self._bar.start()
        return self

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self._bar:
            self._bar.advance(self._task, count)
        elif (now := time.monotonic()) - self._printed >= self.interval:
            self._printed = now
            left = (now - self._start) / self.done * (self.total - self.done)
            line = f"{self.title}: {self.done} of {self.total}, {_duration(left)} left"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
