"""Hydra overrides -> a job's configuration, what it changes in its experiment's own, and the configurations of its
dependencies (`needs`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from jdcsuite.types import UserError

SELF = "self"  # of needs.ROLE.experiment: the same method, as at another rung
MODEL = "model"  # of needs.ROLE.into: the whole model starts from that run
NOT_INHERITED = ("rerun",)  # by a dependency on the same method
RESERVED = ("experiment", "into", "+start")  # keys of a need; all others are values to set in its configuration


@dataclass(frozen=True)
class Changes:
    """How a configuration differs from that of its experiment. ``groups``: config group -> choice. ``values``: dotted
    key -> value, interpolations unresolved, compared with the experiment composed from the same choices; so a value
    that is typed but equals the experiment's own is no change. ``new``: keys of ``values`` that the experiment lacks.
    ``removed``: keys that only the experiment has.
    """

    groups: dict[str, str] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    new: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Composition:
    """A composed configuration and its changes. ``experiment``: its name. ``experiment_config``: the configuration
    without the changed values."""

    experiment: str
    config: DictConfig
    experiment_config: DictConfig
    changes: Changes


def compose(overrides: list[str], *, config_name: str = "config") -> Composition:
    """Composes a job from command-line overrides. UserError where no experiment is named, or its yaml file lacks the
    line that merges it into the root; Hydra's errors for overrides that do not fit."""
    config, choices = _composed(overrides, config_name)
    experiment = choices.get("experiment")
    if not isinstance(experiment, str):
        raise UserError("no experiment was named: give +experiment=fllic (or another name in conf/experiment)")
    for group in ("experiment", "start", "sweep"):
        if group in config and isinstance(config[group], DictConfig):
            raise UserError(
                f"conf/{group}/{choices.get(group)}.yaml was not merged into the root: make `# @package _global_` its "
                "first line"
            )
    _, own = _composed([f"+experiment={experiment}"], config_name)
    changed = {group: choice for group, choice in choices.items() if own.get(group) != choice}
    plain = _with_groups(experiment, changed, config_name)
    return Composition(experiment, config, plain, _changes(changed, config, plain))


def with_own_ladders(jobs: Sequence[list[str]], *, config_name: str = "config") -> list[list[str]]:
    """The overrides of a sweep's jobs, those with an lmbda of a ladder at the rungs of their own noise level and
    distortion: Hydra takes the values of a sweep from one configuration, whose ladder may be another."""
    made: dict[tuple[str, ...], None] = {}
    for words in jobs:
        others = [word for word in words if not word.startswith("lmbda=")]
        rungs = [None] if len(others) == len(words) else swept(others, config_name=config_name)["lmbda"].split(",")
        made |= dict.fromkeys((*others, *([] if rung is None else [f"lmbda={rung}"])) for rung in rungs)
    return [list(words) for words in made]


def swept(overrides: Sequence[str], *, config_name: str = "config") -> dict[str, str]:
    """What a sweep goes through without being told, as the ladder and the methods of +sweep=ablation: key -> values."""
    config = GlobalHydra.instance().hydra.compose_config(
        config_name, list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False
    )
    return {str(key): str(values) for key, values in (config.hydra.sweeper.params or {}).items()}


def without_start(composition: Composition, *, config_name: str = "config") -> Composition:
    """The same job without its `+start`, which only decides what its weights start from."""
    groups = {group: choice for group, choice in composition.changes.groups.items() if group != "start"}
    plain = _with_groups(composition.experiment, groups, config_name)
    config = plain.copy()
    for key, value in composition.changes.values.items():
        if _has(config, key) or not key.startswith("needs."):  # those of +start are gone
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return Composition(composition.experiment, config, plain, _changes(groups, config, plain))


def compose_need(parent: Composition, role: str, *, config_name: str = "config") -> Composition | None:
    """Composes the run that ``parent`` needs in a role; None where the role is not filled (its experiment is null).

    The need is its own experiment; group choices and values that the parent changed are copied to it where `pass_on`
    in config.yaml lists them and the need has the key. Then the need's other keys are set. A dependency on the same
    method inherits every change; one that starts the whole model inherits those of the model.
    """
    need = OmegaConf.to_container(parent.config.needs[role], resolve=True)
    if need["experiment"] is None:
        return None
    same_method = need["experiment"] == SELF
    experiment = parent.experiment if same_method else need["experiment"]
    passed = [*parent.config.pass_on, *([MODEL] if need["into"] == MODEL else [])]

    def inherited(key: str) -> bool:
        if same_method:
            return key not in NOT_INHERITED
        return any(key == name or key.startswith(f"{name}.") for name in passed)

    groups = {g: c for g, c in parent.changes.groups.items() if inherited(g) and g not in ("start", "sweep")}
    if need.get("+start"):
        groups["start"] = need["+start"]
    plain = _with_groups(experiment, groups, config_name)
    config = plain.copy()
    for key, value in parent.changes.values.items():
        if inherited(key) and (_has(config, key) or same_method):
            OmegaConf.update(config, key, value, merge=False, force_add=same_method)
    for key in filter(inherited, parent.changes.removed):
        _remove(config, key)
    for key, value in _leaves({k: v for k, v in need.items() if k not in RESERVED}):
        if not _has(config, key):
            raise UserError(f"needs.{role}.{key} is not a key of {experiment}: see its keys with --cfg job")
        OmegaConf.update(config, key, value, merge=False)
    return Composition(experiment, config, plain, _changes(groups, config, plain))


def resolved(config: DictConfig) -> dict:
    """A configuration as plain containers, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _composed(overrides: list[str], config_name: str) -> tuple[DictConfig, dict[str, str]]:
    """(configuration without Hydra's own section, config group -> choice); the jobs of a sweep share most of them."""
    config, choices = _composed_once(GlobalHydra.instance().hydra, tuple(overrides), config_name)
    return config.copy(), choices


@lru_cache(maxsize=32)
def _composed_once(hydra: object, overrides: tuple[str, ...], config_name: str) -> tuple[DictConfig, dict[str, str]]:
    """``hydra``: the initialised one, whose search path decides what is composed."""
    config = hydra_compose(config_name, list(overrides), return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, {str(group): choice for group, choice in choices.items() if not str(group).startswith("hydra/")}


def _with_groups(experiment: str, groups: Mapping[str, str], config_name: str) -> DictConfig:
    """An experiment's configuration with other choices of config groups."""
    own, choices = _composed([f"+experiment={experiment}"], config_name)
    if not groups:
        return own
    words = [f"{'' if group in choices else '+'}{group}={choice}" for group, choice in groups.items()]
    return _composed([f"+experiment={experiment}", *words], config_name)[0]


def _raw(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=False)


def _changes(groups: dict[str, str], config: DictConfig, plain: DictConfig) -> Changes:
    values, new = _differences(_raw(config), _raw(plain))
    _, removed = _differences(_raw(plain), _raw(config))
    return Changes(groups, values, frozenset(new), frozenset(removed))


def _differences(config: Mapping, other: Mapping, before: str = "") -> tuple[dict[str, object], list[str]]:
    """Dotted keys whose values differ from those of ``other``, and those of them that it lacks."""
    values: dict[str, object] = {}
    new: list[str] = []
    for name, value in config.items():
        key, theirs = f"{before}{name}", other.get(name)
        if isinstance(value, Mapping) and isinstance(theirs, Mapping):
            inner, inner_new = _differences(value, theirs, f"{key}.")
            values |= inner
            new += inner_new
        elif name not in other or value != theirs or isinstance(value, bool) != isinstance(theirs, bool):
            values[key] = value
            new += [] if name in other else [key]
    return values, new


def _leaves(values: Mapping, before: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as (dotted key, value); names that hold dots already are such keys."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _remove(config: DictConfig, key: str) -> None:
    section, _, name = key.rpartition(".")
    if _has(config, key):
        with open_dict(config):
            del OmegaConf.select(config, section)[name]


def _has(config: DictConfig, key: str) -> bool:
    node: object = config
    for name in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or name not in node:
            return False
        node = node._get_node(name)
    return True
