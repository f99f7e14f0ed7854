"""Images in tiles: the transforms do not depend on the tiling, and memory does not depend on the height."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from fllic_examples import image, psnr, tiny
from skimage.data import coffee
from torch import Tensor, nn

from jdcsuite.coding.container import GREY, pack, unpack
from jdcsuite.coding.tiling import boxes
from jdcsuite.entropy.coder import Decoder, Encoder
from jdcsuite.files import compression
from jdcsuite.models import haar
from jdcsuite.models.conditioned import Coarse, ErrorNetwork
from jdcsuite.models.drop_in import DropIn
from jdcsuite.models.flagship import Flagship
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.models.testolina import Testolina
from jdcsuite.types import CorruptFile, UserError

FINE = 1024  # quantisation steps per unit of a latent


class Plain(FLLIC):
    """FLLIC's transforms with finely quantised latents without context, so that only the transforms can depend on
    tiles."""

    def encode_tile(self, y, *, side):
        symbols = torch.round(y * FINE).flatten().long()
        coder, empty = Encoder(), Encoder()
        coder.put(symbols, torch.zeros_like(symbols), self.tables["y"])
        return [empty.segment(), coder.segment()], symbols

    def decode_tile(self, segments, *, height, width, side):
        shape = (1, self.num_latents, height // 16, width // 16)
        symbols = Decoder(segments[1]).get(torch.zeros(math.prod(shape)).int(), self.tables["y"])
        return symbols.view(shape).float() / FINE, symbols


def plain(*, start: str = "random", **changes) -> Plain:
    torch.manual_seed(4)
    parts = {"widths": [8, 8, 16], "num_latents": 24, "prior_width": 8, "latent_gain": 16.0}
    net = Plain(**parts | changes, start=start).eval()
    net.update()
    return net


@pytest.fixture(scope="module")
def trained() -> FLLIC:
    """Trained for a few steps, so that most symbols are in the tables."""
    net = tiny(latent_gain=64.0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    x = torch.cat([image(128, 128, seed=s) for s in range(4)])
    for _ in range(40):
        output = net(x)
        loss = sum(r.mean() for r in output.bpp(128 * 128).values()) + 8000 * ((output.x_hat - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval().update()
    return net


# -- the transforms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["random", "haar"])
@pytest.mark.parametrize(("size", "tile"), [((200, 330), 64), ((256, 256), 128), ((65, 130), 64), ((1, 200), 64)])
def test_tiles_change_no_latent_and_given_the_latents_no_pixel(start, size, tile):
    net, x = plain(start=start), image(*size, seed=1)
    whole, parts = net.compress(x, tile=0), net.compress(x, tile=tile)
    assert len(unpack(parts).tiles) == len(boxes(*size, tile)) > len(unpack(whole).tiles) == 1
    with torch.no_grad():
        expected = net.synthesise(net.analyse(net.pad(x)))[..., : size[0], : size[1]].clamp(0, 1)
    for data in (whole, parts):
        # float32 may round a latent the other way, by 1/1024
        error = (net.decompress(data) - expected).abs() * 255
        assert error.max() < 0.02


def test_a_margin_of_one_latent_less_is_too_small():
    """Shows that the test above can fail."""
    net, x = plain(), image(192, 192, seed=1)
    with torch.no_grad():
        for p in net.g_s.parameters():
            p.mul_(1.5)  # random kernels fade towards the edges of the receptive field
    net.update()
    whole = net.decompress(net.compress(x, tile=0))
    enough = (net.decompress(net.compress(x, tile=64)) - whole).abs().max()
    net.margin = 32
    assert (net.decompress(net.compress(x, tile=64)) - whole).abs().max() > 5 * enough


NARROW = {
    "FLLIC": lambda: FLLIC(widths=[4, 4, 4], num_latents=4, prior_width=4, start="random"),
    "Flagship": lambda: Flagship(widths=[4, 4], blocks=[1, 2], num_latents=4, prior_width=4, embedding=4),
    "Flagship with error networks": lambda: Flagship(
        widths=[4, 4],
        blocks=[0, 0],
        num_latents=4,
        prior_width=4,
        embedding=4,
        denoiser=[4, 1, 4, 2, 4, 2],
        post_filter=[4, 2, 4, 3],
    ),
    "DropIn": lambda: DropIn(architecture="MeanScaleHyperprior", num_channels=4, num_latents=4),
    "ManyPriors": lambda: ManyPriors(num_channels=4, num_latents=4, num_priors=3, start="random"),
    "Testolina": lambda: Testolina(num_channels=4, num_latents=4),
}
# latents before and after a tile that the synthesis reaches: four transposed convolutions, and 2 per 5x5 convolution
REACH = {"DropIn": (1, 2), "ManyPriors": (1, 2), "Testolina": (8 + 1, 8 + 2)}


@pytest.mark.parametrize("codec", NARROW)
def test_a_transform_reaches_no_pixel_beyond_the_margin(codec):
    """Gradients show which pixels the latents of a tile depend on, and which latents its pixels depend on."""
    torch.manual_seed(0)
    net = NARROW[codec]().double().eval()
    for part in net.modules():  # corrections that start near zero, so that they show
        if isinstance(part, Coarse):
            nn.init.normal_(part.up[0].weight)
        elif isinstance(part, ErrorNetwork):
            nn.init.normal_(part.leave[0].weight)
    if codec == "Testolina":  # no dead units, so that the whole receptive field shows
        with torch.no_grad():
            for layer in net.net.g_s[:7:2]:
                layer.weight.abs_()
    margin, edge = net.margin, net.margin // net.latent_stride
    assert margin % net.latent_stride == 0
    side, tile = 64 * math.ceil((margin + 16) / 64), 64  # a tile with more than the margin on each side
    first, last = side // 16, (side + tile) // 16
    x = torch.rand(1, 3, 2 * side + tile, 2 * side + tile, dtype=torch.float64, requires_grad=True)
    conditions = torch.full((1, 3), 0.5) if net.any_rate else None
    (gradient,) = torch.autograd.grad(net.analyse(x, conditions)[..., first:last, first:last].abs().sum(), x)
    for axes in ((0, 1, 3), (0, 1, 2)):
        pixels = gradient.abs().sum(axes).nonzero().flatten()
        assert side - margin <= pixels.min() < side - 16 and side + tile + 8 < pixels.max() < side + tile + margin
    y = torch.rand(1, 4, len(x[0, 0]) // 16, len(x[0, 0]) // 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        net.synthesise(y, conditions)[..., side : side + tile, side : side + tile].abs().sum(), y
    )
    for axes in ((0, 1, 3), (0, 1, 2)):
        rows = gradient.abs().sum(axes).nonzero().flatten()
        assert first - edge <= rows.min() < first and last <= rows.max() < last + edge
        if codec in REACH:
            assert (first - int(rows.min()), int(rows.max()) + 1 - last) == REACH[codec]


def wide(*, seed: int = 0) -> Testolina:
    """The kernels of its decoder do not fade towards their edges."""
    torch.manual_seed(seed)
    net = Testolina(num_channels=8, num_latents=12).eval()
    with torch.no_grad():
        net.net.g_a[-1].weight.mul_(8)
        for layer in net.net.g_s[:7:2]:
            layer.weight.mul_(2.5)
    net.update()
    return net


@pytest.mark.parametrize("size", [(200, 450), (450, 200), (193, 257), (400, 400)])
def test_a_codec_with_a_large_margin_sees_it_across_tiles(size):
    net, x = wide(), image(*size, seed=1)
    whole, parts = net.compress(x, tile=0), net.compress(x, tile=192)
    assert len(unpack(parts).tiles) == len(boxes(*size, 192)) > 1
    expected = net.decompress(whole)
    assert (net.decompress(parts) - expected).abs().max() * 255 < 0.02
    net.margin = 64  # shows that the test can fail
    assert (net.decompress(net.compress(x, tile=64)) - expected).abs().max() * 255 > 2


def test_tiles_smaller_than_the_margin_are_refused():
    """A decoder holds only adjacent tiles; with smaller ones it would silently decode another image."""
    net, x = wide(), image(200, 150, seed=1)
    contents = unpack(net.compress(x, tile=192))
    assert contents.tile == 192
    array = (x[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    for tile in (64, 128):
        with pytest.raises(ValueError, match="192"):
            net.compress(x, tile=tile)
        with pytest.raises(UserError, match="192"):
            compression.compress(array, net, tile=tile)
        assert unpack(net.compress(x[..., :tile, :tile], tile=tile)).tile == 0
        assert unpack(compression.compress(array[:tile, :tile], net, tile=tile)).tile == 0
        count = len(boxes(200, 150, tile))
        forged = pack(replace(contents, tile=tile, tiles=contents.tiles[:1] * count))
        for decode in (net.decompress, net.decompress_array):
            with pytest.raises(CorruptFile, match="192"):
                decode(forged)


# -- whole codecs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharp() -> FLLIC:
    """A Haar initialisation whose steps and means depend strongly on their context in the entropy model."""
    torch.manual_seed(0)
    net = FLLIC(widths=[12, 48, 96], num_latents=192, prior_width=16)
    with torch.no_grad():
        for head in (net.fusion[-1].module, net.spatial_prior[-1].module):
            head.weight.div_(haar.SMALL)
    net.eval().update()
    return net


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    return torch.from_numpy(coffee()[:384, :512].copy()).permute(2, 0, 1)[None].float() / 255


def test_a_tiled_image_is_as_good_as_a_whole_one_also_at_its_seams(sharp, photograph):
    x = photograph
    whole, parts = (sharp.decompress(sharp.compress(x, tile=t)) for t in (0, 128))
    assert psnr(whole, x) > 29
    assert abs(psnr(parts, x) - psnr(whole, x)) < 0.05
    near = torch.zeros(x.shape[-2:], dtype=torch.bool)
    for seam in range(128, 512, 128):
        near[:, seam - 4 : seam + 4] = True
        if seam < 384:
            near[seam - 4 : seam + 4] = True
    # images differ from place to place, so the seams are compared with the same pixels of the untiled image
    lost = [psnr(whole[..., m], x[..., m]) - psnr(parts[..., m], x[..., m]) for m in (near, ~near)]
    assert abs(lost[0]) < 0.05 and abs(lost[0] - lost[1]) < 0.05
    assert 0.5 < (parts - whole).abs().mean() * 255 < 2  # the means differ, so latents are rounded on another grid


SIZES = [(1, 1), (65, 130), (64, 129), (193, 65), (128, 128), (1, 65), (130, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["tensor", np.uint8, np.uint16])
def test_images_of_any_size_and_either_depth(trained, size, kind):
    x = image(*size, seed=2)
    if kind != "tensor":
        x = np.rint(x[0].permute(1, 2, 0).numpy() * np.iinfo(kind).max).astype(kind)
    data = trained.compress(x, tile=64)
    contents = unpack(data)
    assert (contents.height, contents.width) == size and contents.bit_depth == (16 if kind is np.uint16 else 8)
    assert contents.tile == (64 if max(size) > 64 else 0) and len(contents.tiles) == len(boxes(*size, 64))
    x_hat, array = trained.decompress(data), trained.decompress_array(data)
    assert x_hat.shape == (1, 3, *size) and array.shape == (*size, 3)
    assert array.dtype == (np.uint16 if kind is np.uint16 else np.uint8)
    levels = np.rint(x_hat[0].permute(1, 2, 0).numpy() * np.iinfo(array.dtype).max)
    np.testing.assert_array_equal(array, levels)
    assert psnr(x_hat, image(*size, seed=2)) > 26
    assert trained.compress(x, tile=64) == data
    if kind is np.uint8:
        tensor = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255
        assert trained.compress(tensor, tile=64) == data


def test_sixteen_bits_are_not_reduced_to_eight(monkeypatch):
    monkeypatch.setattr(haar, "SMALL", 0.0)
    net = plain(start="haar", widths=[12, 48, 192], num_latents=768, latent_gain=64.0)
    x = np.random.default_rng(0).integers(30_000, 30_500, (80, 130, 3)).astype(np.uint16)
    x[0, 0], x[-1, -1] = 0, 65535
    array = net.decompress_array(net.compress(x, tile=64))
    assert np.abs(array.astype(int) - x).max() < 40  # a grey level of 8 bits is 257


def test_a_tile_as_large_as_the_image_is_no_tiling(trained):
    x = image(100, 128)
    assert trained.compress(x, tile=128) == trained.compress(x, tile=0) == trained.compress(x)
    assert trained.compress(x, tile=64) != trained.compress(x)


@pytest.mark.parametrize("tile", [-64, 1, 63, 100])
def test_tiles_outside_the_format_are_a_value_error(trained, tile):
    with pytest.raises(ValueError, match="tile"):
        trained.compress(image(130, 130), tile=tile)


def test_metadata_and_colour_are_stored(trained):
    metadata = {"icc": b"profile", "exif": b"\0made"}
    contents = unpack(trained.compress(image(70, 70), tile=64, metadata=metadata, colour=GREY))
    assert contents.metadata == metadata and contents.colour == GREY


def test_a_damaged_tile_is_a_corrupt_file_at_any_position(trained):
    contents = unpack(trained.compress(image(150, 150), tile=64))
    for i, tile in enumerate(contents.tiles):
        z, y = tile.segments
        for other in (replace(tile, checksum=tile.checksum ^ 1), replace(tile, segments=[z, y[:-4]])):
            tiles = [other if j == i else t for j, t in enumerate(contents.tiles)]
            before = threading.active_count()
            with pytest.raises(CorruptFile):
                trained.decompress_array(pack(replace(contents, tiles=tiles)))
            assert threading.active_count() == before  # no thread is left running


# -- memory ----------------------------------------------------------------------------------------------------


class Counting(FLLIC):
    """Counts the tiles whose latents are in memory, by their storage, so that views count as well."""

    def __init__(self, **parts) -> None:
        super().__init__(**parts)
        self.lock, self.alive, self.most, self.bytes = threading.Lock(), weakref.WeakSet(), 0, []

    def decode_tile(self, segments, *, height, width, side):
        y_hat, symbols = super().decode_tile(segments, height=height, width=width, side=side)
        storage = Latents(y_hat.shape)
        storage[:] = y_hat.numpy()
        with self.lock:
            self.alive.add(storage.owner)
            self.most = max(self.most, len(self.alive))
        return torch.from_numpy(storage), symbols

    def synthesise(self, y_hat, conditions=None):
        with self.lock:
            self.most = max(self.most, len(self.alive))
        return super().synthesise(y_hat)


class Owner:
    pass


class Latents(np.ndarray):
    """An array whose ``owner`` dies with it; a weak set of the arrays themselves would compare their elements."""

    def __new__(cls, shape):
        array = super().__new__(cls, tuple(shape), dtype=np.float32)
        array.owner = Owner()
        return array


@pytest.mark.parametrize("way", ["decompress", "decompress_array"])
def test_decoding_holds_the_latents_of_three_rows_of_tiles_at_most(way):
    torch.manual_seed(0)
    net = Counting(widths=[4, 4, 4], num_latents=4, prior_width=4).eval()
    net.update()
    data = net.compress(image(64 * 7, 64 * 3), tile=64)
    getattr(net, way)(data)
    assert 3 < net.most <= 3 * 3
    assert len(net.alive) == 0
