"""A composed configuration -> nothing, or a UserError with one sentence: values out of range, folders that would not be
read, and keys that have no effect."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from jdcsuite.checks import choice, noise_level, number, whole
from jdcsuite.study.composition import SELF, Composition, compose_need, resolved, without_start
from jdcsuite.types import UserError

LAUNCHERS = ("local", "slurm", "plan")
TARGETS = ("codec", "lossless", "distortion")
DATA_FOLDERS = ("data.train", "data.test", "data.clean")
# Sections that are read option by option; in the others a constructor refuses what it does not know.
CLOSED = ("trainer", "logger", "launcher", "rate_search")
# float16 is not among them: it needs scaled losses, which gradient clipping without synchronisation does not unscale
PRECISIONS = ("auto", "32-true", "64-true", "bf16-mixed", "bf16-true")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
MODES = ("auto", "online", "offline", "disabled")
# Keys of one type only -> that type.
KINDS = (
    dict.fromkeys(("name", "runs", "logger.project"), str)
    | dict.fromkeys(("rerun", "debug", "trainer.progress", "trainer.compile"), bool)
    | dict.fromkeys(("pass_on", "report.beside"), ListConfig)
    | dict.fromkeys(("needs", "report", "report.standards", "task.optimizer", "task.schedule"), DictConfig)
)
ADVICE = {str: "a word", bool: "true or false", ListConfig: "a list in brackets", DictConfig: "its keys one by one"}
# Root keys that need no effect on what is computed.
FREE = ("name", "runs", "rerun", "debug", "seed", "init_from", "rungs", "budget", "card", "target_bpp")


def check(composition: Composition, *, config_name: str = "config") -> None:
    """UserError where a job cannot be run as it is configured. Nothing is built or read."""
    config = composition.config
    if not config.get("method"):
        raise UserError(f"conf/experiment/{composition.experiment}.yaml sets no method: add `method: NAME`")
    _check_removed(composition)
    _check_spelling(composition)
    check_values(config)
    _check_unknown(composition)
    _check_effect(composition, config_name)
    _check_folders(composition)


def check_values(config: DictConfig) -> None:
    if config.sigma is not None:
        noise_level(config.sigma)
    if config.lmbda is not None:
        number("lmbda", config.lmbda, above=0)
    if config.target_bpp is not None:
        number("target_bpp", config.target_bpp, above=0)
        if config.lmbda is None:
            raise UserError(
                f"target_bpp={config.target_bpp} has no effect on {config.method}, which has no lmbda: leave it out (a "
                "network of any rate takes jdc compress --target-bpp)"
            )
    number("rate_search.tolerance", config.rate_search.tolerance, above=0, under=1)
    whole("rate_search.runs", config.rate_search.runs, least=1)
    whole("seed", config.seed, least=0, most=2**32 - 1)
    whole("rungs", config.rungs, least=1)
    choice("trainer.precision", config.trainer.precision, PRECISIONS)
    choice("trainer.accelerator", config.trainer.accelerator, ACCELERATORS)
    choice("logger.mode", config.logger.mode, MODES)
    for name, kind in KINDS.items():
        value = OmegaConf.select(config, name)
        if not isinstance(value, kind) and not (value is None and name.startswith("report.")):
            raise UserError(f"{name}={value} is not usable: give {ADVICE[kind]}")
    for name, qualities in (config.report.standards or {}).items():
        if not isinstance(qualities, ListConfig | None):
            raise UserError(f"report.standards.{name}={qualities} is not usable: give {ADVICE[ListConfig]}")
    for name in ("width", "lr"):
        number(name, config[name], above=0)
    choice("target", config.target, TARGETS)
    choice("launcher", config.launcher.kind, LAUNCHERS)
    if config.launcher.kind == "slurm" and "nodes" not in config.launcher:
        raise UserError("launcher.kind=slurm lacks the other keys of a cluster: write launcher=slurm")
    for name, value in config.launcher.items():
        if name in ("setup", "options") and not isinstance(value, ListConfig):
            raise UserError(f"launcher.{name}={value} is not usable: give {ADVICE[ListConfig]}")
        if name in ("nodes", "cpus", "minutes", "grace") or (name == "parallel" and value is not None):
            whole(f"launcher.{name}", value, least=1)
    for name in ("max_steps", "devices", "val_every", "checkpoint_every", "log_every"):
        whole(f"trainer.{name}", config.trainer[name], least=1)
    for name, path in {"data.root": config.data.root, "init_from": config.init_from}.items():
        if not isinstance(path, str | None):
            raise UserError(f"{name}={path} is no path: give one, a number as ./{path}")
    for role, need in config.needs.items():
        if not isinstance(need, DictConfig) or not {"experiment", "into"} <= need.keys():
            raise UserError(f"needs.{role} lacks `experiment` or `into`: give both, or a role of {config.method}'s own")
        section = str(need.into).partition(".")[0]
        holder = str(need.into).rpartition(".")[0] or section
        if section not in ("model", "criterion") or not isinstance(OmegaConf.select(config, holder), DictConfig):
            raise UserError(
                f"needs.{role}.into={need.into} is no part of the model or criterion: give one, as model.guide"
            )


def _check_unknown(composition: Composition) -> None:
    """Keys that were added with a + and that nothing reads."""
    for key in sorted(composition.changes.new):
        section, _, name = key.rpartition(".")
        if section and section.split(".")[0] not in CLOSED:
            continue
        names = OmegaConf.select(composition.experiment_config, section) if section else composition.experiment_config
        if key == "trainer.gradient_clip_val":
            raise UserError(f"{key} has no effect: set task.max_norm, the global norm at which gradients are clipped")
        raise UserError(f"{key} has no effect, no code reads it{nearest(name, list(names), before=section)}")


def nearest(name: str, names: list[str], *, before: str = "") -> str:
    """ "; did you mean ...?", or ""."""
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f": did you mean {before}{'.' if before else ''}{match[0]}?" if match else ""


def _check_removed(composition: Composition) -> None:
    """UserError for keys that were removed, but for options below a section's own, as of the optimizer."""
    for key in sorted(composition.changes.removed, key=len):
        if key.count(".") < 2:
            raise UserError(f"~{key} removes what jobs need: leave it out, or set {key} to another value")


def _check_spelling(composition: Composition) -> None:
    """UserError for a changed key that follows a root key in the experiment: the columns of the results and the names
    of curves have the root key's value."""
    plain = OmegaConf.to_container(composition.experiment_config, resolve=False)
    for key, value in composition.changes.values.items():
        own = plain
        for name in key.split("."):
            own = own.get(name) if isinstance(own, dict) else None
        root = own[2:-1] if isinstance(own, str) and own.startswith("${") and own.endswith("}") else ""
        if root in composition.config:
            raise UserError(f"{key}={value} is written as {root}={value}, which {key} follows: give that instead")


def _check_effect(composition: Composition, config_name: str) -> None:
    """UserError for a root key that was changed although no other value of this experiment refers to it, and no need
    has a use for it."""
    config = composition.config
    texts = list(_texts(without_start(composition, config_name=config_name), config_name))
    for key in composition.changes.values:
        if "." in key or key in FREE or OmegaConf.is_config(config.get(key)) or config.get(key) is None:
            continue
        if not any(f"${{{key}}}" in text for text in texts[: None if key in config.pass_on else 1]):
            raise UserError(f"{key}={config[key]} has no effect on {config.method}: leave it out")


def _texts(composition: Composition, config_name: str) -> Iterator[str]:
    """The unresolved configurations of a job and, after it, of what it needs."""
    yield OmegaConf.to_yaml(composition.config, resolve=False)
    for role, need in composition.config.needs.items():
        composed = None if need.experiment == SELF else compose_need(composition, role, config_name=config_name)
        if composed is not None:
            yield from _texts(composed, config_name)


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
