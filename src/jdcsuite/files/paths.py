"""Files, folders and glob patterns of the command line -> input and output file of each image; weights files."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from jdcsuite.coding.container import check_version
from jdcsuite.imaging.folders import SUFFIXES, scan
from jdcsuite.imaging.write import FORMATS
from jdcsuite.types import UserError


@dataclass(frozen=True)
class Item:
    """One file to process: where it is read from and where its result goes."""

    source: Path
    target: Path


def plan(inputs: list[str], out: str, *, suffix: str, coded: bool) -> list[Item]:
    """The output file of every input. ``coded``: inputs are `.jdc` files. ``suffix``: of outputs named here.

    A single file is written to the file ``out``, or into it where it is a folder or ends in a slash. Several files, and
    those of a folder, are written into the folder ``out`` under their own names, subfolders kept. UserError: an input
    does not exist, or two inputs have the same output.
    """
    names: dict[Path, Path] = {}  # absolute source -> its name relative to the output folder
    sources: dict[Path, Path] = {}
    for source, name in _expand_all(inputs, coded):
        names.setdefault(source.absolute(), name)
        sources.setdefault(source.absolute(), source)
    single = len(names) == 1 and len(inputs) == 1 and Path(inputs[0]).exists() and not Path(inputs[0]).is_dir()
    folder = Path(out)
    if single and not folder.is_dir() and not out.endswith(os.sep):
        items = [Item(source, folder) for source in sources.values()]
        if not folder.absolute().parent.is_dir():
            raise UserError(f"the folder of {out} does not exist: make it first")
    else:
        if folder.is_file():
            raise UserError(f"{out} is a file and there are {len(names)} inputs: give a folder as the output")
        if folder.suffix.lower() in (".jdc", *FORMATS) and not folder.is_dir() and not out.endswith(os.sep):
            raise UserError(
                f"{out} has the name of a file, and the files of a folder, or several, need a folder: give its name"
            )
        items = [Item(sources[path], folder / name.with_suffix(suffix)) for path, name in names.items()]
    taken: dict[Path, Path] = {}
    for item in items:
        if (other := taken.setdefault(item.target, item.source)) is not item.source:
            raise UserError(
                f"{other} and {item.source} would both be written to {item.target}: process them separately"
            )
    return items


def read_coded(path: Path) -> bytes:
    """The bytes of a `.jdc` file. CorruptFile: it begins as none does, seen before the rest is read, which may have no
    end. OSError: it cannot be read."""
    with path.open("rb") as file:
        head = file.read(4)
        check_version(head)
        return head + file.read()


def is_weights(path: Path) -> bool:
    """Whether a path names weights: a `.safetensors` file or a run folder."""
    return path.suffix == ".safetensors" or (path.is_dir() and (path / "weights.safetensors").is_file())


def describable(path: Path) -> list[Path]:
    """A file or run folder itself, or all `.jdc` files below another folder. UserError: there is none in it."""
    if is_weights(path) or not path.is_dir():
        return [path]
    if not (files := scan(path, suffixes=_suffixes(coded=True), required=False).images):
        raise UserError(f"the folder {path} holds neither weights nor a .jdc file: name another one")
    return files


def images(inputs: list[str]) -> list[Path]:
    """The image files that files, folders and patterns name, each once. UserError: an input does not exist."""
    return list({source.absolute(): source for source, _ in _expand_all(inputs, coded=False)}.values())


def _expand_all(words: list[str], coded: bool) -> list[tuple[Path, Path]]:
    return [pair for word in words for pair in _expand(word, coded)]


def _expand(word: str, coded: bool) -> list[tuple[Path, Path]]:
    """(file, its name relative to the output folder) of all files that a file, folder or pattern names."""
    path = Path(word)
    if path.is_dir():
        files = scan(path, suffixes=_suffixes(coded), required=not coded).images
        if not files:
            raise UserError(f"the folder {path} holds no .jdc file: name another one")
        return [(file, file.relative_to(path)) for file in files]
    if path.exists():
        return [(path, Path(path.name))]
    if not glob.has_magic(word):
        raise UserError(f"{path} does not exist: check the path")
    if not (matches := _matches(word)):
        raise UserError(f"nothing matches {word}: check the pattern")
    return _expand_all(matches, coded)


def left_out(words: list[str], *, coded: bool) -> list[str]:
    """One sentence for each folder that holds files which are not processed: how many, and why."""
    folders = [Path(match) for word in words for match in ([word] if Path(word).exists() else _matches(word))]
    scans = {folder: scan(folder, suffixes=_suffixes(coded), required=False) for folder in folders if folder.is_dir()}
    return [f"{folder}: {summary}" for folder, files in scans.items() if (summary := files.summary())]


def _suffixes(coded: bool) -> tuple[str, ...]:
    return (".jdc",) if coded else SUFFIXES


def split_off_weights(words: list[str], weights: list[str]) -> tuple[list[str], list[str]]:
    """Inputs and weights as they were meant: a shell that expands ``--weights runs/r*`` leaves all matches but the
    first among the inputs. UserError: no input is left."""
    runs = [word for word in words if is_weights(Path(word))]
    inputs = [word for word in words if word not in runs]
    if not inputs:
        raise UserError(f"only weights were given ({', '.join(runs)}): name the files or folders to process too")
    return inputs, [*weights, *runs]


def weights_files(words: list[str]) -> tuple[Path, ...]:
    """The weights files that files, run folders, folders of runs and patterns name, each once. UserError: none."""
    files: dict[Path, None] = {}
    for word in words:
        matches = [word] if Path(word).exists() else _matches(word)
        matched = [file for match in matches for file in _weights_in(Path(match))]
        if not matched:
            raise UserError(f"there are no weights at {word}: give a finished run's folder or a .safetensors file")
        files |= dict.fromkeys(file.resolve() for file in matched)
    return tuple(files)


def _weights_in(path: Path) -> list[Path]:
    """A weights file itself, that of a run folder, or all below another folder."""
    if path.is_file():
        return [path]
    own = path / "weights.safetensors"
    return [own] if own.is_file() else sorted(path.rglob("*.safetensors"))


def _matches(word: str) -> list[str]:
    return sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
