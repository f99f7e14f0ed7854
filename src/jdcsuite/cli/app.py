"""`jdc VERB ...`: tools for image files, data and results. Verbs import what they need when they are called."""

from __future__ import annotations

import io
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from jdcsuite.cli import data, files, judging, published, study
from jdcsuite.cli.options import UsageError, sentence
from jdcsuite.files import pool
from jdcsuite.types import UserError

# Examples at the end of each verb's --help.
EXAMPLES = {
    files.compress: ["noisy.png -o noisy.jdc", "scans -o coded --jobs 2", "noisy.png -o small.jdc --max-size 200k"],
    files.decompress: ["noisy.jdc -o clean.png", "coded -o images --format tif"],
    files.info: ["noisy.jdc", "--weights runs/demo/RUN --json"],
    files.noise: ["noisy.png", "scans"],
    files.predenoise: ["images -o data/nlm --weights nlm --sigma 10"],
    data.fetch: ["--list", "kodak24 --root data"],
    data.cache: ["", "--clear"],
    study.run: ["+experiment=fllic_w sigma=10 -m"],
    study.doctor: ["", "+experiment=fllic data.root=data data.train=div2k 'data.test=[kodak24]' budget=lab"],
    judging.evaluate: ["runs/demo/RUN jpegxl@2,3 avif@30,50 --data data/kodak24 --sigma 10 --out rows.csv"],
    judging.report: ["rows.csv runs/demo -o report", "rows.csv -o compared --against fllic"],
    study.dashboard: ["jdcsuite", "myteam/jdcsuite"],
    study.status: ["", "runs/demo --wait"],
    published.convert: ["restormer gaussian_color_denoising_blind.pth -o restormer.safetensors"],
    study.export: ["runs/demo/RUN -o mine.safetensors"],
    study.bench: ["", "train +experiment=flagship budget=lab"],
}
FREE_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress noisy images, fetch data, train, evaluate and compare codecs.",
    epilog="jdc VERB --help shows options and examples of a verb. Training is python -m jdcsuite.",
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"jdcsuite {metadata.version('jdcsuite')}")
        raise typer.Exit
    return wanted


ShowVersion = typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")


@app.callback()
def options(version: Annotated[bool, ShowVersion] = False) -> None:
    pass


for verb, examples in EXAMPLES.items():
    lines = [f"jdc {verb.__name__} {words}".rstrip() for words in examples]
    settings = FREE_WORDS if verb is study.run else {"ignore_unknown_options": True} if verb is study.doctor else None
    app.command(context_settings=settings, epilog="Examples:\n\n" + "\n\n".join(lines))(verb)
INTERRUPTED = 130  # exit status


def main() -> None:
    """Run the verb of the command line. Mistakes of the user are printed as one sentence, with exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    pool.quieten()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    # no shell expands ~ behind --option=
    words = [re.sub("^(--[^=]*=)?~(?=/|$)", lambda m: f"{m[1] or ''}{Path.home()}", word) for word in sys.argv[1:]]
    try:
        status = app(words or ["--help"], prog_name="jdc", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, UsageError) as error:
        message = str(error) if isinstance(error, UserError) else sentence(error)
        print(f"jdc: {message}", file=sys.stderr)
        status = 2
    except OSError as error:
        if error.filename is not None:
            reason = f"{error.filename} cannot be read or written ({error.strerror})"
            print(f"jdc: {reason}: check the path and its permissions", file=sys.stderr)
            raise SystemExit(2) from None
        # of stdout: a full disk, or a reader such as `head` that has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the rest goes at exit
        if not isinstance(error, BrokenPipeError):
            print(f"jdc: the output cannot be written ({error.strerror or error})", file=sys.stderr)
        status = 1
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:  # which typer makes of Ctrl-C
        print("jdc: interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # without waiting for threads and processes; the latter end with this one
    raise SystemExit(status)
