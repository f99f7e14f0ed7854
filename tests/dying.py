"""Functions that kill their process, in a module that worker processes can import."""

import os

from torch import Tensor

from jdcsuite.files.batch import Outcome
from jdcsuite.files.paths import Item


def work(item: Item) -> Outcome:
    if "bad" in item.source.name:
        os._exit(9)
    return Outcome(item)


def denoise(x: Tensor) -> Tensor:
    """Dies at white images."""
    if x.mean() > 0.99:
        os._exit(9)
    return x
