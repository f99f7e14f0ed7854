"""Items -> an outcome for each, computed in this process or in several; an item that kills its process fails alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import TypeVar

from jdcsuite.types import CorruptFile, UserError

Item, Outcome = TypeVar("Item"), TypeVar("Outcome")
DIED = "its process died, most likely out of memory"
FEWER, SMALLER = "give fewer --jobs", "give a smaller --tile, or fewer --jobs"  # what needs less memory


def reason(error: Exception, source: Path, *, advice: str) -> str:
    """What the user is told of an exception that ends the work on one file. ``advice``: what needs less memory."""
    if isinstance(error, (UserError, CorruptFile)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or source}: {error.strerror or error}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {advice}"
    if isinstance(error, RuntimeError):  # of torch, for want of memory among other reasons
        return f"it could not be processed ({str(error).partition(chr(10))[0]}); if for want of memory, {advice}"
    return f"unforeseen {type(error).__name__} ({error}): please report it"


def run(
    items: list[Item], work: Callable[[Item], Outcome], *, jobs: int, died: Callable[[Item], Outcome]
) -> Iterator[Outcome]:
    """Yield the outcome of every item, as each finishes. ``jobs``: number of processes, which share the CPU cores; with
    several, ``work`` and items are pickled. ``died``: outcome of an item whose process died (see `DIED`)."""
    if jobs == 1 or len(items) == 1:
        yield from map(work, items)
        return
    remaining = deque(items)
    while remaining:
        lost: list[Item] = []
        yield from _pooled(remaining, lost, work, min(jobs, len(remaining)))
        suspects = deque(lost)
        while suspects:  # again, one at a time: the item in progress is the one that kills its process
            killers: list[Item] = []
            yield from _pooled(suspects, killers, work, 1)
            yield from map(died, killers)


def _pooled(remaining: deque[Item], lost: list[Item], work: Callable[[Item], Outcome], jobs: int) -> Iterator[Outcome]:
    """Process items from ``remaining`` until none is left or a process dies; ``lost`` receives the items in progress at
    that time."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs torch threads may hang
    pool = ProcessPoolExecutor(jobs, context, initializer=_initialise, initargs=(max(1, _cores() // jobs),))
    pending: dict[Future[Outcome], Item] = {}
    try:
        while pending or (remaining and not lost):
            # few at a time, because a broken pool loses all that are submitted
            while remaining and not lost and len(pending) < (2 * jobs if jobs > 1 else 1):
                try:
                    with _without_interrupts():
                        pending[pool.submit(work, remaining[0])] = remaining[0]
                    remaining.popleft()
                except BrokenExecutor:
                    lost.append(remaining.popleft())
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                item = pending.pop(future)
                try:
                    yield future.result()
                except BrokenExecutor:
                    lost.append(item)
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:  # items in progress are finished where nobody takes further outcomes
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quieten() -> None:
    """Hide warnings of libraries about their future versions, which users of the commands cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Delay Ctrl-C to the end of the body. Processes that it starts never get it, from their first instruction on:
    the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, in whatever way, instead of working on for nobody."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _initialise(threads: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems without masks
    quieten()
    import torch

    torch.set_num_threads(threads)
