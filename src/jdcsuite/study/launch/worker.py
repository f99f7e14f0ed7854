"""One run folder -> a finished run, in this process or process group. `python -m jdcsuite.study.launch.worker FOLDER`
is what torchrun starts on every rank."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from jdcsuite.study.launch.lifetime import end_with_group

if __name__ == "__main__":  # before imports, which take seconds
    end_with_group()

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.imaging import atomic
from jdcsuite.training import job as training
from jdcsuite.types import UserError


def attempt(folder: Path) -> str:
    """Train and test a job; "" where that succeeds, else the error in one sentence, which error.log keeps with its
    traceback. ``debug`` in the configuration: the error is raised."""
    try:
        training.run(folder)
    except Exception as error:
        if not isinstance(error, UserError) and run_folder.read_config(folder)["debug"]:
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        log = folder / run_folder.ERROR
        sentence = first if isinstance(error, UserError) else f"{type(error).__name__}: {first} (traceback in {log})"
        try:
            atomic.write(log, "".join([f"{sentence}\n", *traceback.format_exception(error)]).encode())
        except UserError as unwritten:  # as on a full disk, which may be the first error's reason, too
            return first if isinstance(error, UserError) else f"{type(error).__name__}: {first} ({unwritten})"
        return sentence
    return ""


if __name__ == "__main__":
    try:
        sys.exit(1 if attempt(Path(sys.argv[1])) else 0)
    except KeyboardInterrupt:
        sys.exit(130)
