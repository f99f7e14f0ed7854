"""A task whose process dies: in a module of its own, because the process has to import it."""

import os


def work(task: object) -> None:
    os._exit(9)
