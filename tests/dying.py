"""Work that kills its process, in a module that worker processes can import."""

import os

from jdcsuite.files.batch import Outcome
from jdcsuite.files.paths import Item


def work(item: Item) -> Outcome:
    if "bad" in item.source.name:
        os._exit(9)
    return Outcome(item)
