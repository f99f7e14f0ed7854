"""Forged files and weights: absurd numbers are refused in one sentence and take neither time nor memory."""

from __future__ import annotations

import fuzz_jdc
import numpy as np
import pytest
import torch
from torch import nn

from jdcsuite.coding.codec import Codec
from jdcsuite.types import CorruptFile, UserError


def picture(*, side: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


# -- numbers that are not finite -------------------------------------------------------------------------------


def synthesis(codec: Codec) -> list[nn.Module]:
    """The convolutions of the synthesis."""
    name = {"Flagship": "leave", "Testolina": "net.g_s"}.get(type(codec).__name__, "g_s")
    return [m for m in codec.get_submodule(name).modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize("name", fuzz_jdc.CODECS)
def test_absurd_samples_are_refused_not_black(name):
    codec = fuzz_jdc.narrow(name)
    with torch.no_grad():
        for layer in synthesis(codec)[-2:]:
            layer.weight.fill_(3e38)
            layer.bias.fill_(3e38)
    codec.update()
    data = codec.compress(picture())
    for decode in (codec.decompress, codec.decompress_array):
        with pytest.raises(CorruptFile, match="not finite"):
            decode(data)


@pytest.mark.parametrize(("name", "part"), [
    ("FLLIC", "h_a.0"), ("Testolina", "net.h_a.0"), ("Flagship", "noise_level.net.1"), ("Flagship", "h_a.0"),
    ("ManyPriors", "g_a.0"), ("Guided", "guide.head.0"),
])  # fmt: skip
def test_an_encoder_that_overflows_is_one_sentence(name, part):
    codec = fuzz_jdc.CODECS[name]().eval() if name != "Guided" else fuzz_jdc.guided()
    with torch.no_grad():
        codec.get_submodule(part).weight.fill_(3e38)
    codec.update()
    with pytest.raises(UserError, match="not finite"):
        codec.compress(picture())
