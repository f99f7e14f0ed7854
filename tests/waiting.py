"""Work that takes for ever, in a module that worker processes can import."""

import os
import time
from pathlib import Path


def work(item: Path) -> None:
    part = item.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(item.with_suffix(".pid"))
    time.sleep(1000)
