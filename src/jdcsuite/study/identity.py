"""A job's configuration, its data and the code outside the package -> key (what decides the result) and the name of
its curve (what the points of one rate-distortion curve share)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from jdcsuite.artifacts import weights
from jdcsuite.artifacts.folder import INCIDENTAL, SECTIONS, decisive
from jdcsuite.data.provenance import shortened
from jdcsuite.study.composition import Changes

# Not in a curve's name: what its points differ in, and what the rows have columns for.
SILENT_GROUPS = ("experiment", "sweep", "budget", "launcher", "logger")
SILENT = ("lmbda", "seed", "sigma", "name", "runs", "rerun", "debug", "launcher", "logger", "report", "init_from",
          "target_bpp", "rate_search", "data.root", "data.train", "data.test", "data.limit", "data.workers",
          "data.cache", "data.resident", *(f"trainer.{name}" for name in INCIDENTAL["trainer"]), "rungs")  # fmt: skip
INSTALLED = {"site-packages", "dist-packages"}  # folders of installed packages


def key(config: dict, *, data: str, needs: Mapping[str, str]) -> str:
    """Short SHA-256 of what decides a job's result: not of paths, devices, workers, launcher or logger.

    ``data``: identity of the images (`DataModule.identity`). ``needs``: role -> key of the run that fills it; that
    run's weights are compared when a finished run is looked up. The curve is part of it, so that one key never has two
    names where a configuration is written in two ways, as a group's choice or value by value."""
    parts = decisive(config)
    parts |= {"pictures": data, "needs": dict(needs), "foreign_code": foreign_code(config)}
    parts["init_from"] = weights.content_hash(config["init_from"]) if config["init_from"] else None
    return hashlib.sha256(json.dumps(_canonical(parts), sort_keys=True).encode()).hexdigest()[:8]


def curve(config: dict, changes: Changes) -> str:
    """The method, and each change of its experiment that has no column in the rows. ``config``: resolved."""
    silent = list(SILENT)
    if _has_patterns(config["data"]["train"]):
        silent.remove("data.train")  # the column train_set names folders, not parts of them
    groups = [f"+{g}={c}" if g == "start" else f"{g}={c}" for g, c in changes.groups.items() if g not in SILENT_GROUPS]
    values = [
        f"{name}={_word(value)}"
        for name, value in changes.values.items()
        if not any(name == key or name.startswith(f"{key}.") for key in silent)
    ]
    values += [f"~{name}" for name in changes.removed]
    starts = [f"init_from={start_name(config['init_from'])}"] if config["init_from"] else []
    teachers = {f"teacher={shortened(identity)}" for identity in (config.get("teachers") or {}).values()}
    return " ".join([config["method"], *sorted(groups + values + starts), *sorted(teachers)])


def start_name(run_or_file: str) -> str:
    """Weights that training starts from, named by their method, a hash of their curve and the samples that they have
    seen, so that rungs which start from one method's rungs share a curve; older weights by their file and its hash."""
    path = weights.path_of(run_or_file)
    about = weights.read_about(path)
    if about.get("curve") and about.get("samples"):
        digest = hashlib.sha256(str(about["curve"]).encode()).hexdigest()[:4]
        return f"{about.get('method')}-{digest}:{about['samples']}"
    name = path.parent.name if path.name == weights.NAME else path.stem
    return f"{name}@{weights.content_hash(path)[:8]}"


def foreign_code(config: Mapping) -> dict[str, str]:
    """Modules outside jdcsuite that the configuration names (``_target_``) -> version of their installed package, or
    SHA-256 of their source: of the file, or of all Python files of their package."""
    modules = {target.rpartition(".")[0] for section in SECTIONS for target in _targets(config.get(section))}
    return {name: _code_identity(name) for name in sorted(modules) if name.split(".")[0] != "jdcsuite"}


def _targets(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _code_identity(module: str) -> str:
    top = module.split(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return "not found"  # constructing it fails with a sentence of its own
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] or [Path(spec.origin or "")]
    if (distribution := _distributions().get(top)) and INSTALLED & set(files[0].parts):
        return version(distribution[0])  # not of editable installations, whose source may change
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Top-level module -> the installed distributions that it comes from; slow to look up."""
    return packages_distributions()


def _has_patterns(train: object) -> bool:
    folders = train if isinstance(train, list) else [train]
    return any(isinstance(one, Mapping) and {"only", "without"} & set(one) for one in folders)


def _word(value: object) -> str:
    """A value without spaces or quotes, for a curve's name; 1 and 1.0 are one value."""
    return json.dumps(_canonical(value), separators=(",", ":")).replace('"', "").replace(" ", "_")


def _canonical(node: object) -> object:
    """10.0 and 10 are one value."""
    if isinstance(node, Mapping):
        return {str(name): _canonical(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_canonical(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
