"""Forged files and weights: absurd numbers are refused in one sentence and take neither time nor memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import fuzz_jdc
import numpy as np
import pytest
import torch
from coder_examples import written
from torch import nn

from jdcsuite.coding import transform
from jdcsuite.coding.codec import Codec
from jdcsuite.coding.container import Contents, Tile, pack, unpack
from jdcsuite.coding.tiling import boxes
from jdcsuite.entropy.coder import Decoder, Tables, channel_indexes
from jdcsuite.files import compression
from jdcsuite.models import drop_in, dual_prior
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.types import CorruptFile, Request, Side, UserError


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


# -- work that a few bytes ask for -----------------------------------------------------------------------------


def forged(codec: Codec, *, side: int, tile: int = 0, depth: int = 8) -> bytes:
    """A file whose first segments are valid and whose latents end at once."""
    random, window = np.random.default_rng(0), tile or side
    if isinstance(codec, ManyPriors):
        index = torch.zeros((window // 16) ** 2, dtype=torch.int32)
        above = torch.cat([torch.full((window // 16,), codec.prior_y.num_priors).int(), index[: -window // 16]])
        first = written((index, above, codec.tables["index"], None))
    else:
        size = (window // 64,) * 2
        rows = channel_indexes(len(codec.tables["z"].length), size)
        first = written((torch.zeros_like(rows), rows, codec.tables["z"], None))
    tiles = [Tile(checksum=0, segments=[first, random.bytes(7) + b"\1" + random.bytes(400)])]
    request = Request(quality=500, noise=0, strength=100) if codec.any_rate else None
    contents = Contents(
        model_id=codec.model_id, height=side, width=side, bit_depth=depth, colour=0, tile=tile,
        side=Side(request=request), tiles=tiles * len(boxes(side, side, tile)),
    )  # fmt: skip
    return pack(contents)


@pytest.mark.parametrize("name", fuzz_jdc.CODECS)
@pytest.mark.parametrize("side", [2048, 4096])
def test_a_large_tile_that_ends_at_once_is_refused_after_one_window(name, side, monkeypatch):
    codec = fuzz_jdc.narrow(name)
    data = forged(codec, side=side)
    networks, whole = [], (side // 16) ** 2
    for net in (codec.get_submodule(name) for name in codec.prior_networks):
        net.register_forward_pre_hook(lambda net, args: networks.append(args[0][0, 0].numel()))
    with pytest.raises(CorruptFile, match="too short"):
        codec.decompress_array(data)
    assert sum(networks) < whole / 2


def test_the_image_is_allocated_when_the_first_tile_has_passed():
    codec = fuzz_jdc.narrow("ManyPriors")
    data = forged(codec, side=8192, tile=1024, depth=16)
    tracemalloc.start()
    with pytest.raises(CorruptFile):
        codec.decompress_array(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20 < 8192**2 * 6


@pytest.mark.parametrize("name", fuzz_jdc.CODECS)
def test_windows_change_no_symbol_and_no_pixel(name, monkeypatch):
    codec = fuzz_jdc.narrow(name)
    image = picture(side=300)
    data = codec.compress(image, tile=0)
    expected = codec.decompress_array(data)
    for module in (transform, dual_prior, drop_in):
        monkeypatch.setattr(module, "LARGE", 64)
    assert codec.compress(image, tile=0) == data
    actual = codec.decompress_array(data)
    assert np.abs(actual.astype(int) - expected).max() <= 1 and (actual != expected).mean() < 0.01


def test_no_segment_is_shorter_than_its_symbols_take_at_least():
    """The bound is tight: a segment of most probable symbols just exceeds it."""
    flat = Tables.from_pmfs([torch.tensor([1.0]), torch.tensor([0.5, 0.5])], offsets=[0, 0])
    for rows in (torch.zeros(3_000_000).int(), torch.ones(9000).int(), torch.arange(90_000).int() % 2):
        segment = written((torch.zeros_like(rows), rows, flat, None))
        bits = flat.least_bits(rows)
        Decoder(segment).require(bits)
        with pytest.raises(CorruptFile, match="too short"):
            Decoder(segment[: max(8, 4 * ((len(segment) - 20) // 4))]).require(bits)


@pytest.mark.parametrize("name", fuzz_jdc.CODECS)
def test_max_memory_is_checked_before_decoding(name):
    codec = fuzz_jdc.narrow(name)
    data, small = forged(codec, side=4096), codec.compress(picture())
    with pytest.raises(UserError, match=r"4096 x 4096 pixels in tiles of its size takes about .* GiB to decode"):
        compression.decompress(data, codec, max_memory=100 * 2**20)
    decoded = compression.decompress(small, codec, max_memory=100 * 2**20)
    np.testing.assert_array_equal(decoded, codec.decompress_array(small))
    for side in (1024, 2048):  # tiles of equal size take more as they become more
        few, many = (replace(unpack(data), height=side, width=side * n, tile=side) for n in (1, 4))
        assert codec.decoding_memory(few) < codec.decoding_memory(many)
