"""A job's configuration -> its run folder: name, key, provenance, rows, and whether it is finished.

`runs/<name>/<method>-s<sigma>-l<lmbda>-<key>/` holds config.yaml, run.json (key, needs, versions, hardware, state),
weights.safetensors, checkpoints/, metrics.csv, results.csv and pictures/.
"""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from jdcsuite.data import provenance
from jdcsuite.data.pairs import Source, several
from jdcsuite.data.provenance import Teacher
from jdcsuite.types import UserError

T = TypeVar("T")
WEIGHTS = "weights.safetensors"
PACKAGES = (
    "torch",
    "lightning",
    "hydra-core",
    "compressai",
    "torchmetrics",
    "kornia",
    "numpy",
    "imagecodecs",
)
# What says how a result was computed, not what it is: no part of the key.
INCIDENTAL = {
    "data": ("root", "workers", "cache", "resident"),
    "trainer": ("devices", "accelerator", "log_every", "checkpoint_every", "val_every", "progress", "compile"),
}
IDENTITY = ("method", "sigma", "seed", "model", "criterion", "task", "data", "trainer", "lossless_version")


def plain(config: DictConfig) -> dict:
    """A configuration as plain containers, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def key(config: dict, needs: dict[str, str]) -> str:
    """Short SHA-256 of what changes the result: not of paths, devices, workers, launcher or logger.

    ``needs``: role -> key of the run that fills it. A need's own weights are compared when a finished run is
    found (`stale`), so the folder of every job is known before the first one starts.
    """
    said = {name: config[name] for name in IDENTITY}
    for section, names in INCIDENTAL.items():
        said[section] = {k: v for k, v in said[section].items() if k not in names}
    root = config["data"]["root"]
    said["data"]["root"] = root and Path(root).name
    # where a part comes from is a path; which part it is, is its key
    said["needs"] = needs
    if config.get("teachers"):
        said["teachers"] = config["teachers"]
    said["init_from"] = weights_hash(Path(config["init_from"])) if config["init_from"] else None
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def teachers(data: dict) -> dict[str, Teacher]:
    """Training folders of a data configuration that `jdc predenoise` made -> who taught there. A folder's name does not
    say it, so a run's key and curve do, by the teacher's id."""
    folders = [Source.read(one).folder for one in several("data.train", data["train"])]
    made = {name: provenance.read(Path(data["root"]).expanduser() / name) for name in folders if data["root"]}
    return {name: found.teacher for name, found in made.items() if found}


def whole_first(needs: dict[str, T], said: Mapping[str, Mapping]) -> list[tuple[str, T]]:
    """The needs in the order in which they fill a model: the whole before its parts, which have their own weights.
    ``said``: a configuration's `needs`, each with the place that it goes ``into``."""
    return sorted(needs.items(), key=lambda need: said[need[0]]["into"].count("."))


def folder(config: dict, key: str) -> Path:
    lmbda = f"-l{config['lmbda']:g}" if config["lmbda"] is not None else ""
    sigma = f"-s{config['sigma']:g}" if config["sigma"] is not None else ""
    return Path(config["runs"]) / config["name"] / f"{config['method']}{sigma}{lmbda}-{key}"


def curve(config: dict, overrides: list[str]) -> str:
    """What the points of one curve share: the method and every override but lmbda and seed, and but those that a
    row states in a column of its own."""
    silent = {"+experiment", "+sweep", "lmbda", "seed", "sigma", "name", "runs", "rerun", "debug", "launcher", "logger"}
    silent |= {f"{section}.{name}" for section, names in INCIDENTAL.items() for name in names}
    silent |= {"data.test", "data.limit"}  # columns of their own
    if not any(
        {"only", "without"} & set(one)
        for one in several("data.train", config["data"]["train"])
        if isinstance(one, dict)
    ):
        silent.add("data.train")  # the column train_set tells all of it but patterns
    kept = sorted(
        _by_content(o) for o in overrides if o.split("=")[0] not in silent and not o.startswith(("report.", "logger."))
    )
    taught = sorted({f"teacher={provenance.shortened(id)}" for id in (config.get("teachers") or {}).values()})
    return " ".join([config["method"], *kept, *taught])


def _by_content(override: str) -> str:
    """``init_from=PATH`` -> what lies there, not where; other words as they are."""
    name, _, said = override.partition("=")
    start = Path(said.strip("'\""))
    hashed = weights_hash(start) if name == "init_from" else None
    if hashed is None:
        return override
    called = start.parent.name if start.name == WEIGHTS else start.name if start.is_dir() else start.stem
    return f"init_from={called}@{hashed[:8]}"


def weights_hash(run_or_file: Path) -> str | None:
    """SHA-256 of a run's weights file, or None where there is none. The words of a safetensors header come in any
    order, so two writings of the same weights differ in bytes: the header is hashed sorted."""
    path = run_or_file / WEIGHTS if run_or_file.is_dir() else run_or_file
    if not path.is_file():
        return None
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.dumps(json.loads(data[8:start]), sort_keys=True).encode()
    except ValueError:
        header = data[:start]
    return hashlib.sha256(header + data[start:]).hexdigest()


def code_version() -> str:
    """Package version, with the git commit where the package is a clone's (``+`` marks uncommitted changes)."""
    try:
        own = version("jdcsuite")
    except PackageNotFoundError:
        own = "unknown"
    commit = _git("rev-parse", "--short=10", "HEAD")
    return f"{own} {commit}{'+' if _git('status', '--porcelain', '--untracked-files=no') else ''}" if commit else own


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        asked = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # a wheel unpacked below somebody else's repository is not that repository's code
    tracked = subprocess.run(
        ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 and tracked.returncode == 0 else ""


def hardware() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} CPU threads"


def installed(name: str) -> str:
    """Version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def open_folder(path: Path, config: dict, key: str, needs: dict[str, Path]) -> None:
    """Makes or reopens a run folder. UserError when it belongs to another configuration."""
    state = read_state(path)
    if state is not None and state["key"] != key:
        raise UserError(
            f"{path} belongs to another configuration ({state['key']}, not {key}): move it or take another name="
        )
    if state is None and path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} exists and is no run of jdcsuite: move it or take another name=")
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    diff = _git("diff", "HEAD")
    if diff:
        (path / "code.diff").write_text(diff + "\n")
    write_state(
        path,
        {
            "key": key,
            "finished": False,
            "needs": {role: {"run": str(run), "weights": weights_hash(run)} for role, run in needs.items()},
            "code_version": code_version(),
            "python": platform.python_version(),
            "packages": {name: installed(name) for name in PACKAGES},
            "hardware": hardware(),
        },
    )


def read_state(path: Path) -> dict | None:
    try:
        return json.loads((path / "run.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_state(path: Path, state: dict) -> None:
    part = path / "run.json.part"
    part.write_text(json.dumps(state, indent=2) + "\n")
    part.replace(path / "run.json")


def finished(path: Path, key: str) -> bool:
    """Whether a run of this key is done, with the weights of its needs as they are now."""
    state = read_state(path)
    if state is None or not state["finished"] or state["key"] != key:
        return False
    return all(weights_hash(Path(need["run"])) == need["weights"] for need in state["needs"].values())


def clear(path: Path) -> None:
    """Forgets the results of a run, so that it starts again: for rerun=true, and for needs that have changed."""
    results = ("results.csv", "metrics.csv", "summary.json", "weights.safetensors", "error.log")
    for file in (*results, "checkpoints/last.ckpt"):
        (path / file).unlink(missing_ok=True)


def finish(path: Path) -> None:
    write_state(path, {**read_state(path), "finished": True})


def write_rows(rows: list[dict[str, object]], path: Path) -> None:
    """One csv file, whole or not at all."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({k: ("" if v is None else v) for k, v in row.items()} for row in rows)
    part.replace(path)
