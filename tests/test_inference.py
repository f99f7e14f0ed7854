"""Coding on a CPU uses other layouts, strips and in-place sums, with the same results; training is unaffected."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jdcsuite.coding import transform
from jdcsuite.coding.container import unpack
from jdcsuite.coding.tiling import Box
from jdcsuite.coding.transform import TransformCodec
from jdcsuite.models import layers
from jdcsuite.models.conditioned import Block
from jdcsuite.models.flagship import Flagship
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.layers import DepthConv, ResidualDown, ResidualUp
from jdcsuite.models.manypriors import ManyPriors

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "depth": lambda: DepthConv(12, 12),
    "depth, wider": lambda: DepthConv(12, 20),
    "depth, prior": lambda: DepthConv(12, 12, prior=True),
    "down": lambda: ResidualDown(12, 8),
    "up": lambda: ResidualUp(12, 8),
    "flagship": lambda: Scaled(12),
}


class Scaled(nn.Module):
    """The block of the flagship, with conditions that scale every channel differently."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Block(channels, 4)
        nn.init.normal_(self.block.scale.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, torch.arange(4.0).repeat(len(x), 1))


def block(name: str) -> nn.Module:
    torch.manual_seed(1)
    return BLOCKS[name]()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strip", [1, 300, 2**21])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_gives_the_same_output_without_gradients_and_keeps_its_input(name, strip, layout, monkeypatch):
    monkeypatch.setattr(layers, "STRIP", strip)
    net, x = block(name), torch.randn(2, 12, 10, 14)
    expected = net(x).detach()
    input_copy = x.contiguous(memory_format=layout)
    with torch.no_grad():
        actual = net(input_copy)
        wide = net(input_copy.double()) if "prior" in name else None
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(input_copy, x)
    if wide is not None:  # exact in any layout
        assert torch.equal(wide, net(x.double()))


@pytest.mark.parametrize("mkldnn", [True, False])
def test_strips_do_not_depend_on_the_layout_that_a_convolution_returns(mkldnn):
    net, x = block("depth"), torch.randn(2, 12, 10, 14).contiguous(memory_format=torch.channels_last)
    expected = net(x.contiguous()).detach()
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=mkldnn):
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


def test_strips_are_used_only_in_channels_last_inference(monkeypatch):
    calls, plain = [], DepthConv._in_strips
    monkeypatch.setattr(DepthConv, "_in_strips", lambda self, x: calls.append(1) or plain(self, x))
    net, x = block("depth"), torch.randn(1, 12, 10, 14)
    net(x)
    with torch.no_grad():
        net(x)
        assert not calls
        net(x.contiguous(memory_format=torch.channels_last))
    assert calls


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_equal_those_of_out_of_place_activations(name):
    net, x = block(name), torch.randn(2, 12, 10, 14)
    net(x).square().mean().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    changed = [m for m in net.modules() if getattr(m, "inplace", False)]
    for module in changed:
        module.inplace = False
    assert changed or name == "flagship"
    net(x).square().mean().backward()
    assert all(torch.equal(a, p.grad) and a.abs().sum() > 0 for a, p in zip(gradients, net.parameters(), strict=True))


# -- whole codecs ----------------------------------------------------------------------------------------------


def fllic() -> FLLIC:
    return FLLIC(widths=[8, 8, 12], num_latents=40, prior_width=16)


def many_priors() -> ManyPriors:
    return ManyPriors(num_channels=12, num_latents=24, num_priors=8)


def flagship() -> Flagship:
    return Flagship(widths=[8, 12], blocks=[1, 1], num_latents=40, prior_width=16, embedding=8)


CODECS = [fllic, many_priors, flagship]


def ready(make: Callable[[], TransformCodec]) -> TransformCodec:
    torch.manual_seed(3)
    net = make().eval()
    net.update()
    return net


def image(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None] / 19, torch.arange(width)[None] / 23
    colours = [torch.sin(rows + c) * torch.cos(columns - c) for c in range(3)]
    torch.manual_seed(4)
    return (torch.stack(colours)[None] * 0.3 + 0.5 + 0.05 * torch.randn(1, 3, height, width)).clamp(0, 1)


@pytest.mark.parametrize("tile", [0, 128])
@pytest.mark.parametrize("make", CODECS)
def test_files_and_images_do_not_depend_on_the_layout(make, tile, monkeypatch):
    """A file written in either layout opens in the other, with the same symbols and the same image."""
    net, x = ready(make), image(180, 300)
    tile = tile if tile >= net.margin else 0
    files, images, latents = {}, {}, {}
    plain = transform.laid_out_for_coding
    forms = {"channels-last": plain, "contiguous": lambda x: x}
    for form, laid_out in forms.items():
        monkeypatch.setattr(transform, "laid_out_for_coding", laid_out)
        files[form] = net.compress(x, tile=tile)
        latents[form] = net._latents(x, Box(0, 0, 180, 300), side=unpack(files[form]).side)
    for (form, laid_out), written in itertools.product(forms.items(), files):
        monkeypatch.setattr(transform, "laid_out_for_coding", laid_out)
        images[form, written] = net.decompress(files[written])
    assert latents["channels-last"].is_contiguous()
    torch.testing.assert_close(*latents.values(), rtol=1e-4, atol=1e-3)
    for written in files:
        a, b = images["channels-last", written], images["contiguous", written]
        assert (a - b).abs().max() < 0.1 / 255
    assert len(files["channels-last"]) == pytest.approx(len(files["contiguous"]), rel=0.01)


@pytest.mark.parametrize("make", CODECS)
def test_a_codec_can_be_trained_on_contiguous_maps_after_coding(make):
    net, x = ready(make), image(64, 128)
    strides = {name: p.stride() for name, p in net.named_parameters()}
    data = net.compress(x)
    net.decompress(data)
    net.train()
    assert {name: p.stride() for name, p in net.named_parameters()} == strides
    contiguous = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_pre_hook(lambda layer, inputs: contiguous.append(inputs[0].is_contiguous()))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for step in range(8):
        torch.manual_seed(step)
        output = net(x)
        bits = -sum(torch.log2(p.float()).sum() for p in output.likelihoods.values())
        loss = bits / x[0, 0].numel() + 2048 * (output.x_hat - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step == 3:  # coding in between, as in validation
            net.eval().update()
            net.compress(x)
            net.train()
            contiguous.clear()
    assert contiguous and all(contiguous) and losses[-1] < losses[0]
