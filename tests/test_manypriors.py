"""The many-priors codec: search against the naive form, size of files against the estimate."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import naive
import pytest
import torch
from torch import Tensor, nn

from jdcsuite.artifacts import weights
from jdcsuite.coding.container import header_bytes, pack, unpack
from jdcsuite.entropy import competition
from jdcsuite.entropy.coder import LARGEST, Encoder
from jdcsuite.entropy.competition import Competition
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.imaging.read import embedded
from jdcsuite.models import haar
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.types import CorruptFile, Side, UserError

TINY = {"num_channels": 8, "num_latents": 12, "num_priors": 6, "latent_gain": 1.0}


def tiny(*, seed: int = 0, **changes) -> ManyPriors:
    torch.manual_seed(seed)
    net = ManyPriors(**{**TINY, **changes})
    with torch.no_grad():  # latents of many magnitudes, priors that differ
        net.g_a[-1].module.weight *= 6
        net.prior_y.h += torch.randn_like(net.prior_y.h) * 0.5
        net.prior_y.b += torch.randn_like(net.prior_y.b) * 0.5
    return net


def ready(net: ManyPriors) -> ManyPriors:
    net.eval().update()
    return net


def image(height: int, width: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth + 0.05 * torch.randn(1, 3, height, width, generator=generator)).clamp(0, 1)


def naive_bits(prior: Competition, y: Tensor) -> Tensor:
    """Bits (b, hy, wy, p) of each position under each prior, evaluated from the formula."""
    return -torch.log2(naive.all_likelihoods(prior, y)).sum(4)


@pytest.fixture
def prior() -> Competition:
    torch.manual_seed(1)
    prior = Competition(num_priors=5, num_latents=4).double()
    with torch.no_grad():
        for scalars in (prior.h, prior.b, prior.a):
            scalars += torch.randn_like(scalars) * 0.7
    return prior


# -- size ------------------------------------------------------------------------------------------------------


def test_the_full_size_is_that_of_the_paper() -> None:
    """6.58 M parameters; 92.8 kMAC per pixel for the encoder: products, biases, and square, offset, root and division
    of each GDN value."""
    net = ManyPriors()
    parameters = [sum(p.numel() for p in part.parameters()) for part in (net.g_a, net.g_s, net.prior_y)]
    assert parameters == [3_198_400, 3_198_147, 180_224] and sum(parameters) == 6_576_771
    macs, side = 0.0, 1.0
    for layer in net.g_a:
        layer = getattr(layer, "module", layer)
        convolution = isinstance(layer, nn.Conv2d)
        side /= 2 if convolution else 1
        macs += side**2 * (layer.weight.numel() + len(layer.bias) if convolution else 192 * 192 + 4 * 192)
    assert macs / 1000 == pytest.approx(92.8, abs=0.05)


def test_the_priors_are_initialised_as_in_the_paper() -> None:
    prior = Competition(num_priors=64, num_latents=32)
    for scalars in (prior.h, prior.b, prior.a):
        assert abs(float(scalars.mean())) < 1e-3 and float(scalars.std()) == pytest.approx(0.01, rel=0.05)


# -- the search ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_choice_likelihoods_and_gradients_equal_the_naive_form(prior: Competition, mode: str) -> None:
    prior.train(mode == "train")
    y = torch.randn(2, 4, 3, 5, dtype=torch.float64) * 3
    y = (y if mode == "train" else y.round()).requires_grad_()
    weight = torch.rand(2, 3, 5, dtype=torch.float64)
    cheapest, index = naive_bits(prior, y).min(3)
    expected = torch.autograd.grad((cheapest * weight).sum(), [y, prior.h, prior.b, prior.a])

    chosen = prior.search(y.detach().permute(0, 2, 3, 1).flatten(0, 2))[0] if mode == "train" else prior.choose(y)
    assert torch.equal(chosen.view(2, 3, 5), index) and len(index.unique()) > 2
    likelihoods = prior(y)
    bits = -torch.log2(likelihoods["y"]).sum(3)
    assert torch.allclose(bits, cheapest)
    assert torch.allclose(likelihoods["index"], torch.full((2, 3, 5), 1 / 5, dtype=torch.float64))
    gradients = torch.autograd.grad((bits * weight).sum(), [y, prior.h, prior.b, prior.a])
    for mine, other in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_blocks_of_any_size_give_the_same_choice(prior: Competition) -> None:
    rows = torch.randn(23, 4, dtype=torch.float64) * 3
    results = []
    for elements in (1, 5 * 4 * 7, 10**6):
        prior.elements = elements
        results.append(prior.search(rows))
    for index, cost in results[1:]:
        assert torch.equal(index, results[0][0]) and torch.allclose(cost, results[0][1])


def test_search_and_winner_use_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, searched = tiny().train(), image(64, 64), []
    search = Competition.search
    monkeypatch.setattr(Competition, "search", lambda self, rows: searched.append(rows) or search(self, rows))
    p = net(x).likelihoods["y"]
    index, _ = search(net.prior_y, searched[0])
    assert torch.allclose(net.prior_y.likelihood(searched[0], index).view_as(p), p)
    assert not torch.equal(searched[0], searched[0].round())


def test_index_costs_are_learned_and_change_the_choice_of_the_encoder(prior: Competition) -> None:
    prior.index_cost = "adaptive"
    y = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    rows = y.permute(0, 2, 3, 1).flatten(0, 2)
    for _ in range(600):
        prior(y)
    index, _ = prior.search(rows)
    assert torch.equal(index, naive_bits(prior, y).view(64, 5).argmin(1)), "training is not charged"
    rows = index.view(8, 8).tolist()
    counts = torch.zeros(6, 5, dtype=torch.float64)
    for i in range(8):
        for j in range(8):
            counts[rows[i - 1][j] if i else 5, rows[i][j]] += 1
    assert torch.allclose(prior.seen, 100 * counts, rtol=0.02, atol=1.0), "counts of about a hundred steps"
    shares = (100 * counts).sum(0) / (100 * counts).sum()
    assert prior._frequencies().tolist() == pytest.approx(shares.tolist(), abs=0.01)
    y = y.round()
    bits, table = naive_bits(prior.eval(), y)[0].detach(), prior.index_probabilities()
    chosen = prior.choose(y)[0]
    for i in range(8):
        for j in range(8):
            context = int(chosen[i - 1, j]) if i else 5
            assert int(chosen[i, j]) == int((bits[i, j] - torch.log2(table[context])).argmin())
    assert not torch.equal(chosen, bits.argmin(2))
    charged = prior(y)["index"]
    assert torch.allclose(table.sum(1), torch.ones(6, dtype=torch.float64)) and (table > 0).all()
    expected = counts / counts.sum(1, keepdim=True).clamp(min=1)
    often = counts.sum(1) > 5
    assert torch.allclose(table[often], expected[often], atol=0.05)
    assert charged.shape == (1, 8, 8)


# -- revival ---------------------------------------------------------------------------------------------------


def test_a_prior_that_never_wins_gets_a_costly_position_after_fifty_steps(prior: Competition) -> None:
    with torch.no_grad():
        prior.b[3].view(5, 4)[2] += 40  # a density far from every latent
    y = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for step in range(competition.REVIVE_AFTER + 2):
        (gradient,) = torch.autograd.grad(-torch.log(prior(y)["y"]).sum(), prior.h)
        revived = bool(gradient.view(4, 5, 4)[:, 2].abs().max() > 0)
        assert revived == (step == competition.REVIVE_AFTER), step
    assert prior.idle[2] == 1, "counted anew"
    prior.eval()
    prior.idle[2] = 1000
    expected = naive_bits(prior, y.round()).min(3).values
    assert torch.allclose(-torch.log2(prior(y.round())["y"]).sum(3), expected) and prior.idle[2] == 1000


def test_at_most_a_tenth_of_the_positions_are_reassigned_each_to_another_prior() -> None:
    torch.manual_seed(0)
    prior = Competition(num_priors=16, num_latents=2)
    prior.idle.fill_(1000)
    prior.idle[0] = 0
    cost = torch.arange(50.0)
    index = prior._revive(torch.zeros(50, dtype=torch.int64), cost)
    given = index[index != 0]
    assert len(given) == 5 == len(given.unique()) and (index[:45] == 0).all()
    assert (prior.idle == 0).sum() == 6


def test_the_priors_learn_ten_times_faster() -> None:
    from functools import partial

    from jdcsuite.training.criteria import RateDistortion
    from jdcsuite.training.supervision import Supervised
    from jdcsuite.training.task import Task

    net = tiny()
    task = Task(
        model=net, criterion=RateDistortion(lmbda=1.0, supervision=Supervised()), schedule=lambda step: 1.0,
        optimizer=partial(torch.optim.Adam, lr=1e-4), max_norm=0.0, seed=0,
    )  # fmt: skip
    param_groups = task.configure_optimizers()["optimizer"].param_groups
    groups = {round(group["lr"], 9): group["params"] for group in param_groups}
    assert set(groups) == {1e-4, 1e-3}
    assert {id(p) for p in groups[1e-3]} == {id(p) for p in net.prior_y.parameters()}
    assert sum(map(len, groups.values())) == len(list(net.parameters()))


# -- coding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_cost", ["fixed", "adaptive"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (17, 33), (64, 48)])
def test_the_decoded_image_is_that_of_forward_bit_for_bit(size: tuple[int, int], index_cost: str) -> None:
    net, x = ready(tiny(index_cost=index_cost)), image(*size)
    data = net.compress(x)
    with torch.no_grad():
        assert torch.equal(net.decompress(data), net(x).x_hat.clamp(0, 1))
    assert net.compress(x) == data and net.decompress(data).shape == x.shape


@pytest.mark.parametrize("index_cost", ["fixed", "adaptive"])
@pytest.mark.parametrize("size", [(65, 130), (64, 129), (193, 65), (1, 200), (130, 1)])
def test_tiles_change_only_the_indexes_above(size: tuple[int, int], index_cost: str, monkeypatch) -> None:
    net, x = tiny(index_cost=index_cost).train(), image(*size)
    for _ in range(3):
        net(x)
    ready(net)
    # convolutions of another size may round a latent the other way; in float64 none does
    g_a = copy.deepcopy(net.g_a).double()
    monkeypatch.setattr(net, "analyse", lambda x, conditions: (net.latent_gain * g_a(x.double() - 0.5)).float())
    whole, parts = net.compress(x, tile=0), net.compress(x, tile=64)
    assert len(unpack(parts).tiles) > len(unpack(whole).tiles) == 1
    assert torch.allclose(net.decompress(parts), net.decompress(whole), atol=1e-3)


@pytest.mark.parametrize("index_cost", ["fixed", "adaptive"])
def test_the_size_of_a_file_is_the_estimate(index_cost: str) -> None:
    net, x = tiny(index_cost=index_cost).train(), image(320, 256)
    for _ in range(100):
        net(x)  # counts the use of the priors
    ready(net)
    contents = unpack(net.compress(x))
    with torch.no_grad():
        bits = {name: -torch.log2(p).sum().item() for name, p in net(x).likelihoods.items()}
    assert bits["y"] > 2000
    for name, segment in zip(net.segment_names, contents.tiles[0].segments, strict=True):
        assert 8 * len(segment) - 48 == pytest.approx(bits[name], rel=0.006, abs=24), name
    if index_cost == "fixed":
        assert bits["index"] == pytest.approx(320 * 2.585, rel=1e-3)


def test_latents_far_outside_their_tables_are_coded_exactly() -> None:
    net, x = tiny(), image(64, 64)
    with torch.no_grad():
        net.g_a[-1].module.weight *= 2000
    ready(net)
    with torch.no_grad():
        assert net.analyse(x).abs().max() > 1000
        assert torch.equal(net.decompress(net.compress(x)), net(x).x_hat.clamp(0, 1))


def test_the_symbols_of_a_tile_are_the_same_on_both_sides() -> None:
    net = ready(tiny())
    with torch.no_grad():
        y = net.analyse(image(32, 48))
        segments, written = net.encode_tile(y, side=Side())
        y_hat, read = net.decode_tile(segments, height=32, width=48, side=Side())
    assert torch.equal(written, read) and written.dtype == torch.int32 and len(read) == 6 * 13
    assert torch.equal(y_hat, y.round())


def test_other_weights_and_other_segments_are_refused() -> None:
    net, other = ready(tiny()), ready(tiny(seed=1))
    data = net.compress(image(20, 20))
    with pytest.raises(CorruptFile, match="weights"):
        other.decompress(data)
    contents = unpack(data)
    (tile,) = contents.tiles
    assert header_bytes(contents) + sum(map(len, tile.segments)) == len(data)
    index, y = tile.segments
    for segments, message in (([index], "1 segments"), ([index, y, y], "3 segments"), ([y, index], ""), ([b"", y], "")):
        with pytest.raises(CorruptFile, match=message):
            net.decompress(pack(replace(contents, tiles=[replace(tile, segments=segments)])))


@pytest.mark.parametrize("position", [0, 2, 3, 5])
@pytest.mark.parametrize("invalid", [-1, 6, 7, 71, 2**16, LARGEST - 1, 1 - LARGEST])
def test_the_index_of_no_prior_is_refused(invalid: int, position: int) -> None:
    """A forged file of 2 x 3 positions that is consistent otherwise: the table of the index below it, the tables of its
    symbols and the checksum."""
    net = ready(tiny())
    data = net.compress(image(32, 48))
    contents = unpack(data)
    (tile,) = contents.tiles
    index, _ = net.decode_tile(tile.segments, height=32, width=48, side=Side())[1].split([6, 6 * 12])

    def forged(index: Tensor) -> bytes:
        coder = Encoder()
        above = torch.cat([torch.full((3,), 6, dtype=torch.int32), index[:3].clamp(0, 6)])
        coder.put(index, above, net.tables["index"])
        return pack(replace(contents, tiles=[replace(tile, segments=[coder.segment(), tile.segments[1]])]))

    assert forged(index) == data
    index[position] = invalid
    for decode in (net.decompress, net.decompress_array):
        with pytest.raises(CorruptFile, match="beyond the 6"):
            decode(forged(index))


def test_wrong_index_cost_is_refused() -> None:
    with pytest.raises(UserError, match="fixed or adaptive"):
        ManyPriors(**TINY, index_cost="free")


def test_saved_weights_write_and_read_the_same_files(tmp_path: Path) -> None:
    net, x = tiny(index_cost="adaptive").train(), image(40, 40)
    for _ in range(3):
        net(x)
    ready(net)
    config = {"_target_": "jdcsuite.models.manypriors.ManyPriors", **TINY, "index_cost": "adaptive"}
    weights.save(net, config, tmp_path / "weights.safetensors", about={})
    back = weights.load(tmp_path)
    data = net.compress(x)
    assert back.model_id == net.model_id and back.compress(x) == data
    assert torch.equal(back.decompress(data), net.decompress(data))
    pupil = tiny(seed=1, index_cost="adaptive")
    weights.load_into(pupil, tmp_path)
    assert torch.equal(pupil.prior_y.h, net.prior_y.h)


# -- Haar start ------------------------------------------------------------------------------------------------


def test_the_haar_start_equals_that_of_fllic(monkeypatch):
    """For small variations GDN is linear, and both codecs are the same transform and its inverse."""
    monkeypatch.setattr(haar, "SMALL", 0.0)
    net = ManyPriors(num_channels=192, num_latents=768, num_priors=2, latent_gain=1.0)
    fllic = FLLIC(widths=[12, 48, 192], num_latents=768, prior_width=8)
    x = 0.5 + 1e-3 * (torch.rand(1, 3, 48, 32) - 0.5)
    with torch.no_grad():
        y = net.analyse(x)
        torch.testing.assert_close(y, fllic.g_a(x - 0.5), atol=2e-7, rtol=0)
        torch.testing.assert_close(net.synthesise(y), x, atol=2e-7, rtol=0)


@pytest.mark.parametrize(("start", "least", "most"), [("haar", 32.0, 40.0), ("random", 0.0, 20.0)])
def test_only_a_haar_start_reconstructs_the_image_untrained(start, least, most):
    net = ManyPriors(num_channels=64, num_latents=256, num_priors=4, start=start).eval()
    image = embedded("test")[0][1]
    x = to_tensor(image[: image.shape[0] // 16 * 16, : image.shape[1] // 16 * 16])[None]
    with torch.no_grad():
        error = (net.synthesise(net.analyse(x).round()) - x).square().mean().item()
    assert least < -10 * math.log10(error) < most


def test_channels_beyond_the_packet_get_a_gradient():
    net = ManyPriors(num_channels=16, num_latents=24, num_priors=3).train()
    output = net(torch.rand(1, 3, 64, 64))
    (output.x_hat.square().mean() + sum(-torch.log2(p).mean() for p in output.likelihoods.values())).backward()
    beyond = net.g_a[2].weight.grad[:, 12:]  # second convolution: inputs from the 13th to 16th maps
    assert beyond.abs().amax((0, 2, 3)).gt(0).all()


def test_priors_start_at_different_scales_around_the_deviation_of_each_channel():
    prior = Competition(num_priors=5, num_latents=2).eval()
    with torch.no_grad():  # remove the random part that breaks symmetry
        for scalars in (prior.h, prior.b, prior.a):
            scalars.zero_()
    prior.spread(torch.tensor([8.0, 2e-3]))
    scale = math.sqrt(3) / math.pi * 8.0
    for number, factor in enumerate((1 / 8, 8**-0.5, 1, 8**0.5, 8)):
        rows = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
        p_rows = prior.likelihood(rows, torch.tensor([number, number]))[:, 0]
        for symbol, p in zip((0.0, 3.0), p_rows.tolist(), strict=True):
            ends = [1 / (1 + math.exp(-(symbol + side) / (scale * factor))) for side in (-0.5, 0.5)]
            assert p == pytest.approx(ends[1] - ends[0], rel=1e-3)
    # no density is narrower than MIN_SCALE
    assert prior.likelihood(torch.zeros(1, 2), torch.tensor([2]))[0, 1].item() > 0.99
    assert torch.isfinite(prior.h).all()


def test_an_unknown_start_is_refused():
    with pytest.raises(UserError, match=r"model\.start=wavelet is unknown: choose haar or random"):
        ManyPriors(num_channels=8, num_latents=8, start="wavelet")
