"""Tasks -> what becomes of each, in this process or in several: one that kills its process takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Task, Done = TypeVar("Task"), TypeVar("Done")
DIED = "its process died, most often for want of memory: give a smaller --tile"


def run(tasks: list[Task], work: Callable[[Task], Done], *, jobs: int, died: Callable[[Task], Done]) -> Iterator[Done]:
    """Every task, as each ends. ``jobs``: processes, each with its share of the cores; with several, ``work`` and tasks
    are pickled. ``died``: what becomes of a task whose process died (`DIED` says it)."""
    if jobs == 1 or len(tasks) == 1:
        yield from map(work, tasks)
        return
    left = deque(tasks)
    while left:
        lost: list[Task] = []
        yield from _pooled(left, lost, work, min(jobs, len(left)))
        for task in lost:  # each by itself: the one that kills its process must not take others with it
            again: list[Task] = []
            yield from _pooled(deque([task]), again, work, 1)
            if again:
                yield died(task)


def _pooled(left: deque[Task], lost: list[Task], work: Callable[[Task], Done], jobs: int) -> Iterator[Done]:
    """Takes tasks from ``left`` until none is left or a process died; then ``lost`` are those that were begun."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads of torch's may hang
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(max(1, _cores() // jobs),))
    waiting: dict[Future[Done], Task] = {}
    try:
        while waiting or (left and not lost):
            while left and not lost and len(waiting) < 2 * jobs:  # few ahead: a pool that breaks loses them
                try:
                    waiting[pool.submit(work, left[0])] = left[0]
                    left.popleft()
                except BrokenExecutor:
                    lost.append(left.popleft())
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                task = waiting.pop(future)
                try:
                    yield future.result()
                except BrokenExecutor:
                    lost.append(task)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quieten() -> None:
    """Libraries speak to programmers of what they will change; who compresses pictures can do nothing about it."""
    warnings.filterwarnings("ignore", category=FutureWarning)


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: pictures begun are ended, no more begun
    quieten()
    import torch

    torch.set_num_threads(threads)
