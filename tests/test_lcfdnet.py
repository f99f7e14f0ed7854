"""LC-FDNet: published size and names, exact round trips, equal files under all conditions, damaged files, training."""

from __future__ import annotations

import contextlib
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import folder, jdc  # noqa: F401
from test_exact import HERE
from test_study import hydra_config
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite.artifacts import weights
from jdcsuite.coding.container import Tile, pack, unpack
from jdcsuite.entropy.exact import ExactConv2d
from jdcsuite.entropy.logits import tables
from jdcsuite.models import lcfdnet
from jdcsuite.models.frequency_net import HEAD_WINDOW, NormalizedConv2d
from jdcsuite.models.lcfdnet import LCFDNet, to_rgb, to_yuv
from jdcsuite.study import plan
from jdcsuite.training.criteria import RateDistortion
from jdcsuite.training.supervision import NoisyTarget
from jdcsuite.types import CorruptFile, Pair, UserError


def coder(seed: int = 0) -> LCFDNet:
    """With normalisations that differ from the identity, as after training."""
    torch.manual_seed(seed)
    net = LCFDNet(hidden=8)
    for layer in net.modules():
        if isinstance(layer, NormalizedConv2d):
            torch.nn.init.uniform_(layer.gamma, 0.5, 2)
            torch.nn.init.normal_(layer.beta)
            layer.mean.normal_()
            layer.var.uniform_(0.1, 2)
    net.eval().update()
    return net


CODER = coder()


def image(height: int, width: int, *, kind: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "extremes":
        return (255 * rng.integers(0, 2, (height, width, 3))).astype(np.uint8)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1, 2, 3])
    return (
        (ramp if kind == "smooth" else 0) + rng.integers(0, 8 if kind == "smooth" else 256, (height, width, 3))
    ).astype(np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def test_it_is_as_large_as_published() -> None:
    """23.8 M parameters; 5866 kMAC per pixel of convolutions on all pixels, which coding halves: a sample has one
    branch."""
    with torch.device("meta"):
        net = LCFDNet()
    assert sum(p.numel() for p in net.parameters()) == 23_766_732
    net = LCFDNet()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.train()(torch.rand(1, 3, 32, 32))
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2 / 32**2 == pytest.approx(
        5866e3, rel=1e-3
    )


def test_the_colour_transform_is_reversible() -> None:
    """On the 2**24 colours with every other red value, and on the highest."""
    levels = torch.arange(256)
    for red in (*range(0, 256, 2), 255):
        rgb = torch.stack(torch.broadcast_tensors(torch.tensor(red), levels[:, None], levels))
        yuv = to_yuv(rgb)
        assert torch.equal(to_rgb(yuv), rgb)
        for plane, (low, high) in zip(yuv, lcfdnet.RANGES, strict=True):
            assert low <= plane.min() and plane.max() <= high


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["flat", "extremes", "smooth", "noise"]), st.integers(0, 99)
)
def test_every_image_comes_back(height: int, width: int, kind: str, seed: int) -> None:
    pixels = image(height, width, kind=kind, seed=seed)
    assert np.array_equal(CODER.decompress_array(CODER.compress(pixels)), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (67, 130)])
def test_odd_sizes_come_back_also_in_tiles(size: tuple[int, int]) -> None:
    pixels = image(*size, kind="noise")
    for tile in (0, 64):
        assert np.array_equal(CODER.decompress_array(CODER.compress(pixels, tile=tile)), pixels)


def test_a_float_image_is_rounded_to_eight_bits() -> None:
    x = torch.rand(1, 3, 9, 8)
    assert torch.equal(CODER.decompress(CODER.compress(x)), (x * 255).round() / 255)


def test_the_windows_of_the_networks_do_not_change_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = image(50, 44, kind="smooth")
    whole = CODER.compress(pixels)
    assert CODER.exact and not unpack(whole).same_machine
    monkeypatch.setattr(lcfdnet, "WINDOW", 12)
    assert CODER.compress(pixels) == whole and np.array_equal(CODER.decompress_array(whole), pixels)


def test_files_are_equal_on_all_threads_and_devices() -> None:
    pixels, files = image(50, 44, kind="smooth"), []
    try:
        for condition in HERE:
            CODER.to(condition.device)
            with condition():
                files.append(CODER.compress(pixels))
        assert len(set(files)) == 1
        for condition in HERE:
            CODER.to(condition.device)
            with condition():
                assert np.array_equal(CODER.decompress_array(files[0]), pixels)
    finally:
        CODER.to("cpu")


def test_normalisation_is_folded_into_exact_weights() -> None:
    torch.manual_seed(0)
    layer = CODER.nets["y_d"].low.first
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(layer(x), layer(x.double()).float(), atol=0.02)
    before = layer(x.double())
    layer.var.mul_(2)
    try:
        assert not torch.equal(layer(x.double()), before), "the folded weights follow the statistics"
    finally:
        layer.var.div_(2)


def test_the_estimate_is_the_size_of_the_file() -> None:
    for kind in ("smooth", "noise"):
        pixels = image(64, 96, kind=kind)
        with torch.no_grad():
            estimate = sum(float(bits) for bits in CODER(tensor(pixels)).bpp(1).values()) / 8
        contents = unpack(CODER.compress(pixels))
        assert sum(map(len, contents.tiles[0].segments)) == pytest.approx(estimate, rel=0.02)


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(UserError, match="LC-FDNet codes 8 bits"):
        CODER.compress(np.zeros((4, 4, 3), np.uint16))


def test_damaged_tiles_are_refused() -> None:
    contents = unpack(CODER.compress(image(20, 24, kind="smooth")))
    (tile,) = contents.tiles
    a, dbc = tile.segments
    changed = bytes([*dbc[:20], dbc[20] ^ 1, *dbc[21:]])
    for segments in ([a, dbc[:-4]], [a, b""], [a, changed], [a[:-3], dbc], [b"", dbc], [a[4:], dbc], [dbc, a]):
        forged = pack(replace(contents, tiles=[Tile(checksum=tile.checksum, segments=segments)]))
        with pytest.raises(CorruptFile):
            CODER.decompress(forged)
    with pytest.raises(CorruptFile, match="depth"):
        CODER.decompress(pack(replace(contents, bit_depth=16)))
    other = coder(seed=1)
    with pytest.raises(CorruptFile, match="weights"):
        other.decompress(pack(contents))


def test_a_tile_too_short_for_its_samples_is_refused_before_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for every file: a network that is certain of a flat image writes few more bits."""
    contents = unpack(CODER.compress(image(64, 64, kind="flat")))
    (tile,) = contents.tiles
    samples = 3 * 32**2
    assert samples * lcfdnet.LEAST_BITS <= 8 * len(tile.segments[1])
    certain = torch.zeros(samples, 511, dtype=torch.float64)
    certain[:, 0] = 100
    cdf = tables(certain, torch.zeros(samples, dtype=torch.int64), count=511)
    assert 2**16 - 512 <= int(cdf[0, 1]) <= 2**16 - 510, "the bound is tight"
    seed = CODER._encode_seed(torch.zeros(3, 1024, 1024, dtype=torch.int64))
    forged = Tile(checksum=0, segments=[seed, tile.segments[1][:1000]])
    monkeypatch.setattr(LCFDNet, "_code", None)  # would fail
    with pytest.raises(CorruptFile, match="too short"):
        CODER.decompress(pack(replace(contents, height=2048, width=2048, tile=0, tiles=[forged])))


def test_the_memory_of_decoding_counts_rounded_weights_and_the_planes_of_a_tile() -> None:
    contents = unpack(CODER.compress(image(64, 64, kind="flat")))
    rounded = 8 * sum(p.numel() for p in CODER.parameters())
    small, large = (CODER.decoding_memory(replace(contents, height=side, width=side, tile=0)) for side in (256, 1024))
    assert small > rounded + 8 * 1021 * HEAD_WINDOW**2
    assert large - small > 8 * (512**2 - 128**2) * (2 * 8 + 12), "the features of two branches and all planes"


def test_damaged_streams_of_image_a_take_no_time() -> None:
    """JPEG-LS took seconds for some of these."""
    rng = np.random.default_rng(0)
    stream = CODER._encode_seed(torch.from_numpy(rng.integers(0, 40, (3, 12, 14))))
    start = time.process_time()
    for _ in range(300):
        damaged = bytearray(stream)
        for place in rng.integers(0, len(stream), 3):
            damaged[place] ^= 1 << rng.integers(8)
        with contextlib.suppress(CorruptFile):
            assert CODER._decode_seed(bytes(damaged[: rng.integers(len(stream))]), (12, 14)).shape == (3, 12, 14)
    assert time.process_time() - start < 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(2, 500), st.integers(0, 1000), st.floats(0, 100))
def test_tables_are_the_softmax_in_integers(rows: int, count: int, seed: int, spread: float) -> None:
    torch.manual_seed(seed)
    logits = spread * torch.randn(rows, count + 7, dtype=torch.float64)
    first = torch.randint(0, 8, (rows,))
    cdf = tables(logits, first, count=count)
    assert cdf.shape == (rows, count + 2) and (cdf[:, 0] == 0).all() and (cdf[:, -2:] == 2**16).all()
    steps = cdf[:, :-1].diff(dim=1)
    assert (steps >= 1).all()
    expected = logits.gather(1, first[:, None] + torch.arange(count)).softmax(1) * (2**16 - count) + 1
    assert (steps - expected).abs().max() < 1.5 + 2**16 * 0.003


def test_tables_of_known_logits_never_change() -> None:
    """They are part of the format: files of earlier versions decode with them."""
    logits = ((torch.arange(6 * 600) * 7919 % 4001 - 2000).double() / 256).view(6, 600)
    cdf = tables(logits, torch.tensor([0, 10, 80, 5, 88, 33]), count=511)
    assert zlib.crc32(cdf.numpy().astype("<i4").tobytes()) == 1293675599


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published files network_Y_ckpt.pth, network_U_ckpt.pth and network_V_ckpt.pth."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 2

    def convolution(name: str, outputs: int, inputs: int, norm: str | None = None) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, 3, 3), (outputs,)
        if norm:
            shapes.update({f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})
            shapes[f"{norm}.num_batches_tracked"] = ()

    for place in "dbc":
        for plane in "YUV":
            inputs += 1
            net = f"network_{plane}_{place}"
            for letter, extra in (("L", 0), ("H", 1)):
                convolution(f"{net}.enc_{letter}.0", 64, inputs + extra, f"{net}.enc_{letter}.1")
                for block in (3, 4, 5):
                    for i in (1, 2):
                        name = f"{net}.enc_{letter}.{block}"
                        convolution(f"{name}.conv{i}", 64, 64, f"{name}.bn{i}")
                convolution(f"{net}.pmf_enc_{letter}.0", 128, 64, f"{net}.pmf_enc_{letter}.1")
                convolution(f"{net}.pmf_enc_{letter}.3", 511 if plane == "Y" else 1021, 128)
                convolution(f"{net}.res_enc_{letter}", 1, 64)
            convolution(f"{net}.error_var_enc.0", 1, 64)
            for at, outputs in ((0, 64), (4, 64), (8, 1)):
                convolution(f"{net}.var_th_enc.{at}", outputs, 64, f"{net}.var_th_enc.{at + 1}")
    return shapes


def test_every_published_tensor_has_its_place_and_none_is_left_over() -> None:
    with torch.device("meta"):
        net = LCFDNet()
        theirs = {name: torch.empty(shape) for name, shape in published().items()}
    own = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    mapped = {name: tuple(tensor.shape) for name, tensor in LCFDNet.from_published(theirs).items()}
    counters = sum(name.endswith("num_batches_tracked") for name in theirs)
    assert len(mapped) == len(theirs) - counters and mapped == own


def test_every_parameter_learns_from_the_rate_and_the_auxiliary_loss() -> None:
    torch.manual_seed(0)
    net = LCFDNet(hidden=8).train()
    noisy = tensor(image(32, 32, kind="smooth"))
    criterion = RateDistortion(lmbda=1.0, supervision=NoisyTarget())
    pair = criterion.prepare(Pair(noisy=noisy, clean=torch.zeros_like(noisy), sigma=torch.zeros(1)))
    before = float(criterion(net(pair.noisy), pair)["loss"])
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        parts = criterion(net(pair.noisy), pair)
        assert float(parts["mse"]) < 1e-10
        assert float(parts["loss"]) == pytest.approx(float(parts["bpp"] + parts["auxiliary"]), rel=1e-5)
        parts["loss"].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.nets["v_c"].threshold[2].gamma.grad.abs().sum() > 0
    assert float(parts["loss"]) < 0.8 * before


def test_all_networks_between_bits_and_symbols_are_exact() -> None:
    layers = [m for m in CODER.modules() if next(m.parameters(recurse=False), None) is not None]
    assert layers and all(isinstance(layer, ExactConv2d) for layer in layers)


def test_it_has_no_rungs() -> None:
    for words in (["lmbda=8192"], ["lmbda=8192", "+sweep=ladder"]):
        with hydra_config(), pytest.raises(UserError, match="lmbda=8192 has no effect on lcfdnet_undertrained"):
            plan.draft(["+experiment=lcfdnet", *words])
    with hydra_config():
        small, paper = (plan.draft(["+experiment=lcfdnet", f"budget={name}"]).config for name in ("lab", "paper"))
    assert (small["method"], paper["method"]) == ("lcfdnet_undertrained", "lcfdnet")


def test_the_commands_take_it_alone_and_behind_a_denoiser(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    net, about = tmp_path / "net.safetensors", {"run": "l1", "method": "lcfdnet_undertrained", "budget": "demo"}
    weights.save(CODER, {"_target_": "jdcsuite.models.lcfdnet.LCFDNet", "hidden": 8}, net, about=about)
    pixels = image(21, 34, kind="smooth")
    Image.fromarray(pixels).save(tmp_path / "in.png")
    assert jdc("compress", tmp_path / "in.png", "-o", tmp_path / "in.jdc", "--weights", net)[0] == 0
    assert jdc("decompress", tmp_path / "in.jdc", "-o", tmp_path / "out.png", "--weights", net)[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels)
    status, printed, _ = jdc("info", tmp_path / "in.jdc")
    assert status == 0 and "34" in printed
    out = tmp_path / "rows.csv"
    status, printed, err = jdc(
        "evaluate", net, f"nlm@10+{net}", "nlm@10+png", "--data", folder, "--sigma", 10, "--out", out
    )
    assert status == 0, printed + err
    rows = pd.read_csv(out).set_index(["method", "image"])
    alone, behind, png = (
        rows.loc[name] for name in ("lcfdnet_undertrained", "nlm@10 + lcfdnet_undertrained", "nlm@10 + png")
    )
    assert np.allclose(alone["psnr"], alone["psnr_noisy"]) and (alone["budget"] == "demo").all()
    assert np.allclose(behind["psnr"], png["psnr"]), "two lossless codecs keep the same denoised image"
    assert np.allclose(alone["bpp"], alone["bpp_payload"] + alone["bpp_header"])
