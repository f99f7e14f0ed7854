"""`python -m jdcsuite +experiment=NAME key=value ... [-m]` -> trained, tested and reported runs."""

# ruff: noqa: E402, because imports take seconds, in which Ctrl-C has to work, too

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import deque
from importlib.metadata import version
from pathlib import Path
from types import TracebackType


def _report_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's hook for what nothing catches; set before the imports below, which take seconds."""
    if issubclass(kind, KeyboardInterrupt):
        print("jdcsuite: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.excepthook = _report_interrupt

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from jdcsuite.study import mistakes, resolvers
from jdcsuite.study.launch import JobsFailed
from jdcsuite.types import UserError

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `main`, which reports them in one sentence
# compressai and kornia warn on import of what their users cannot change
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
resolvers.register()
CONF = str(Path(__file__).resolve().parent / "conf")
SWEEP = ("-m", "--multirun")
PLAN = "--plan"
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--info", "-i")  # fmt: skip

HELP = """\
python -m jdcsuite +experiment=NAME KEY=VALUE ... [-m]

Trains, tests and reports the runs that the keys describe; -m runs every combination of values that are separated by
commas. The same command goes on where an earlier one stopped.

  python -m jdcsuite +experiment=fllic_w sigma=10 -m               the rungs of a noise level, with what they need
  python -m jdcsuite +experiment=fllic sigma=10 lmbda=8192         one rung
  python -m jdcsuite +experiment=fllic data.root=FOLDER data.train=NAME 'data.test=[NAME]' budget=lab -m
  python -m jdcsuite +experiment=fllic,fllic_u +sweep=ladder -m    several methods over the same rungs
  python -m jdcsuite +experiment=fllic trainer.devices=2           two devices
  python -m jdcsuite +experiment=fllic --cfg job                   every key and its value
  jdc doctor +experiment=fllic data.root=FOLDER                    checks machine and job first

experiments: {experiments}
options: -h, --help; --version; -m, --multirun; --plan (show the jobs, start nothing); --cfg job; --config-dir FOLDER
(your own experiments); --hydra-help
"""


def run() -> None:
    """Hydra's application. One job without -m runs here; a sweep goes to the launcher plugin. JobsFailed where jobs
    failed."""
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=CONF, config_name="config")
    def app(config: DictConfig) -> None:
        try:
            _single(config)
        except Exception as error:
            errors.append(error)  # raised after Hydra has ended, which prints a line of its own for it

    app()
    if errors:
        raise errors[0]


def _single(config: DictConfig) -> None:
    from jdcsuite.study import sweep

    hydra_config = HydraConfig.get()
    if config.launcher.kind == "slurm":
        raise UserError(f"launcher={config.launcher.kind} needs -m: without it the job would train on this machine")
    failures = sweep.run([list(hydra_config.overrides.task)], config_name=hydra_config.job.config_name)
    if failures:
        raise JobsFailed(failures)


def _arguments(words: list[str]) -> list[str]:
    """The command line as Hydra's parser takes it: options before overrides, --plan as the launcher that it is, and no
    -m beside --cfg and --info, which show one job. UserError for several methods without a ladder."""
    methods = [word for word in words if word.startswith("+experiment=") and "," in word]
    if methods and not any(word.startswith("+sweep=") for word in words):
        raise UserError(f"{methods[0]} names several methods, which share no ladder: add +sweep=ladder")
    if PLAN in words:
        words = [word for word in words if word != PLAN and not word.startswith(("launcher=", "launcher."))]
        words.append("launcher=plan")
    options, overrides, left = [], [], deque(words)
    while left:
        word = left.popleft()
        if not word.startswith("-"):
            overrides.append(re.sub("=~(?=/|$)", lambda _: f"={Path.home()}", word, count=1))  # no shell does it there
            continue
        options.append(word)
        if word in VALUED and left:
            options.append(left.popleft())
    if any(word.partition("=")[0] in ("--cfg", "-c", "--info", "-i") for word in options):
        options = [word for word in options if word not in SWEEP]
    return [*options, *overrides]


def main() -> None:
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        names = sorted(path.stem for path in Path(CONF, "experiment").glob("*.yaml"))
        print(HELP.format(experiments=", ".join(names)), end="")
        return
    if "--version" in words:
        print(f"jdcsuite {version('jdcsuite')}")
        return
    try:
        sys.argv[1:] = _arguments(words)
        run()
    except JobsFailed:
        raise SystemExit(1) from None
    except (UserError, *mistakes.ERRORS) as error:
        if mistakes.is_unexpected(error) or any(word in ("debug=true", "debug=True") for word in words):
            raise
        print(f"jdcsuite: {mistakes.sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
