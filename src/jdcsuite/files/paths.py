"""Words of the command line -> what is to be done with which files: files, folders and globs, told apart once."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jdcsuite.types import UserError


@dataclass(frozen=True)
class Task:
    source: Path
    target: Path


def plan(inputs: list[str], out: str, *, ending: str, coded: bool) -> list[Task]:
    """Where every input goes. ``coded``: the inputs are `.jdc` files. ``ending``: of outputs that are named here.

    One file goes to the file ``out``, or into it where it is a folder or ends in a slash; several, and a folder's, go
    into the folder ``out`` under their own names, subfolders kept. UserError: nothing found, or two pictures
    for one name.
    """
    found: dict[Path, Path] = {}  # absolute source -> its name under a folder of outputs
    sources: dict[Path, Path] = {}
    for source, name in _files(inputs, coded):
        found.setdefault(source.absolute(), name)
        sources.setdefault(source.absolute(), source)
    single = len(found) == 1 and len(inputs) == 1 and Path(inputs[0]).is_file()
    folder = Path(out)
    if single and not folder.is_dir() and not out.endswith(os.sep):
        tasks = [Task(sources[path], folder) for path in found]
        if not folder.absolute().parent.is_dir():
            raise UserError(f"the folder of {out} does not exist: make it first")
    else:
        if folder.is_file():
            raise UserError(f"{out} is a file and there are {len(found)} inputs: give a folder as the output")
        tasks = [Task(sources[path], folder / name.with_suffix(ending)) for path, name in found.items()]
    taken: dict[Path, Path] = {}
    for task in tasks:
        if (other := taken.setdefault(task.target, task.source)) is not task.source:
            raise UserError(f"{other} and {task.source} would both be written to {task.target}: do them one by one")
    return tasks


def pictures(inputs: list[str]) -> list[Path]:
    """The pictures that files, folders and globs name, each once. UserError: nothing found."""
    return list({source.absolute(): source for source, _ in _files(inputs, coded=False)}.values())


def _files(words: list[str], coded: bool) -> Iterator[tuple[Path, Path]]:
    for word in words:
        yield from _expand(word, coded)


def _expand(word: str, coded: bool) -> list[tuple[Path, Path]]:
    """A word of the command line -> (file, its name under a folder of outputs)."""
    path = Path(word)
    if path.is_dir():
        if coded:
            files = sorted(p for p in path.rglob("*.jdc") if p.is_file() and not p.name.startswith("."))
            if not files:
                raise UserError(f"the folder {path} holds no .jdc file: name another one")
        else:
            from jdcsuite.imaging.folders import image_files

            files = image_files(path)
        return [(file, file.relative_to(path)) for file in files]
    if not path.exists() and glob.has_magic(word):
        matches = _matches(word)
        if not matches:
            raise UserError(f"nothing matches {word}: check the pattern")
        return [pair for match in matches for pair in _expand(match, coded)]
    if not path.exists():
        raise UserError(f"{path} does not exist: check the path")
    return [(path, Path(path.name))]


def divide(words: list[str], weights: list[str]) -> tuple[list[str], list[str]]:
    """Inputs and weights as they were meant: a shell that expands ``--weights runs/r*`` leaves all matches but the
    first among the inputs. UserError: no inputs."""
    runs = [w for w in words if w.endswith(".safetensors") or (Path(w) / "weights.safetensors").is_file()]
    inputs = [word for word in words if word not in runs]
    if not inputs:
        raise UserError(f"there is nothing to work on beside the weights {', '.join(runs)}: name files or folders")
    return inputs, [*weights, *runs]


def ladder(words: list[str]) -> tuple[Path, ...]:
    """Weights files, run folders, folders of runs and globs of these -> weights files, each once."""
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        matches = [path] if path.exists() else [Path(match) for match in _matches(word)]
        files = [file for match in matches for file in _weights(match)]
        if not files:
            raise UserError(f"there are no weights at {word}: give a finished run's folder or a .safetensors file")
        found |= dict.fromkeys(file.resolve() for file in files)
    return tuple(found)


def _weights(path: Path) -> list[Path]:
    """A weights file, a run's own, or those somewhere under a folder: of runs, or exported ones."""
    if path.is_file():
        return [path]
    own = path / "weights.safetensors"
    return [own] if own.is_file() else sorted(path.rglob("*.safetensors"))


def _matches(word: str) -> list[str]:
    return sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
