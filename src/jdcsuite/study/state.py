"""A run folder -> whether its job is done, running, waiting or failed, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from rich import box
from rich.markup import escape
from rich.table import Table

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.artifacts.rows import read_rows
from jdcsuite.study.launch import slurm
from jdcsuite.study.launch.execute import lock_of, time_left
from jdcsuite.types import UserError

DONE, RUNNING, WAITING, FAILED, STOPPED = "done", "running", "waiting", "failed", "stopped"


@dataclass(frozen=True)
class State:
    """``word``: done; running; waiting for a device, a run that it needs, or to be begun; failed; or stopped: begun,
    and now run by nobody. ``note``: why, in words. ``step`` of ``steps`` is the last one that was logged."""

    word: str
    note: str = ""
    step: int = 0
    steps: int = 0

    @property
    def done(self) -> bool:
        return self.word == DONE

    @property
    def busy(self) -> bool:
        """Whether somebody runs the job, or a cluster will."""
        return self.word == RUNNING or (self.word == WAITING and bool(self.note))


def studies(paths: Sequence[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """(study, its run folders) for study folders, folders of studies, and run folders. UserError: there is no run."""
    found: dict[Path, list[Path]] = {}
    for path in paths:
        configs = (
            [path / run_folder.CONFIG]
            if (path / run_folder.CONFIG).is_file()
            else sorted(path.rglob(run_folder.CONFIG))
        )
        for config in configs:
            found.setdefault(config.parent.parent, []).append(config.parent)
    if not found:
        raise UserError(f"there is no run in {', '.join(map(str, paths))}: give a folder of runs, as runs/demo")
    yield from found.items()


def state_of(folder: Path) -> State:
    try:
        config = run_folder.read_config(folder)
    except UserError as error:
        return State(FAILED, str(error))
    steps = config["trainer"]["max_steps"]
    step = min(_last_step(folder) + 1, steps)
    if run_folder.is_finished(folder, config["key"]):
        return State(DONE, "", steps, steps)
    job = slurm.queued(folder)
    if job and slurm.state(job) != "RUNNING":
        return State(WAITING, f"job {job} is {(slurm.state(job) or 'gone').lower()}", step, steps)
    if job or _held(folder):
        return State(RUNNING, f"job {job}" if job else "", step, steps)
    log = folder / run_folder.ERROR
    if log.is_file():
        return State(FAILED, log.read_text(errors="replace").partition("\n")[0], step, steps)
    for need in run_folder.needed(folder, config).values():
        if (need / run_folder.CONFIG).is_file() and state_of(need).word == FAILED:
            return State(FAILED, f"it needs {need.name}, which failed", step, steps)
    if ended := slurm.ended(folder):
        return State(FAILED, f"SLURM ended it: {ended.lower()}", step, steps)
    if run_folder.read_state(folder):
        return State(STOPPED, "the command that made it goes on", step, steps)
    return State(WAITING, "", 0, steps)


def table(study: Path, known: Mapping[Path, State]) -> Table:
    """The jobs of a study for a terminal."""
    counts = Counter(each.word for each in known.values())
    title = ", ".join(f"{counts[word]} {word}" for word in (DONE, RUNNING, WAITING, STOPPED, FAILED) if counts[word])
    unfinished = [folder for folder, each in known.items() if not each.done]
    left = time_left(unfinished, list(known), parallel=max(1, counts[RUNNING])) if unfinished else ""
    shown = Table(title=f"{escape(str(study))}: {title}{left}", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("job", "state", "step", "note"):
        shown.add_column(column, overflow="fold", justify="right" if column == "step" else "left")
    for folder, each in known.items():
        shown.add_row(escape(folder.name), each.word, f"{each.step}/{each.steps}", escape(each.note))
    return shown


def _held(folder: Path) -> bool:
    """Whether a process has the lock of a run."""
    lock = lock_of(folder)
    if not Path(lock.lock_file).is_file():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _last_step(folder: Path) -> int:
    """The last step in metrics.csv, -1 without any."""
    steps = [row.get("step") or "" for row in read_rows(folder / "metrics.csv")]
    return max((int(step) for step in steps if step.isdigit()), default=-1)
