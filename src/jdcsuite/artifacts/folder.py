"""A run folder <-> what it says: the job's configuration, the state of the run and its results.

`runs/<study>/<method>-s<sigma>-l<lmbda>-<key>/` holds config.yaml (the whole job: configuration, key, curve and the
runs it needs), run.json (state and provenance), weights.safetensors, checkpoints/, metrics.csv, results.csv, pictures/.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

import yaml

from jdcsuite.artifacts import environment, weights
from jdcsuite.imaging import atomic
from jdcsuite.types import UserError

CONFIG, STATE, ROWS, ERROR = "config.yaml", "run.json", "results.csv", "error.log"
LAST, PREVIOUS = "checkpoints/last.ckpt", "checkpoints/previous.ckpt"
# What decides a result, beside the data's contents, the runs it starts from and code outside the package.
SECTIONS = (
    "method",
    "curve",
    "sigma",
    "seed",
    "model",
    "criterion",
    "task",
    "data",
    "trainer",
    "lossless_version",
    "teachers",
)
# Options that decide how a result is computed, or where its data lie.
INCIDENTAL = {
    "data": ("root", "train", "test", "val", "clean", "workers", "cache", "resident"),
    "trainer": ("devices", "accelerator", "log_every", "checkpoint_every", "val_every", "progress", "compile"),
}
# The state is last: by it, whoever clears a folder after a death knows that the rest belongs to other needs.
RESULTS = (LAST, PREVIOUS, ROWS, "metrics.csv", "summary.json", weights.NAME, ERROR, STATE)


def name(config: Mapping, key: str) -> str:
    """Name of a job's folder."""
    sigma, lmbda = (
        f"-{letter}{config[option]:g}" if config[option] is not None else ""
        for letter, option in (("s", "sigma"), ("l", "lmbda"))
    )
    return f"{config['method']}{sigma}{lmbda}-{key}"


def picture_stem(dataset: str, image: str) -> str:
    """What the files of a test image in pictures/ begin with; a dataset may be a nested folder, as "sets/kodak"."""
    return f"{dataset}_{Path(image).stem}".replace("/", "_")


def write_config(path: Path, config: Mapping) -> None:
    """Make a run folder that holds its job, or update that of the same key. UserError where the folder holds something
    else."""
    begun = (read_state(path) or {}).get("key")  # runs of before 2026-12 have it there alone
    try:
        key = yaml.safe_load((path / CONFIG).read_text()).get("key") or begun
    except (FileNotFoundError, NotADirectoryError):
        key = begun
        if not key and path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} exists and is no run of jdcsuite: move it or take another name=") from None
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        key = begun or "unreadable"
    if key not in (None, config["key"]):
        raise UserError(f"{path} belongs to another configuration ({key}, not {config['key']}): move it or take "
                        "another name=")  # fmt: skip
    with atomic.writing(path, cure="give runs= a folder that can be written"):
        path.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(config), sort_keys=False).encode()
    if not (path / CONFIG).is_file() or (path / CONFIG).read_bytes() != text:
        atomic.write(path / CONFIG, text)


def read_config(path: Path) -> dict:
    """The job of a run folder. UserError where it holds none."""
    try:
        config = yaml.safe_load((path / CONFIG).read_text())
    except OSError as error:
        raise UserError(f"{path / CONFIG} cannot be read ({error.strerror}): give a run folder") from None
    except (ValueError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict) or "key" not in config:
        raise UserError(f"{path / CONFIG} holds no job: run the command again that made {path}")
    return config


def decisive(config: Mapping) -> dict[str, object]:
    """The sections of a configuration that decide its result, without the options that do not."""
    parts = {name: config.get(name) for name in SECTIONS}
    for section, names in INCIDENTAL.items():
        parts[section] = {option: value for option, value in (parts[section] or {}).items() if option not in names}
    return parts


def needed(path: Path, config: Mapping) -> dict[str, Path]:
    """Role -> folder of the run that fills it."""
    return {role: path.parent / need["run"] for role, need in config["needs"].items()}


def begin(path: Path, config: Mapping) -> None:
    """Record that a run begins, or goes on: its key, the weights that it starts from, and its provenance. What a killed
    process left half-written is removed."""
    atomic.clean(path)
    earlier = read_state(path) or {}
    state = {
        "key": config["key"],
        "id": earlier.get("id") or secrets.token_hex(6),  # of this run in W&B: study and folder names are not unique
        "finished": False,
        "seconds": earlier.get("seconds", 0),  # wall time of all attempts
        "needs": {
            role: {"run": need["run"], "weights": weights.content_hash(path.parent / need["run"])}
            for role, need in config["needs"].items()
        },
        **environment.described(),
    }
    difference = path / "code.diff"
    if diff := environment.uncommitted_changes():
        atomic.write(difference, f"{diff}\n".encode())
    else:
        difference.unlink(missing_ok=True)
    write_state(path, state)


def read_state(path: Path) -> dict | None:
    """None where there is no state, or none that can be read."""
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and {"key", "finished", "needs"} <= state.keys() else None


def write_state(path: Path, state: Mapping) -> None:
    atomic.write(path / STATE, f"{json.dumps(state, indent=2)}\n".encode())


def add_time(path: Path, seconds: float) -> None:
    """Add the wall time of an attempt to ``seconds`` of the state; a killed attempt does not count."""
    if state := read_state(path):
        write_state(path, {**state, "seconds": round(state.get("seconds", 0) + seconds, 1)})


def finish(path: Path) -> None:
    (path / PREVIOUS).unlink(missing_ok=True)
    write_state(path, {**(read_state(path) or {}), "finished": True})


def is_finished(path: Path, key: str) -> bool:
    """Whether a run of this key ended, its results are there and its needs have the weights that it started from."""
    state = read_state(path)
    there = (path / weights.NAME).is_file() and (path / ROWS).is_file()
    return bool(state and there and state["finished"] and state["key"] == key and not needs_changed(path))


def needs_changed(path: Path) -> bool:
    """Whether a run has begun with other weights of its needs than they have now."""
    needs = (read_state(path) or {"needs": {}})["needs"].values()
    return any(weights.content_hash(path.parent / need["run"]) != need["weights"] for need in needs)


def clear(path: Path) -> None:
    """Remove the results of a run, so that it starts again."""
    for file in RESULTS:
        (path / file).unlink(missing_ok=True)
