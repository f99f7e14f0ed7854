"""Networks between bits and symbols: exact against integer sums, the same bits on every machine, threads and batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdcsuite.coding.codec import Codec
from jdcsuite.coding.container import unpack
from jdcsuite.entropy.exact import (
    INPUT_UNITS,
    MAX_INPUT,
    MAX_SUM,
    WEIGHT_UNITS,
    ExactConv2d,
    ExactConvTranspose2d,
    is_exact,
    make_exact,
)  # fmt: skip
from jdcsuite.models.drop_in import DropIn
from jdcsuite.models.dual_prior import DualPriorCodec
from jdcsuite.models.flagship import Flagship
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.models.testolina import Testolina
from jdcsuite.types import Request, Side

# both devices run the same cases; experiments/exact_file has the results of a GPU
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]

# -- one convolution against integers --------------------------------------------------------------------------


def integers(x: Tensor, unit: float) -> np.ndarray:
    return np.rint(x.detach().cpu().double().numpy() * unit).astype(np.int64)


def reference(conv: nn.Module, x: Tensor) -> np.ndarray:
    """Sums of integer products in int64, tap by tap, in units of 2**-26."""
    a = np.rint(np.clip(x.detach().cpu().numpy(), -MAX_INPUT, MAX_INPUT) * INPUT_UNITS).astype(np.int64)
    w = integers(conv.weight, WEIGHT_UNITS)
    b, inputs, height, width = a.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    a = a.reshape(b, conv.groups, inputs // conv.groups, height, width)
    taps = itertools.product(range(kh), range(kw))
    if isinstance(conv, nn.ConvTranspose2d):
        w = w.reshape(conv.groups, inputs // conv.groups, -1, kh, kw)
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in ((height, sh, kh, dh), (width, sw, kw, dw))]
        more = [max(0, extra - p) for extra, p in zip(conv.output_padding, conv.padding, strict=True)]
        out = np.zeros((b, conv.groups, w.shape[2], full[0] + more[0], full[1] + more[1]), dtype=np.int64)
        for i, j in taps:
            rows, columns = (
                slice(i * dh, i * dh + (height - 1) * sh + 1, sh),
                slice(j * dw, j * dw + (width - 1) * sw + 1, sw),
            )
            out[..., rows, columns] += np.einsum("gco,bgchw->bgohw", w[..., i, j], a)
        ends = [f - p + extra for f, p, extra in zip(full, conv.padding, conv.output_padding, strict=True)]
        out = out[..., ph : ends[0], pw : ends[1]]
    else:
        w = w.reshape(conv.groups, -1, inputs // conv.groups, kh, kw)
        a = np.pad(a, ((0, 0), (0, 0), (0, 0), (ph, ph), (pw, pw)))
        size = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in ((a.shape[3], kh, dh, sh), (a.shape[4], kw, dw, sw))]
        out = np.zeros((b, conv.groups, w.shape[1], *size), dtype=np.int64)
        for i, j in taps:
            seen = a[..., i * dh : i * dh + size[0] * sh : sh, j * dw : j * dw + size[1] * sw : sw]
            out += np.einsum("goc,bgchw->bgohw", w[..., i, j], seen[..., : size[0], : size[1]])
    out = out.reshape(b, -1, *out.shape[3:])
    return out if conv.bias is None else out + integers(conv.bias, INPUT_UNITS * WEIGHT_UNITS)[:, None, None]


CONVOLUTIONS = {
    "1x1": lambda: ExactConv2d(96, 40, 1),
    "1x1 without bias": lambda: ExactConv2d(7, 5, 1, bias=False),
    "1x1 strided": lambda: ExactConv2d(6, 5, 1, stride=2),
    "3x3": lambda: ExactConv2d(12, 9, 3, padding=1),
    "5x5 strided": lambda: ExactConv2d(12, 9, 5, stride=2, padding=2),
    "depthwise": lambda: ExactConv2d(24, 24, 3, padding=1, groups=24),
    "depthwise oblong": lambda: ExactConv2d(6, 6, (1, 5), padding=(0, 2), groups=6, bias=False),
    "depthwise strided": lambda: ExactConv2d(8, 8, 3, stride=2, padding=1, groups=8),
    "depthwise of twice the outputs": lambda: ExactConv2d(8, 16, 3, padding=1, groups=8),
    "depthwise dilated": lambda: ExactConv2d(8, 8, 3, padding=2, dilation=2, groups=8),
    "grouped": lambda: ExactConv2d(12, 8, 3, padding=1, groups=4),
    "transposed": lambda: ExactConvTranspose2d(12, 9, 5, stride=2, padding=2, output_padding=1),
    "transposed grouped": lambda: ExactConvTranspose2d(12, 8, 3, stride=2, padding=1, groups=4, bias=False),
    "transposed unstrided": lambda: ExactConvTranspose2d(5, 3, 3, padding=1),
}


def example(name: str, *, gain: float = 1.0, seed: int = 0, batch: int = 2) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    conv = CONVOLUTIONS[name]()
    with torch.no_grad():
        conv.weight.normal_(0, gain)
        if conv.bias is not None:
            conv.bias.normal_(0, 30)
    x = torch.randn(batch, conv.in_channels, 11, 14, dtype=torch.float64) * 40
    x[0, :, :2] *= 100  # beyond the clamp
    return conv, x


def in_units(out: Tensor) -> np.ndarray:
    assert out.dtype == torch.float64
    units = out.detach().cpu().numpy() * (INPUT_UNITS * WEIGHT_UNITS)
    assert (units == np.rint(units)).all() and np.abs(units).max() < 2**53
    return units.astype(np.int64)


@dataclass(frozen=True)
class Condition:
    """What may differ between two machines that have to agree."""

    threads: int = 1
    precision: str = "highest"
    mkldnn: bool = True
    autocast: bool = False
    device: str = "cpu"

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(torch.backends.mkldnn.flags(enabled=self.mkldnn))
                if self.autocast:
                    stack.enter_context(torch.autocast(self.device, dtype=torch.bfloat16))
                yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_float32_matmul_precision(before[1])


FIRST = Condition()
CONDITIONS = [
    FIRST, Condition(threads=2), Condition(precision="high"), Condition(precision="medium", threads=2),
    Condition(mkldnn=False), Condition(mkldnn=False, threads=2), Condition(autocast=True),
    pytest.param(Condition(device="cuda"), marks=needs_gpu),
    pytest.param(Condition(device="cuda", precision="medium", autocast=True), marks=needs_gpu),
]  # fmt: skip
HERE = [c for c in CONDITIONS if isinstance(c, Condition)] + [
    c.values[0] for c in CONDITIONS if not isinstance(c, Condition) and torch.cuda.is_available()
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_equals_the_sum_of_integers(name, condition):
    conv, x = example(name)
    expected = reference(conv, x)
    conv, x = conv.to(condition.device), x.to(condition.device)
    with condition():
        for same in (x, x.contiguous(memory_format=torch.channels_last), x.flip(3).flip(3)):
            np.testing.assert_array_equal(in_units(conv(same)), expected)
        conv = conv.to(memory_format=torch.channels_last)
        np.testing.assert_array_equal(in_units(conv(x)), expected)
        for i in range(len(x)):
            np.testing.assert_array_equal(in_units(conv(x[i : i + 1])), expected[i : i + 1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_sums_at_the_bound_are_exact(name, device):
    """Weights as large as `is_exact` allows, all products of one sign, and odd, so that a lost low bit would show."""
    conv, x = example(name)
    with torch.no_grad():
        conv.weight.abs_()
        if conv.bias is not None:
            conv.bias.fill_(3 / (INPUT_UNITS * WEIGHT_UNITS))
        conv.weight.mul_(0.999 * MAX_SUM / conv.largest())
        conv.weight.copy_((torch.round(conv.weight.double() * WEIGHT_UNITS / 2) * 2 + 1) / WEIGHT_UNITS)
    assert is_exact(conv) and conv.largest() > 0.99 * MAX_SUM
    x = torch.full_like(x, MAX_INPUT) - (torch.arange(x.numel()).view(x.shape) % 3) / INPUT_UNITS
    expected = reference(conv, x)
    assert name.startswith("transposed") or expected.max() > 0.95 * 2**53
    np.testing.assert_array_equal(in_units(conv.to(device)(x.to(device))), expected)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_bound_is_reached_and_never_exceeded(name):
    conv, x = example(name)
    worst = 0.0
    for o in range(conv.out_channels):
        signs = torch.zeros_like(x[:1, :, :5, :5]) if o % 5 else torch.full_like(x[:1, :, :5, :5], 2 * MAX_INPUT)
        single = torch.autograd.functional.jacobian(lambda s: F_conv(conv, s)[0, o].sum(), signs)  # noqa: B023
        worst = max(worst, F_conv(conv, torch.sign(single) * MAX_INPUT).abs().max().item())
    assert worst <= conv.largest()


def F_conv(conv: nn.Module, x: Tensor) -> Tensor:
    """The same convolution in PyTorch's float64."""
    bias = None if conv.bias is None else conv.bias.double()
    if isinstance(conv, nn.ConvTranspose2d):
        where = (conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
        return F.conv_transpose2d(x, conv.weight.double(), bias, *where)
    return F.conv2d(x, conv.weight.double(), bias, conv.stride, conv.padding, conv.dilation, conv.groups)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rounding_changes_a_sum_by_at_most_half_a_unit_of_each_factor(name):
    conv, x = example(name)
    x = x.clamp(-MAX_INPUT, MAX_INPUT)
    with torch.no_grad():
        moved = (conv(x) - F_conv(conv, x)).abs().max().item()
    taps = conv.weight[0].numel() * (conv.in_channels if isinstance(conv, nn.ConvTranspose2d) else 1)
    largest = conv.weight.abs().max().item()
    assert 0 < moved <= taps * (largest / INPUT_UNITS + MAX_INPUT / WEIGHT_UNITS) / 2 + 1e-6


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_training_uses_the_ordinary_convolution(name):
    conv, x = example(name)
    plain = (nn.ConvTranspose2d if isinstance(conv, nn.ConvTranspose2d) else nn.Conv2d)(
        conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding,
        groups=conv.groups, dilation=conv.dilation, bias=conv.bias is not None,
        **({"output_padding": conv.output_padding} if isinstance(conv, nn.ConvTranspose2d) else {}),
    )  # fmt: skip
    plain.load_state_dict(conv.state_dict())
    x32 = x.float()
    assert torch.equal(conv(x32), plain(x32)) and conv(x32).dtype == torch.float32
    before = conv.weight.clone()
    exact = make_exact(nn.Sequential(plain))
    assert torch.equal(exact(x), conv(x)) and list(exact.state_dict()) == [f"0.{n}" for n in conv.state_dict()]
    assert torch.equal(conv.weight, before)


@pytest.mark.parametrize("name", ["1x1", "depthwise", "5x5 strided", "transposed"])
@pytest.mark.parametrize("value", [1e9, float("inf"), float("nan")])
def test_weights_beyond_the_bound_are_not_exact(name, value):
    conv, _ = example(name)
    net = nn.Sequential(nn.ReLU(), conv)
    assert is_exact(net)
    for weight in conv.parameters():
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[-1] = value
        assert not is_exact(net)
        weight.data.copy_(kept)
    assert is_exact(net)


# -- whole codecs ----------------------------------------------------------------------------------------------


class FixedOutput(nn.Module):
    """Stand-in for h_a, which only the encoder runs, in float32, and which may differ between machines."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.register_buffer("z", z)

    def forward(self, y: Tensor) -> Tensor:
        return self.z


def latents(channels: int, side: int, *, spread: float, seed: int = 1) -> Tensor:
    """Heavy-tailed values, most within a few units, some thousands away."""
    random = np.random.default_rng(seed)
    drawn = (
        random.standard_normal((1, channels, side, side)) * spread * np.exp(random.exponential(1, (1, channels, 1, 1)))
    )
    return torch.from_numpy(drawn).float()


def fllic() -> tuple[FLLIC, Tensor, Tensor]:
    torch.manual_seed(2)
    net = FLLIC(widths=[4, 4, 8], num_latents=40, prior_width=24, start="random")
    with torch.no_grad():
        for p in (p for part in (net.h_s, net.fusion, net.spatial_prior) for p in part.parameters()):
            p.mul_(1.8)  # features of magnitude 10 and steps, scales and means of all sizes
    z = latents(24, 3, spread=2.0)
    z.view(-1)[5], z.view(-1)[77] = 2.0**28, -3e5
    net.h_a = FixedOutput(z)
    return net, latents(40, 12, spread=6.0), torch.round(z).double()


def flagship(**more: object) -> tuple[Flagship, Tensor, Tensor]:
    torch.manual_seed(4)
    net = Flagship(widths=[4, 4], blocks=[1, 1], num_latents=40, prior_width=24, embedding=4, **more)
    with torch.no_grad():
        for p in (p for part in (net.h_s, net.fusion, net.spatial_prior) for p in part.parameters()):
            p.copy_(torch.randn_like(p) * 1.6 / max(p[0].numel(), 9) ** 0.5)
    z = latents(24, 3, spread=2.0)
    z.view(-1)[5], z.view(-1)[77] = 2.0**28, -3e5
    net.h_a = FixedOutput(z)
    return net, latents(40, 12, spread=6.0), torch.round(z).double()


def drop_in(make: Callable[[], DropIn]) -> tuple[DropIn, Tensor, Tensor]:
    torch.manual_seed(3)
    net = make()
    with torch.no_grad():
        for p in net.net.h_s.parameters():
            p.mul_(2.5)
        net.net.entropy_bottleneck.quantiles[:, 0, 1].uniform_(-0.5, 0.5)
    z = latents(16, 3, spread=3.0)
    z.view(-1)[5] = 3e5
    net.net.h_a = FixedOutput(z)
    return net, latents(24, 12, spread=6.0), torch.round(z - net._medians()).long()


SMALL = {"num_channels": 16, "num_latents": 24}
ARCHITECTURES = ["ScaleHyperprior", "MeanScaleHyperprior"]
BUILDERS = {
    "FLLIC": fllic,
    "Flagship": flagship,
    "Flagship, four passes": partial(flagship, magnitudes=True, passes=4, residuals="logistic"),
    **{name: partial(drop_in, partial(DropIn, architecture=name, **SMALL)) for name in ARCHITECTURES},
    "Testolina": partial(drop_in, partial(Testolina, **SMALL)),
}
H = 700
SIDE = Side(h=H, request=Request(quality=437, noise=163, strength=70))  # only any-rate codecs use the request


@pytest.fixture(scope="module", params=BUILDERS)
def built(request: pytest.FixtureRequest) -> tuple[Codec, Tensor, Tensor]:
    net, y, z = BUILDERS[request.param]()
    net.eval().update()
    assert net.exact
    return net, y, z


def parameters(net: Codec, z: Tensor) -> list[Tensor]:
    """The values between bits and symbols; for FLLIC also those of the second half, given a first half made from z."""
    if isinstance(net, DropIn):
        output = net.net.h_s(z + net._medians().double())
        indexes = net.net.gaussian_conditional.build_indexes(output[:, :24])
        if len(z) == 1:
            single, means = net._entropy_parameters(z)
            assert torch.equal(single, indexes.flatten())
            assert not net.has_means or torch.equal(means, output[:, 24:])
        return [output.cpu(), indexes.cpu()]
    first = net._entropy_parameters(z, net.planes(SIDE).to(z).expand(len(z), -1))
    symbols = torch.arange(first[0].numel() // len(z), device=z.device).view(1, *first[0].shape[1:]) % 23 - 11.0
    second = net._dual_prior(*first, lambda means, log2_scales, mask: symbols.double() + means)
    return [part.cpu() for part in (*first, *second)]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_entropy_parameters_are_the_same_bits_under_every_condition(built, condition):
    net, _, z = built
    with FIRST():
        expected = parameters(net, z)
    assert all(e.double().std() > 0.3 and torch.isfinite(e.double()).all() for e in expected)
    try:
        net.to(condition.device)
        z = z.to(condition.device)
        four = torch.cat([z, -z, z.flip(3), z])
        with condition():
            for actual in (parameters(net, z), parameters(net, z.contiguous(memory_format=torch.channels_last))):
                assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
            for together in (four, four.contiguous(memory_format=torch.channels_last)):
                actual = parameters(net, together)
                for i in (0, 3):
                    assert all(torch.equal(a[i : i + 1], b) for a, b in zip(actual, expected, strict=True))
    finally:
        net.to("cpu")


def test_a_file_has_the_same_bytes_and_symbols_under_every_pair_of_conditions(built):
    net, y, _ = built
    same_under_every_pair_of_conditions(net, y, step=1.0 if isinstance(net, DropIn) else 2.0**14)


def same_under_every_pair_of_conditions(net: Codec, y: Tensor, *, step: float, on_every_device: bool = True) -> None:
    """``on_every_device``: a GPU has to write the same bytes too; otherwise only to decode the same symbols."""
    coded = {}
    try:
        for condition in HERE:
            net.to(condition.device)
            with condition():
                segments, symbols = net.encode_tile(y.to(condition.device), side=SIDE)
            coded[condition] = segments, symbols.cpu()
        for condition, (segments, symbols) in coded.items():
            first = next(c for c in HERE if on_every_device or c.device == condition.device)
            assert segments == coded[first][0] and torch.equal(symbols, coded[first][1])
        assert len(segments[1]) > 1000 and symbols.unique().numel() > 30
        for condition, (segments, symbols) in itertools.product(HERE, [coded[FIRST], coded[HERE[-1]]]):
            net.to(condition.device)
            with condition():
                y_hat, read = net.decode_tile(segments, height=192, width=192, side=SIDE)
            assert torch.equal(read.cpu(), symbols)
            assert y_hat.shape == y.shape and (y_hat.cpu() - y).abs().max() <= 0.501 * step
    finally:
        net.to("cpu")


def many_priors(index_cost: str = "adaptive") -> ManyPriors:
    torch.manual_seed(5)
    net = ManyPriors(num_channels=8, num_latents=24, num_priors=16, index_cost=index_cost)
    with torch.no_grad():
        net.prior_y.h += torch.randn_like(net.prior_y.h) * 0.5
        net.prior_y.b += torch.randn_like(net.prior_y.b)
        net.prior_y.seen.uniform_(0, 100)
    net.eval().update()
    return net


@pytest.mark.parametrize("index_cost", ["fixed", "adaptive"])
def test_many_priors_have_no_network_between_bits_and_symbols(index_cost):
    net, y = many_priors(index_cost), latents(24, 12, spread=6.0)
    y.view(-1)[5], y.view(-1)[77] = 2.0**22, -3e5
    assert net.prior_networks == () and net.exact
    assert not unpack(net.compress(torch.rand(1, 3, 40, 40))).same_machine
    # the choice of priors uses floating-point sums
    same_under_every_pair_of_conditions(net, y, step=1.0, on_every_device=False)
    _, symbols = net.encode_tile(y, side=SIDE)
    assert symbols[:144].unique().numel() > 4


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_the_decoder_of_many_priors_uses_no_floating_point(condition, monkeypatch):
    """It decodes any choice from the tables, with priors that are NaN."""
    net, y = many_priors(), latents(24, 12, spread=6.0)
    numbers = torch.randint(0, 16, (144,))
    monkeypatch.setattr(type(net.prior_y), "choose", lambda self, y: numbers.view(1, 12, 12))
    segments, symbols = net.encode_tile(y, side=SIDE)
    assert torch.equal(symbols[:144], numbers.int())
    with torch.no_grad():
        for part in (*net.prior_y.parameters(), net.prior_y.seen):
            part.fill_(float("nan"))
    net.to(condition.device)
    with condition():
        y_hat, read = net.decode_tile(segments, height=192, width=192, side=SIDE)
    assert torch.equal(read.cpu(), symbols) and torch.equal(y_hat.cpu(), y.round())


def test_coding_in_float32_would_not_be_exact(built):
    """Shows that the tests above can fail: another arithmetic gives other bits."""
    net, _, z = built
    if isinstance(net, DropIn):
        pytest.skip("the codec converts its input to float64")
    with FIRST():
        expected = parameters(net, z)
        actual = parameters(net, z.float())
    assert any(not torch.equal(a.double(), b.double()) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_codec_with_unbounded_sums_marks_its_files(name):
    net, _, _ = BUILDERS[name]()
    net.eval().update()
    x = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    assert net.exact and not unpack(net.compress(x)).same_machine
    inside = net.h_s if isinstance(net, DualPriorCodec) else net.net.h_s
    convolution = next(m for m in inside.modules() if isinstance(m, ExactConv2d | ExactConvTranspose2d))
    state = net.state_dict()
    (prefix,) = (n for n, m in net.named_modules() if m is convolution)
    state[f"{prefix}.weight"] = state[f"{prefix}.weight"] * 1e7
    net.load_state_dict(state)
    net.update()
    assert not net.exact and unpack(net.compress(x)).same_machine


@pytest.mark.parametrize("name", BUILDERS)
def test_every_convolution_between_bits_and_symbols_is_exact(name):
    net, _, _ = BUILDERS[name]()
    between = [net.h_s, net.fusion, net.spatial_prior] if isinstance(net, DualPriorCodec) else [net.net.h_s]
    seen = [m for part in between for m in part.modules() if not list(m.children()) and list(m.parameters())]
    assert seen and all(isinstance(m, ExactConv2d | ExactConvTranspose2d) for m in seen)
    # all other modules there are elementwise
    others = {type(m) for part in between for m in part.modules() if not list(m.children())} - {type(m) for m in seen}
    assert others <= {nn.LeakyReLU, nn.ReLU, nn.PixelShuffle, nn.Identity}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_drop_in_decodes_to_the_image_of_compressai_s_own_forward(name):
    torch.manual_seed(0)
    net = DropIn(architecture=name, num_channels=8, num_latents=12).eval()
    net.update()
    x = torch.rand(1, 3, 70, 130, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = net(x)
    data = net.compress(x)
    error = (net.decompress(data) - output.x_hat.clamp(0, 1)).abs() * 255
    assert error.median() < 0.01 and error.max() < 8
    bits = sum(-torch.log2(p).sum().item() for p in output.likelihoods.values())
    payload = 8 * sum(map(len, unpack(data).tiles[0].segments))
    assert payload == pytest.approx(bits, rel=0.02, abs=2 * 64)


def test_the_integer_reference_equals_pytorch_s_convolution():
    """Rules out that reference and implementation share an error."""
    for name in CONVOLUTIONS:
        conv, x = example(name)
        x = x.clamp(-MAX_INPUT, MAX_INPUT)
        np.testing.assert_allclose(
            reference(conv, x) / (INPUT_UNITS * WEIGHT_UNITS), F_conv(conv, x).detach().numpy(), atol=1.0
        )
