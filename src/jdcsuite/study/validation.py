"""A composed configuration -> nothing, or a UserError with one sentence: values out of range, folders that would not be
read, and keys that have no effect."""

from __future__ import annotations

import difflib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from jdcsuite.checks import choice, is_number, number, whole
from jdcsuite.study.composition import Composition, resolved
from jdcsuite.types import UserError

LAUNCHERS = ("local",)
TARGETS = ("codec", "lossless", "distortion")
DATA_FOLDERS = ("data.train", "data.test", "data.clean")
# Sections that are read option by option; in the others a constructor refuses what it does not know.
CLOSED = ("trainer", "logger", "launcher")
# Root keys that need no effect on what is computed.
FREE = ("name", "runs", "rerun", "debug", "seed", "init_from", "rungs", "budget", "card")


def check(composition: Composition) -> None:
    """UserError where a job cannot be run as it is configured. Nothing is built or read."""
    config = composition.config
    if not config.get("method"):
        raise UserError(f"conf/experiment/{composition.experiment}.yaml sets no method: add `method: NAME`")
    check_values(config)
    _check_unknown(composition)
    _check_effect(composition)
    _check_folders(composition)


def check_values(config: DictConfig) -> None:
    if config.sigma is not None and not (is_number(config.sigma) and config.sigma >= 0):
        raise UserError(f"sigma={config.sigma} is not a noise level: give grey levels of 0 or more, as in sigma=10")
    if config.lmbda is not None:
        number("lmbda", config.lmbda, above=0)
    whole("seed", config.seed, least=0)
    for name in ("width", "lr"):
        number(name, config[name], above=0)
    choice("target", config.target, TARGETS)
    choice("launcher", config.launcher.kind, LAUNCHERS)
    for name in ("max_steps", "devices", "val_every", "checkpoint_every", "log_every"):
        whole(f"trainer.{name}", config.trainer[name], least=1)
    for name, path in {"data.root": config.data.root, "init_from": config.init_from}.items():
        if path is not None and not isinstance(path, str):
            raise UserError(f"{name}={path} is no path: give one, a number as ./{path}")


def _check_unknown(composition: Composition) -> None:
    """Keys that were added with a + and that nothing reads."""
    for key in sorted(composition.changes.new):
        section, _, name = key.rpartition(".")
        if section and section.split(".")[0] not in CLOSED:
            continue
        known = OmegaConf.select(composition.experiment_config, section) if section else composition.experiment_config
        if key == "trainer.gradient_clip_val":
            raise UserError(f"{key} has no effect: set task.max_norm, the global norm at which gradients are clipped")
        raise UserError(f"{key} has no effect, no code reads it{nearest(name, list(known), before=section)}")


def nearest(name: str, known: list[str], *, before: str = "") -> str:
    """ "; did you mean ...?", or ""."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {before}{'.' if before else ''}{match[0]}?" if match else ""


def _check_effect(composition: Composition) -> None:
    """UserError for a root key that was changed although no other value of this experiment refers to it, and no need
    takes it over."""
    config = composition.config
    unresolved = OmegaConf.to_yaml(config, resolve=False)
    inherited = config.pass_on if any(need.experiment for need in config.needs.values()) else []
    for key in composition.changes.values:
        if "." in key or key in FREE or key in inherited or OmegaConf.is_config(config.get(key)):
            continue
        if f"${{{key}}}" not in unresolved:
            raise UserError(f"{key}={config[key]} has no effect on {config.method}: leave it out")


def _check_folders(composition: Composition) -> None:
    """UserError where folders are named that no picture would be read from."""
    data = resolved(composition.config)["data"]
    for name in DATA_FOLDERS:
        if not composition.changes.values.get(name):
            continue
        if data["root"] is None:
            raise UserError(f"{name} names what lies in data.root: give data.root=FOLDER too")
        if "clean" in data and (Path(data["root"]).expanduser() / "noisy").is_dir():
            raise UserError(
                f"{data['root']} is one set of pairs itself (noisy/ and clean/): leave {name} out, or give the folder "
                "above it as data.root"
            )
