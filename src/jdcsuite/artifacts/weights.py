"""Trained model <-> `weights.safetensors`: tensors, the model's configuration and its integer tables in one file.

Nothing is unpickled. The configuration is built into objects only where every ``_target_`` in it is a class of
jdcsuite's models, of its lossless coder, or of a module that the user trusts (`construction`), so a file from elsewhere
cannot call anything else. Its models are first built without memory, so that sizes that its tensors do not have are
refused before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.artifacts import construction
from jdcsuite.coding.codec import Codec
from jdcsuite.imaging import atomic
from jdcsuite.types import UserError

NAME = "weights.safetensors"  # in a run folder
FORMAT = "jdcsuite-1"
SHIPPED = Path(__file__).parents[1] / "flagship.safetensors"
TABLES = "tables."  # prefix of the names of integer tables
MAX_HEADER, MAX_DESCRIPTION = 1 << 24, 1 << 20  # bytes of a file's header, characters of its descriptions


def path_of(run_or_file: str | Path) -> Path:
    """A run folder or a weights file -> the weights file."""
    path = Path(run_or_file)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"there are no weights at {run_or_file}: give a finished run's folder or a .safetensors file")
    return path


def shipped() -> Path:
    """The weights that are part of the package: one network for any noise and any rate."""
    if not SHIPPED.is_file():
        raise UserError(
            "this jdcsuite came without weights: name some (--weights, in Python weights=), a finished run's folder or "
            "a .safetensors file"
        )
    return SHIPPED


def content_hash(run_or_file: str | Path) -> str | None:
    """SHA-256 of a weights file, or None where there is none. safetensors writes its header's entries in any order, so
    two files of the same weights differ in bytes; the header is hashed sorted."""
    path = Path(run_or_file)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        return None
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.dumps(json.loads(data[8:start]), sort_keys=True).encode()
    except (ValueError, RecursionError):
        header = data[:start]
    return hashlib.sha256(header + data[start:]).hexdigest()


def save(
    model: nn.Module, config: dict, path: Path, *, about: dict[str, object], dtype: torch.dtype = torch.float32
) -> None:
    """Write a weights file. ``config``: what builds the model, plain containers. ``about``: metadata for people, as
    run, method, licence and data. ``dtype``: of the parameters in the file; the model's own must be representable in it
    (`export`)."""
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    tensors |= {name: tensors[name].to(dtype) for name, _ in model.named_parameters()}
    if isinstance(model, Codec):
        tensors |= {name: t.cpu() for name, t in model.table_state().items()}
    metadata = {
        "format": FORMAT,
        "model": json.dumps(config),
        "about": json.dumps(about, default=str),
        "sha256": _digest(tensors),
    }
    with atomic.replacing(path) as part:
        save_file(tensors, part, metadata=metadata)
        part.chmod(0o666 & ~_umask())  # safetensors creates files that only their owner can read


def export(run_or_file: str | Path, out: Path, **stated: str | None) -> None:
    """Write a run's weights at half their size: parameters rounded to bfloat16, tables rebuilt from the rounded ones.

    They are different weights with a model id of their own, and do not open files of the original ones. ``stated``:
    metadata to add or replace, as licence and data."""
    source = path_of(run_or_file)
    if out.exists() and out.samefile(source):
        raise UserError(f"{out} is what is exported, and files that it wrote open with it alone: give another name")
    config, about, _ = read(source)
    model = load(source)
    round_to_bf16(model)
    if isinstance(model, Codec):
        model.update()
    out.parent.mkdir(parents=True, exist_ok=True)
    about |= {name: text for name, text in stated.items() if text is not None}
    save(model, config, out, about=about, dtype=torch.bfloat16)


@torch.no_grad()
def round_to_bf16(model: nn.Module) -> None:
    """Round all parameters in place to values of bfloat16; probability tables must be rebuilt afterwards."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read(path: Path) -> tuple[dict, dict, dict[str, Tensor]]:
    """(model configuration, about, tensors) of a weights file."""
    with _opened(path) as file:
        described = _described(file, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        digest = file.metadata().get("sha256", "")
    if digest not in ("", _digest(tensors)):
        raise UserError(f"{path} is damaged: its tensors do not have their checksum; take the file again")
    return *described, tensors


def read_about(path: Path) -> dict:
    """The metadata of a weights file, without reading its tensors."""
    with _opened(path) as file:
        return _described(file, path)[1]


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > MAX_HEADER:
                raise SafetensorError("its header is too long")
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"there are no weights at {path}: give a file that a run wrote") from None
    # an element type that PyTorch lacks raises other errors
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error)[:200].replace("\n", " ")
        raise UserError(f"{path} is not a readable weights file ({reason}): give one that a run wrote") from None


def _described(file: safe_open, path: Path) -> tuple[dict, dict]:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by jdcsuite: give the weights.safetensors of a run")
    try:
        texts = metadata["model"], metadata["about"]
        if max(map(len, texts)) > MAX_DESCRIPTION:
            raise ValueError
        described = tuple(construction.with_moved(json.loads(text)) for text in texts)
    except (KeyError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged: its description cannot be read; take the file again") from None
    if not all(isinstance(part, dict) for part in described):
        raise UserError(f"{path} is damaged: its description is no configuration; take the file again")
    return described


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(
            tensors[name].clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def load(run_or_file: str | Path, *, device: str | torch.device = "cpu") -> nn.Module:
    """The model of a run in evaluation mode, float32; its integer tables are those in the file, never rebuilt."""
    path = path_of(run_or_file)
    checks.device(device)
    with _opened(path) as file:
        config, _ = _described(file, path)
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    targets = construction.check_targets(config, path)
    with construction.plain_torch():
        if all(map(construction.is_own, targets)):  # others may need values in their constructors
            with torch.no_grad(), torch.device("meta"), construction.WithoutMemory():
                state = construction.build(config, path).state_dict()
            own = {name: tuple(tensor.shape) for name, tensor in state.items()}
            _check_shapes(own, {name: shape for name, shape in shapes.items() if not name.startswith(TABLES)}, path)
        model = construction.build(config, path)
        _fill(model, read(path)[2], path)
        return model.eval().to(device)


def load_into(model: nn.Module, run_or_file: str | Path, *, without: Iterable[str] = ()) -> None:
    """Start ``model`` from another run's weights. ``without``: submodules that keep their own weights, whether or not
    the file has them. UserError where the file's model is another one."""
    path = path_of(run_or_file)
    kept = tuple(f"{name}." for name in without)
    tensors = {name: tensor for name, tensor in read(path)[2].items() if not (kept and name.startswith(kept))}
    tensors |= {name: tensor for name, tensor in model.state_dict().items() if kept and name.startswith(kept)}
    with construction.plain_torch():
        _fill(model, tensors, path)


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    tables = {name: t for name, t in tensors.items() if name.startswith(TABLES)}
    own, state = model.state_dict(), {name: t for name, t in tensors.items() if name not in tables}
    # whether a tensor is of integers belongs to its shape
    shapes = ({name: (*t.shape, t.is_floating_point()) for name, t in which.items()} for which in (own, state))
    _check_shapes(*shapes, path)
    state = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}  # may turn 1e300 into infinity
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{path} holds numbers that are not finite ({broken[0]}): its training diverged, take others")
    model.load_state_dict(state)
    if tables and isinstance(model, Codec):
        try:
            model.load_table_state(tables)
        except (ValueError, KeyError) as error:
            raise UserError(f"{path} is damaged: {error}; take the file again") from None


def _check_shapes(own: dict[str, tuple], state: dict[str, tuple], path: Path) -> None:
    if differing := sorted(name for name in own.keys() | state.keys() if own.get(name) != state.get(name)):
        raise UserError(
            f"{path} holds the weights of another model ({len(differing)} of {len(own)} tensors differ, "
            f"{differing[0]} the first): give a run of the same method and width"
        )
