"""`python -m jdcsuite +experiment=NAME key=value ... [-m]` -> trained, tested and reported runs (Hydra's app)."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from jdcsuite.study import resolvers
from jdcsuite.types import UserError

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach `main`, which tells them in one sentence
# compressai and kornia warn on import of what their users cannot change
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
resolvers.register()
CONF = str(Path(__file__).resolve().parent / "conf")


# Hydra prints a line of its own for whatever leaves its app, so an error is carried past it.
_raised: list[Exception] = []


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def app(config: DictConfig) -> None:
    """One job without -m; a sweep goes to the launcher plugin."""
    try:
        _single(config)
    except Exception as error:
        _raised.append(error)


def _single(config: DictConfig) -> None:
    from jdcsuite.study import launcher

    hydra_config = HydraConfig.get()
    if config.launcher.kind != "local":
        raise UserError(f"launcher={config.launcher.kind} needs -m: without it the job would train on this machine")
    overrides = list(hydra_config.overrides.task)
    launcher.launch([overrides], config_name=hydra_config.job.config_name, sweep=False)


def sentence(error: BaseException) -> str:
    """What the user did wrong, in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = ", ".join(error.options or []) or "see conf/"
        return f"there is no {group or 'config'} {name!r}: choose one of {known}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: {' '.join(str(error).split())}"
    cause = error.__cause__ or error
    text = str(error).strip() or type(error).__name__
    if found := re.search(r"Could not (?:override|append to config|delete)[^']*'([^']+)'", text):
        return f"there is no key {found[1]!r} in the configuration: see the names with --cfg job"
    if found := re.search(r"Key '([^']+)' (?:is not in struct|not in)", f"{text} {cause}"):
        return f"there is no key {found[1]!r} in the configuration: see the names with --cfg job"
    return " ".join(text.splitlines()[0].split())


def main() -> None:
    from jdcsuite.study import launcher

    words = sys.argv[1:]
    # argparse refuses words after -m, wherever a person puts it
    flags = [word for word in words if word in ("-m", "--multirun")]
    sys.argv[1:] = flags[:1] + [word for word in words if word not in flags]
    _raised.clear()
    try:
        methods = [word for word in words if word.startswith("+experiment=") and "," in word]
        if methods and not any(word.startswith("+sweep=") for word in words):
            raise UserError(f"{methods[0]} names several methods, which share no ladder: add +sweep=ladder")
        app()
        if _raised:
            raise _raised[0]
    except (UserError, HydraException, ConfigCompositionException, OmegaConfBaseException) as error:
        if any(word in ("debug=true", "debug=True") for word in words):
            raise
        print(f"jdcsuite: {sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    raise SystemExit(launcher.exit_status())


if __name__ == "__main__":
    main()
