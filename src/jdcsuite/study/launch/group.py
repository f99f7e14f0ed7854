"""torchrun, which ends without a traceback when it is terminated or a rank fails: the rank's error.log says why."""

from __future__ import annotations

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from jdcsuite.study.launch.lifetime import PARENT

if __name__ == "__main__":
    os.environ[PARENT] = str(os.getpid())
    logging.disable(logging.WARNING)  # it announces every signal
    try:
        main()
    except SignalException as end:
        sys.exit(128 + end.sigval)
    except ChildFailedError:
        sys.exit(1)
