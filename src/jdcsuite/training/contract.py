"""A task -> nothing, or the sentence that says how its model or criterion breaks the contract of training.

Models and criteria may come from a user's ``--config-dir``. Checked before step 1, a wrong one costs seconds instead of
a training run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from jdcsuite.judging.metrics import judge
from jdcsuite.training.task import CodecTask, EstimatorTask, Task
from jdcsuite.types import Output, Pair, UserError

BATCH, SIDE = 2, 64  # pixels, unless the criterion needs larger crops


def check(task: Task, *, sigma: float | None = 10.0, lossless: bool = True, devices: int = 1) -> None:
    """Computes one loss with gradients on a random batch and, for a codec, codes one random image, all on the CPU.

    ``sigma``: noise level in grey levels, None where the data do not know it. ``lossless``: whether the data measure
    code lengths. ``devices``: that train; with several, every trained parameter needs a gradient. Works on a copy: the
    task and all random number generators stay as they were. UserError: a call fails, or returns something else than
    training, the test and the weights file need.
    """
    broken: UserError | None = None
    with isolate_rng():  # has no `finally` of its own
        try:
            _check(deepcopy(task).cpu().train(), sigma=sigma, lossless=lossless, devices=devices)
        except UserError as error:
            broken = error
    if broken:
        raise broken


def _check(task: Task, *, sigma: float | None, lossless: bool, devices: int) -> None:
    torch.manual_seed(0)
    model, criterion = f"model {_name(task.model)}", f"criterion {_name(task.criterion)}"
    pair = _example(max(SIDE, getattr(task.criterion, "smallest", 1)), sigma=sigma, lossless=lossless)
    with _calling(f"{criterion}: prepare(pair)"):
        prepared = task.criterion.prepare(pair)
        _require(isinstance(prepared, Pair), f"has to return a Pair, not a {_name(prepared)}")
    with _calling(f"{model}: forward(x, sigma=, bpp_noisy=)"):
        output = task.predict(prepared)
        _check_output(output, prepared, task)
    with _calling(f"{criterion}: forward(output, pair)"):
        task.observe(prepared)
        loss = _check_parts(task.criterion(output, prepared))
    with _calling(f"{criterion}: backward()"):
        loss.backward()
        gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
        _require(bool(gradients), "reaches no parameter of the model: its loss has to depend on the model's output")
        _require(all(g.isfinite().all() for g in gradients), "gives gradients that are not finite")
        unused = ", ".join(name for name, p in task.named_parameters() if p.requires_grad and p.grad is None)
        _require(
            devices == 1 or not unused,
            f"gives no gradient to {unused}, which trainer.devices={devices} needs: use it, or freeze it with "
            "requires_grad_(False)",
        )
    if isinstance(task, CodecTask):
        _check_coding(task, pair)


def _check_output(output: object, pair: Pair, task: Task) -> None:
    _require(isinstance(output, Output), f"has to return a jdcsuite.types.Output, not a {_name(output)}")
    if isinstance(task, EstimatorTask):
        _check_tensor("h_hat", output.h_hat, (len(pair),))
        return
    _check_tensor("x_hat", output.x_hat, tuple(pair.noisy.shape))
    if isinstance(task, CodecTask):
        _require(bool(output.likelihoods), "has to return likelihoods, the probability of each symbol by coded tensor")
        for name, p in output.likelihoods.items():
            _check_tensor(f"likelihoods[{name}]", p, (len(pair), *p.shape[1:]))
            _require(bool(((p > 0) & (p <= 1 + 1e-6)).all()), f"has to return likelihoods[{name}] above 0, up to 1")


def _check_parts(parts: object) -> Tensor:
    _require(isinstance(parts, dict) and "loss" in parts, "has to return a dict of tensors with a 'loss'")
    for name, value in parts.items():
        _check_tensor(name, value, ())
    _require(parts["loss"].requires_grad, "has to return a 'loss' with a gradient")
    return parts["loss"]


def _check_coding(task: CodecTask, pair: Pair) -> None:
    """Tests one image as after training. Its sides are odd, because images have any size."""
    codec, model, settings = task.model.eval(), f"model {_name(task.model)}", task.tested_at[0]
    crop = Pair(noisy=pair.noisy[:1, :, :-1, :-3], clean=pair.clean[:1, :, :-1, :-3], sigma=pair.sigma[:1])
    with _calling(f"{model}: update()"):
        codec.update()
    with _calling(f"{model}: compress(x, sigma=)"):
        data = codec.compress(crop.noisy, sigma=None, **settings)
        _require(isinstance(data, bytes), f"has to return bytes, not a {_name(data)}")
    with _calling(f"{model}: decompress(data)"):
        _check_tensor("x_hat", codec.decompress(data), tuple(crop.noisy.shape))
    with _calling(f"{model}: the test of an image"):
        judge(codec, crop, settings=settings)


def _example(side: int, *, sigma: float | None, lossless: bool) -> Pair:
    """Smooth random images with Gaussian noise."""
    clean = F.interpolate(torch.rand(BATCH, 3, 8, 8), size=(side, side), mode="bilinear")
    noisy = (clean + (10.0 if sigma is None else sigma) / 255 * torch.randn_like(clean)).clamp(0, 1)
    lengths = {"bpp_noisy": torch.full((BATCH,), 12.0), "bpp_clean": torch.full((BATCH,), 8.0)} if lossless else {}
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((BATCH,), math.nan if sigma is None else sigma), **lengths)


class _BrokenContractError(Exception):
    """What a call has to do and does not."""


@contextmanager
def _calling(call: str) -> Iterator[None]:
    """Whatever goes wrong inside as one sentence about ``call``."""
    try:
        yield
    except UserError:
        raise
    except _BrokenContractError as error:
        raise UserError(f"{call} {error}") from None
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(f"{call} fails ({type(error).__name__}: {text})") from error


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise _BrokenContractError(text)


def _check_tensor(name: str, value: object, shape: tuple[int, ...]) -> None:
    _require(torch.is_tensor(value), f"has to return a tensor as {name}, not a {_name(value)}")
    _require(tuple(value.shape) == shape, f"has to return {name} of shape {list(shape)}, not {list(value.shape)}")
    _require(bool(value.isfinite().all()), f"has to return finite values as {name}")


def _name(thing: object) -> str:
    kind = type(thing)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
