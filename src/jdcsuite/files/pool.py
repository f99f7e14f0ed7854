"""Items -> an outcome for each, computed in this process or in several; an item that kills its process fails alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Item, Outcome = TypeVar("Item"), TypeVar("Outcome")
DIED = "its process died, most likely out of memory: give a smaller --tile"


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
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quieten() -> None:
    """Hide warnings of libraries about their future versions, which users of the commands cannot act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)


def _initialise(threads: int) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # on Ctrl-C the parent lets items in progress finish and starts no more
    quieten()
    import torch

    torch.set_num_threads(threads)
