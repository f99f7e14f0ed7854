"""Work whose process dies: in a module of its own, because the process has to import it."""

import os

from torch import Tensor

from jdcsuite.files.batch import Done
from jdcsuite.files.paths import Task


def work(task: Task) -> Done:
    if "bad" in task.source.name:
        os._exit(9)
    return Done(task)


def denoise(x: Tensor) -> Tensor:
    """Of white pictures."""
    if x.mean() > 0.99:
        os._exit(9)
    return x
