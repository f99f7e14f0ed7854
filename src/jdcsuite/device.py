"""Device -> memory layout and float32 arithmetic of training and coding, decided in this one place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_lock, _active, _saved = threading.Lock(), 0, True


def layout(device: torch.device) -> torch.memory_format:
    """Memory layout of 4-D weights and batches in training: channels-last on CUDA, because its tensor cores read bf16
    in that layout; contiguous on a CPU, where the backward pass of channels-last convolutions corrupts the heap (torch
    2.15)."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def laid_out_for_coding(x: Tensor) -> Tensor:
    """``x`` channels-last on a CPU, where that saves a fifth to a third of the time of convolutions. The layout of the
    input is enough: weights stay contiguous, so a codec can be trained after it has coded."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


@contextmanager
def training_arithmetic(device: torch.device) -> Iterator[None]:
    """On CUDA, uses TF32 for what autocast leaves in float32 and lets cuDNN benchmark its convolutions, as all crops
    have one shape. No effect on other devices."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    saved = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, True, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = saved


@contextmanager
def coding_arithmetic() -> Iterator[None]:
    """Convolutions in full float32; PyTorch's default for cuDNN is TF32, which keeps 11 bits. The setting is global to
    the process: the first of several threads to enter changes it, the last one to leave restores it."""
    global _active, _saved
    with _lock:
        if _active == 0:
            _saved = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                torch.backends.cudnn.allow_tf32 = _saved
