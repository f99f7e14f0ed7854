"""`python -m jdcsuite +experiment=NAME key=value ... [-m]` -> trained, tested and reported runs."""

# ruff: noqa: E402, because imports take seconds, in which Ctrl-C has to work, too

from __future__ import annotations

import os
import re
import sys
import warnings
from collections import deque
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
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from jdcsuite.study import resolvers
from jdcsuite.study.launch import JobsFailed
from jdcsuite.types import UserError

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `main`, which reports them in one sentence
# compressai and kornia warn on import of what their users cannot change
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
resolvers.register()
CONF = str(Path(__file__).resolve().parent / "conf")
SWEEP = ("-m", "--multirun")
VALUED = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--info", "-i")  # fmt: skip
# How Hydra's ValueError for `data=null` begins.
NO_GROUP = "Config group override must be"
# Other frameworks' names of our keys.
ALIASES = {
    "lambda": "lmbda", "lambda_": "lmbda", "lmd": "lmbda", "noise": "sigma", "batch_size": "data.batch",
    "batch": "data.batch", "epochs": "trainer.max_steps",
    "steps": "trainer.max_steps", "max_steps": "trainer.max_steps",
    "devices": "trainer.devices", "gpus": "trainer.devices", "learning_rate": "lr", "dataset": "data.root",
    "workers": "data.workers", "num_workers": "data.workers", "crop": "data.crop", "patch_size": "data.crop",
}  # fmt: skip


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
    if config.launcher.kind != "local":
        raise UserError(f"launcher={config.launcher.kind} needs -m: without it the job would train on this machine")
    failures = sweep.run([list(hydra_config.overrides.task)], config_name=hydra_config.job.config_name)
    if failures:
        raise JobsFailed(failures)


def sentence(error: BaseException) -> str:
    """What is wrong with a command, in one line that says what to do."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = ", ".join(error.options or []) or "see conf/"
        return f"there is no {group or 'config'} {name!r}: choose one of {options}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {' '.join(str(error).split())}"
    cause = error.__cause__ or error
    text = str(error).strip() or type(error).__name__
    text = text.removeprefix("UserError raised while resolving interpolation: ")  # of our own resolvers
    if text.startswith(NO_GROUP):
        return "data, model, criterion, task, trainer, logger, launcher and budget take the name of a file in conf/"
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return f"{match[1]} gives several values: add -m to sweep over them, or write one list in brackets"
    if match := re.search(r"Could not override '(experiment|start|sweep)'", text):
        return f"{match[1]} is added, not replaced: write +{match[1]}=NAME"
    if match := re.search(r"Could not (?:override|append to config|delete)[^']*'([^']+)'", text):
        return _no_key(match[1])
    if match := re.search(r"Key '([^']+)' (?:is not in struct|not in)", f"{text} {cause}"):
        return _no_key(match[1])
    return " ".join(text.splitlines()[0].split())


def _no_key(key: str) -> str:
    advice = f"did you mean {ALIASES[key]}?" if key in ALIASES else "see the names with --cfg job"
    return f"there is no key {key!r} in the configuration: {advice}"


def _arguments(words: list[str]) -> list[str]:
    """The command line as Hydra's parser takes it: options before overrides, and no -m beside --cfg and --info, which
    show one job. UserError for several methods without a ladder."""
    methods = [word for word in words if word.startswith("+experiment=") and "," in word]
    if methods and not any(word.startswith("+sweep=") for word in words):
        raise UserError(f"{methods[0]} names several methods, which share no ladder: add +sweep=ladder")
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
    try:
        sys.argv[1:] = _arguments(words)
        run()
    except JobsFailed:
        raise SystemExit(1) from None
    except (UserError, HydraException, ConfigCompositionException, OmegaConfBaseException, ValueError) as error:
        unexpected = type(error) is ValueError and not str(error).startswith(NO_GROUP)
        if unexpected or any(word in ("debug=true", "debug=True") for word in words):
            raise
        print(f"jdcsuite: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
