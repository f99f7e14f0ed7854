"""`jdc VERB ...`: tools for image files, data and results. Verbs import what they need when they are called."""

from __future__ import annotations

import os
import sys

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
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="jdc", standalone_mode=False)
    except (UserError, UsageError) as error:
        message = str(error) if isinstance(error, UserError) else sentence(error)
        print(f"jdc: {message}", file=sys.stderr)
        status = 2
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:  # which typer makes of Ctrl-C
        print("jdc: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # without waiting for threads and processes; the latter end with this one
    raise SystemExit(status)
