"""The device that trains or codes -> memory layout and float32 arithmetic: the one place that decides them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_lock, _coders, _before = threading.Lock(), 0, True


def layout(device: torch.device) -> torch.memory_format:
    """Of 4-D weights and batches in training: channels-last on CUDA, whose matrix units read bf16 so. Contiguous on a
    CPU, where torch 2.15's backward through channels-last convolutions corrupts the heap."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def laid_out_for_coding(x: Tensor) -> Tensor:
    """Channels-last on a CPU, where convolutions take a fifth to a third less time so. Their inputs alone decide:
    weights stay as they are, so a codec can be trained after it has coded."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


@contextmanager
def training_arithmetic(device: torch.device) -> Iterator[None]:
    """On CUDA, what autocast leaves in float32 is multiplied in TF32, and cuDNN picks the fastest convolution for each
    shape: crops have one. Elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = True, True, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@contextmanager
def coding_arithmetic() -> Iterator[None]:
    """Convolutions in full float32: PyTorch's default for cuDNN is TF32, which keeps 11 bits. The setting is the
    process's, so of several threads the first one in changes it and the last one out changes it back."""
    global _coders, _before
    with _lock:
        if _coders == 0:
            _before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _coders += 1
    try:
        yield
    finally:
        with _lock:
            _coders -= 1
            if _coders == 0:
                torch.backends.cudnn.allow_tf32 = _before
