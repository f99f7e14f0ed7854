"""Weights that a paper's authors published -> a weights file of ours.

Nothing is unpickled: PyTorch reads the files with ``weights_only=True``, which refuses everything but tensors and plain
containers. jdcsuite contains none of these weights; their authors' terms of use apply to what is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jdcsuite import checks
from jdcsuite.artifacts import weights
from jdcsuite.models.lcfdnet import LCFDNet
from jdcsuite.models.restormer import Restormer
from jdcsuite.types import UserError


class _Published(NamedTuple):
    model: Callable[[], nn.Module]
    target: str
    count: int  # files that belong together
    files: str


METHODS = {
    "restormer": _Published(
        Restormer, "jdcsuite.models.restormer.Restormer", 1, "the .pth file of Gaussian colour or of real denoising"
    ),
    "lcfdnet": _Published(
        LCFDNet, "jdcsuite.models.lcfdnet.LCFDNet", 3, "network_Y_ckpt.pth, network_U_ckpt.pth and network_V_ckpt.pth"
    ),
}


def convert(method: str, files: list[Path], out: Path) -> None:
    """Write the weights of ``method``, one of ``METHODS``, in ``files`` to ``out``. UserError: other files, or tensors
    that do not fit the method one to one."""
    known = METHODS[checks.choice("method", method, METHODS)]
    if len(files) != known.count:
        raise UserError(f"{method} needs {known.count} files, not {len(files)}: give {known.files}")
    published: dict[str, Tensor] = {}
    for file in files:
        published |= _tensors(_read(file))
    model = known.model()
    try:
        state = model.from_published(published)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError):
        raise UserError(f"{files[0]} holds other tensors than {method}'s: give {known.files}") from None
    if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise UserError(f"{files[0]} holds numbers that are not finite ({broken[0]}): take the file again")
    about = {"run": f"{method}-{files[0].stem}", "method": method, "curve": method, "budget": "published"}
    weights.save(model.eval(), {"_target_": known.target}, out, about=about)


def _read(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # of pickle, zip and torch
        raise UserError(
            f"{file} holds no plain PyTorch weights ({type(error).__name__}): take the file again"
        ) from None


def _tensors(node: object, before: str = "") -> dict[str, Tensor]:
    """The tensors in nested dictionaries by their dotted names, without the level "params" of BasicSR's files."""
    if not isinstance(node, dict):
        return {before.removesuffix("."): node} if torch.is_tensor(node) else {}
    inner = [_tensors(value, f"{before}{name}." if name != "params" else before) for name, value in node.items()]
    return {name: tensor for tensors in inner for name, tensor in tensors.items()}
