"""Hydra's errors about a command -> one sentence that says what to do."""

from __future__ import annotations

import re

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

ERRORS = (HydraException, ConfigCompositionException, OmegaConfBaseException, ValueError)
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


def is_unexpected(error: BaseException) -> bool:
    """Whether one of `ERRORS` is no mistake in a command."""
    return type(error) is ValueError and not str(error).startswith(NO_GROUP)


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
