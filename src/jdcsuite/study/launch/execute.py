"""Run folders in order -> which of them failed, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from statistics import mean
from threading import Event

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.imaging import atomic
from jdcsuite.study.launch import Failure, process_group
from jdcsuite.types import UserError

Start = Callable[[Path, Mapping], str]  # (run folder, its job) -> why it failed; "" where it ended well


def execute(folders: Sequence[Path], console: Console) -> list[Failure]:
    """Run jobs, each after those that it needs; the failures. A failed job does not stop the others, except those that
    need it. As many run at a time as `launcher.parallel` says, each on devices of its own."""
    if not folders:
        return []
    config = run_folder.read_config(folders[0])
    slots = _slots(config)
    study = _Study(folders, console, parallel=len(slots))
    one_by_one = (study.run(folder, _start) for folder in folders)
    reasons = one_by_one if len(slots) == 1 else _side_by_side(study, slots)
    return [Failure(folder, reason) for folder, reason in zip(folders, reasons, strict=True) if reason]


def _slots(config: Mapping) -> list[list[str]]:
    """The devices of each job that runs at a time: the numbers of GPUs, or nothing on a CPU."""
    devices, accelerator = config["trainer"]["devices"], config["trainer"]["accelerator"]
    gpus = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    parallel = config["launcher"]["parallel"] or max(1, gpus // devices)
    if not gpus:
        return [[] for _ in range(parallel)]
    if parallel * devices > gpus:
        raise UserError(f"launcher.parallel={parallel} jobs of {devices} devices need more than the {gpus} GPUs here")
    return [[str(slot * devices + i) for i in range(devices)] for slot in range(parallel)]


class _Study:
    """Jobs and why each failed. `run` may be called from several threads, a job in each."""

    def __init__(self, folders: Sequence[Path], console: Console, *, parallel: int = 1) -> None:
        self.folders, self._console, self._parallel = list(folders), console, parallel
        self._failed: set[Path] = set()

    def run(self, folder: Path, start: Start) -> str:
        """Why a job failed; "" where it ended well, now or before."""
        number = self.folders.index(folder) + 1
        left = time_left(self.folders[number - 1 :], self.folders, parallel=self._parallel)
        progress = f"[bold][{number}/{len(self.folders)}][/] {escape(str(folder))}{left}"
        self._console.print(progress, highlight=False, soft_wrap=True)
        try:
            reason = self._needed(folder) or run(folder, start, self._console)
        except UserError as error:
            reason = str(error)
        if reason:
            self._failed.add(folder.resolve())
            self._console.print(f"  failed: {reason}", markup=False, highlight=False, soft_wrap=True)
        return reason

    def _needed(self, folder: Path) -> str:
        needs = run_folder.needed(folder, run_folder.read_config(folder)).values()
        return next((f"it needs {need.name}, which failed" for need in needs if need.resolve() in self._failed), "")


def time_left(waiting: Sequence[Path], folders: Sequence[Path], *, parallel: int = 1) -> str:
    """The time that the jobs ``waiting`` will take, as ", about 2 h 5 min left", going by the wall times in run.json of
    finished jobs of the same method, or else of any; "" before one has finished. ``parallel``: jobs at a time."""
    seconds: dict[str, list[float]] = {}
    states = {folder: run_folder.read_state(folder) or {} for folder in folders}
    for folder, state in states.items():
        if state.get("finished") and state.get("seconds"):
            seconds.setdefault(folder.name.partition("-")[0], []).append(state["seconds"])
    every = [value for values in seconds.values() for value in values]
    if not every:
        return ""
    unfinished = [folder.name.partition("-")[0] for folder in waiting if not states[folder].get("finished")]
    minutes = round(sum(mean(seconds.get(method, every)) for method in unfinished) / parallel / 60)
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f", about {hours}{minutes % 60} min left" if minutes else ", less than a minute left"


def _start(folder: Path, config: Mapping) -> str:
    devices = config["trainer"]["devices"]
    if devices == 1:
        from jdcsuite.study.launch.worker import attempt  # takes seconds, which `jdc status` need not wait for

        return attempt(folder)
    return process_group.reason(folder, process_group.status_of(process_group.torchrun(devices, folder)))


def _side_by_side(study: _Study, slots: Sequence[Sequence[str]]) -> list[str]:
    """Every job in processes of its own, as soon as those that it needs have ended and devices are free."""
    free: Queue[Sequence[str]] = Queue()
    for slot in slots:
        free.put(slot)
    threads = str(max(1, (os.cpu_count() or 1) // len(slots)))
    ended = {folder.resolve(): Event() for folder in study.folders}
    interrupted = Event()

    def start(folder: Path, config: Mapping, slot: Sequence[str]) -> str:
        environment = {"OMP_NUM_THREADS": threads} | ({"CUDA_VISIBLE_DEVICES": ",".join(slot)} if slot else {})
        command = process_group.torchrun(config["trainer"]["devices"], folder)
        return process_group.reason(folder, process_group.status_of(command, environment=environment))

    def work(folder: Path) -> str:
        try:
            for need in run_folder.needed(folder, run_folder.read_config(folder)).values():
                if need.resolve() in ended:
                    ended[need.resolve()].wait()
            with _taken(free) as slot:
                return "" if interrupted.is_set() else study.run(folder, partial(start, slot=slot))
        finally:
            ended[folder.resolve()].set()

    with ThreadPoolExecutor(len(study.folders)) as pool:
        futures = [pool.submit(work, folder) for folder in study.folders]
        try:
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C, SIGTERM
            interrupted.set()
            while not all(future.done() for future in futures):
                process_group.terminate_all()  # also those that began while the first ones ended
                wait(futures, timeout=0.2)
            raise


@contextmanager
def _taken(free: Queue[Sequence[str]]) -> Iterator[Sequence[str]]:
    slot = free.get()
    try:
        yield slot
    finally:
        free.put(slot)


def run(folder: Path, start: Start, console: Console, *, resumed: bool = False) -> str:
    """Begin or resume one job under its lock, unless it is finished -> why it failed; "" where it ended well.
    ``resumed``: by the same launch that began it, so that rerun=true does not begin again."""
    config = run_folder.read_config(folder)
    with locked(folder, console):
        rerun = config["rerun"] and not resumed
        if run_folder.is_finished(folder, config["key"]) and not rerun:
            console.print("  finished before: not run again (rerun=true does)")
            return ""
        if rerun or run_folder.needs_changed(folder):
            run_folder.clear(folder)
        (folder / run_folder.ERROR).unlink(missing_ok=True)
        run_folder.begin(folder, config)
        return start(folder, config)


@contextmanager
def locked(folder: Path, console: Console) -> Iterator[None]:
    """One process or process group a run or report: another launch waits for it."""
    lock = lock_of(folder)
    with atomic.writing(Path(lock.lock_file).parent):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print("  another process is at work there: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_of(folder: Path) -> FileLock:
    """The lock that whoever writes to the run or report ``folder`` holds."""
    return FileLock(folder.parent / ".locks" / folder.name)
