"""The configuration in a weights file -> its model, where every class that it names may be built.

A file from elsewhere cannot call anything but classes of jdcsuite's models, of its lossless coder, or of a module that
the user trusts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from jdcsuite.types import UserError

ROOMS = ("jdcsuite.models.", "jdcsuite.imaging.")
# classes that older files name -> where they are now
MOVED = {"jdcsuite.entropy.lossless.Lossless": "jdcsuite.imaging.lossless.Lossless"}
MAX_DEPTH = 16  # of nested values
TRUST = "JDCSUITE_TRUST"  # environment variable: modules with model classes, separated by commas
ENTRY_POINTS = "jdcsuite.models"  # installed packages declare such modules in this group


def trusted_modules() -> tuple[str, ...]:
    """Modules outside jdcsuite whose model classes a weights file may name: those in the environment variable
    JDCSUITE_TRUST, separated by commas, and those that installed packages declare as entry points of the group
    "jdcsuite.models"."""
    named = [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]
    return (*named, *(point.value.partition(":")[0] for point in entry_points(group=ENTRY_POINTS)))


def check_targets(node: object, path: Path) -> list[str]:
    """All targets of a configuration. UserError: one that a file may not name, or what would be resolved later."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not _is_allowed(str(target)):
            name = str(target)[:100]
            module = name.rpartition(".")[0]
            raise UserError(
                f"{path} names {name}, which is no model of jdcsuite: where you know and trust its code, set "
                f"{TRUST}={module}, else do not use this file"
            )
        if any(key.startswith("_") and key != "_target_" for key in node):
            raise UserError(f"{path} holds a configuration that jdcsuite never writes: do not use this file")
        inner = [name for value in node.values() for name in check_targets(value, path)]
        return inner if target is None else [target, *inner]
    if isinstance(node, list):
        return [name for value in node for name in check_targets(value, path)]
    if isinstance(node, str) and "${" in node:
        raise UserError(f"{path} holds an interpolation, which jdcsuite never writes: do not use this file")
    if isinstance(node, int) and abs(node) >= 2**63:  # PyTorch takes none
        raise UserError(f"{path} holds an integer of more than 64 bits, which no model has: do not use this file")
    return []


def is_own(target: str) -> bool:
    return target.startswith(ROOMS)


def _is_allowed(target: str) -> bool:
    """Whether a target is a class that is defined in an allowed module, not one that is imported there."""
    module, _, name = target.rpartition(".")
    trusted = trusted_modules()

    def is_known(module: str) -> bool:
        return module.startswith(ROOMS) or module in trusted

    target_class = _attribute(module, name) if is_known(module) else None
    return isinstance(target_class, type) and is_known(target_class.__module__)


def _attribute(module: str, name: str) -> object:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def build(config: dict, path: Path) -> nn.Module:
    """The model of a configuration that `check_targets` has passed."""
    try:
        model = _instance(config)
    except Exception as error:
        reason = " ".join(str(error)[:300].split()) if isinstance(error, UserError) else type(error).__name__
        raise UserError(f"{path} holds a configuration that builds no model ({reason})") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"{path} holds a configuration of a {type(model).__name__}, which is no model")
    return model


def _instance(node: object) -> object:
    if isinstance(node, list):
        return [_instance(value) for value in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _instance(value) for key, value in node.items()}
    if "_target_" not in arguments:
        return arguments
    module, _, name = arguments.pop("_target_").rpartition(".")
    return _attribute(module, name)(**arguments)


@contextmanager
def plain_torch() -> Iterator[None]:
    """What PyTorch builds is float32, on the CPU and can be changed, whatever the caller has set."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(mode=False), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(default)


class WithoutMemory(TorchFunctionMode):
    """Computes shapes only, also of tensors that constructors create in ways that ignore the device "meta"."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs or {}))
        return func(*args, **kwargs)


def with_moved(node: object, depth: int = 0) -> object:
    """Metadata with the present paths of classes that have moved since. ValueError: nested deeper than a run writes."""
    if depth > MAX_DEPTH:
        raise ValueError
    if isinstance(node, dict):
        named = {key: with_moved(value, depth + 1) for key, value in node.items()}
        return named | (
            {"_target_": MOVED.get(str(named["_target_"]), named["_target_"])} if "_target_" in named else {}
        )
    return [with_moved(value, depth + 1) for value in node] if isinstance(node, list) else node
