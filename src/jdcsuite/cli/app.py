"""`jdc VERB ...`: tools for image files, data and results. Verbs import what they need when they are called."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import typer

from jdcsuite.cli import data, files, judging, published, study
from jdcsuite.cli.options import UsageError, sentence
from jdcsuite.files import pool
from jdcsuite.types import UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress noisy images, fetch data, train, evaluate and compare codecs.",
)
for verb in (files.compress, files.decompress, files.info, files.noise, files.predenoise):
    app.command()(verb)
app.command()(data.fetch)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(study.run)
for verb in (study.status, judging.evaluate, judging.report, study.export, published.convert, study.bench):
    app.command()(verb)
INTERRUPTED = 130  # exit status


def main() -> None:
    """Run the verb of the command line. Mistakes of the user are printed as one sentence, with exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    pool.quieten()
    # no shell expands ~ behind --option=
    words = [re.sub("^(--[^=]*=)?~(?=/|$)", lambda m: f"{m[1] or ''}{Path.home()}", word) for word in sys.argv[1:]]
    try:
        status = app(words or ["--help"], prog_name="jdc", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, UsageError) as error:
        message = str(error) if isinstance(error, UserError) else sentence(error)
        print(f"jdc: {message}", file=sys.stderr)
        status = 2
    except OSError as error:  # of stdout: a full disk, or a reader such as `head` that has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the rest goes at exit
        if not isinstance(error, BrokenPipeError):
            print(
                f"jdc: {error.filename or 'the output'} cannot be written ({error.strerror or error})", file=sys.stderr
            )
        status = 1
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:  # which typer makes of Ctrl-C
        print("jdc: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # without waiting for threads and processes; the latter end with this one
    raise SystemExit(status)
