"""The flagship: conditions, initialisation, files, and the criterion that trains it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import experiment_scripts
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from jdcsuite.coding.conditions import (
    CODED,
    coding_error,
    conditions_of,
    default_quality,
    denoising_error,
    lmbda_of,
    removed_noise,
    request_conditions,
)
from jdcsuite.coding.container import pack, unpack
from jdcsuite.judging import metrics
from jdcsuite.models.conditioned import error_network
from jdcsuite.models.flagship import BLOCK, Flagship, dct_kernels
from jdcsuite.models.fllic import FLLIC
from jdcsuite.models.noise_level import ESTIMATES, RepeatedBorder, band_octaves
from jdcsuite.training.any_rate import AnyRate, latin_hypercube
from jdcsuite.training.task import CodecTask
from jdcsuite.types import CorruptFile, Output, Pair, Request, UserError

TINY = {"widths": [8, 8], "blocks": [1, 1], "num_latents": 24, "prior_width": 8, "embedding": 8}
TINY |= {"denoiser": [8, 1], "post_filter": [8, 1], "magnitudes": True, "passes": 4, "residuals": "logistic"}
TINY |= {"training_rate": "symbols", "noise_estimate": "bands"}


def tiny(*, seed: int = 0, **changes: object) -> Flagship:
    torch.manual_seed(seed)
    net = Flagship(**TINY | changes).eval()
    net.update()
    return net


def image(height: int, width: int, *, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Smooth shapes with some noise, (1, 3, h, w) in [0, 1]."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40
    shapes = np.stack([np.sin(x + 2 * c) * np.cos(y - c) for c in range(3)])[None] * 0.3 + 0.5
    noisy = shapes + random.standard_normal(shapes.shape) * noise / 255
    return torch.from_numpy(np.clip(np.rint(noisy * 255), 0, 255) / 255).float()


def pair(count: int = 4, *, side: int = 64, seed: int = 0) -> Pair:
    levels = [0.0, 5.0, 15.0, 40.0]
    clean = torch.cat([image(side, side, seed=i) for i in range(count)])
    noisy = torch.cat([image(side, side, noise=levels[i % 4], seed=seed + i) for i in range(count)])
    return Pair(noisy=noisy, clean=clean, sigma=torch.full((count,), math.nan))


# -- conditions ------------------------------------------------------------------------------------------------


def test_quality_is_a_logarithmic_scale_of_lmbda() -> None:
    assert [lmbda_of(q) for q in (0, 50, 100)] == [64, 64 * 32, 65536]
    torch.testing.assert_close(lmbda_of(torch.tensor([10.0, 20.0])), torch.tensor([128.0, 256.0]))


def test_the_default_quality_equates_coding_and_denoising_errors() -> None:
    for sigma in (5.0, 10.0, 25.0, 50.0):
        assert 2.16 / lmbda_of(default_quality(sigma)) == pytest.approx(denoising_error(sigma))
    assert default_quality(0.0) == default_quality(1.0) == 85.0 and default_quality(1e6) == 20.0
    # fitted to the PSNR of BM3D on Kodak24 at sigma 5, 10 and 20
    for sigma, db in ((5, 40.21), (10, 36.42), (20, 32.68)):
        assert -10 * math.log10(denoising_error(sigma)) == pytest.approx(db, abs=0.6)


@settings(deadline=None)
@given(quality=st.floats(0, 100), noise=st.floats(0, 5000), strength=st.floats(0, 1))
def test_training_uses_the_conditions_that_a_file_holds(quality: float, noise: float, strength: float) -> None:
    request = Request.of(quality=quality, noise=noise, strength=strength)
    assert abs(request.quality / 10 - quality) <= 0.0501 and abs(request.strength / 100 - strength) <= 0.00501
    assert abs(request.noise / 16 - min(noise, 4095.9375)) <= 0.0313
    conditions = conditions_of(
        **{n: torch.tensor([v], dtype=torch.float64)
           for n, v in (("quality", quality), ("noise", noise), ("strength", strength))}
    )  # fmt: skip
    assert torch.equal(conditions, request_conditions(request))
    assert conditions.min() >= 0 and conditions.max() <= 2.01


def test_a_request_outside_the_format_is_refused() -> None:
    for wrong in ({"quality": 100.1}, {"noise": -1.0}, {"strength": 1.01}, {"noise": math.nan}, {"noise": math.inf}):
        with pytest.raises(ValueError, match="outside the format"):
            Request.of(**{"quality": 50.0, "noise": 5.0, "strength": 1.0} | wrong)


# -- the transforms --------------------------------------------------------------------------------------------


def test_dct_kernels_are_orthonormal_and_equal_scipy() -> None:
    from scipy.fft import dctn

    kernels = dct_kernels(3 * BLOCK**2).double()
    flat = kernels.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(768).double(), atol=1e-6, rtol=0)
    block = np.random.default_rng(0).random((16, 16))
    luma = (kernels * torch.from_numpy(block)).sum((1, 2, 3))[kernels[:, 0].sum((1, 2)).abs() > -1]
    expected = np.sort(np.abs(np.concatenate([dctn(block, norm="ortho").ravel() * np.sqrt(3), np.zeros(512)])))
    np.testing.assert_allclose(np.sort(np.abs(luma.numpy())), expected, atol=1e-6)
    assert torch.equal(dct_kernels(5), dct_kernels(768)[:5])


def test_a_network_with_all_latents_is_initially_a_lossless_transform() -> None:
    net = tiny(num_latents=768, widths=[4, 4])
    with torch.no_grad():
        for last in (net.latents.module, net.leave[0], net.denoiser.leave[0], net.post_filter.leave[0]):
            last.weight.zero_()
        x = image(64, 96, noise=20)
        for quality in (0.0, 60.0, 100.0):
            conditions = request_conditions(Request.of(quality=quality, noise=3.0, strength=1.0)).float()
            torch.testing.assert_close(net.synthesise(net.analyse(x, conditions), conditions), x, atol=2e-5, rtol=0)


def test_the_initial_gain_suits_the_step_to_the_rate() -> None:
    net, x = tiny(), image(64, 64)
    with torch.no_grad():
        low, high = (
            net.analyse(x, request_conditions(Request.of(quality=q, noise=0.0, strength=1.0)).float())
            for q in (40.0, 60.0)
        )
    torch.testing.assert_close(high, 2 * low)  # lmbda is 4 times as large


def test_the_networks_depend_on_quality_noise_and_strength() -> None:
    net, x = tiny(), image(64, 64, noise=10)
    with torch.no_grad():
        for blocks in (net.fine_a, net.coarse_a, net.coarse_s, net.fine_s):
            for block in blocks:
                torch.nn.init.normal_(block.scale.weight)
        for gain in (net.gain_a, net.gain_s):
            torch.nn.init.normal_(gain.weight)
        usual = {"quality": 50.0, "noise": 10.0, "strength": 1.0}
        first = request_conditions(Request.of(**usual)).float()
        y = net.analyse(x, first)
        for change in ({"quality": 60.0}, {"noise": 30.0}, {"strength": 0.2}):
            other = request_conditions(Request.of(**usual | change)).float()
            assert not torch.allclose(net.analyse(x, other), y)
            assert not torch.allclose(net.synthesise(y, other), net.synthesise(y, first))
            for a, b in zip(*(net._entropy_parameters(torch.ones(1, 8, 1, 1), c) for c in (first, other)), strict=True):
                assert not torch.equal(a, b)


# -- noise estimate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 4)], ids=str)
def test_a_border_is_repeated_as_pytorch_repeats_it(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    net, plain = RepeatedBorder(4, 6, 3), nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate")
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 4, *size)
    assert torch.equal(net(x), plain(x))


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (5, 200)])
@pytest.mark.parametrize("sigma", [4.0, 40.0])
def test_bands_of_white_noise_have_its_level(size: tuple[int, int], sigma: float) -> None:
    noise = torch.randn(64, 3, *size, generator=torch.Generator().manual_seed(0)) * sigma / 255
    octaves = band_octaves(0.5 + noise)
    if min(size) < BLOCK:
        assert octaves.shape[2:] == (1, 200 // BLOCK) and octaves.isfinite().all()
        return
    assert octaves.shape[1:] == (21, size[0] // BLOCK, size[1] // BLOCK)
    energies = torch.exp2(2 * octaves).mean((0, 2, 3)) - 0.1
    # 6 % where a band of a colour has five coefficients in 8 blocks of 64 images
    assert energies.sqrt().numpy() == pytest.approx(np.full(21, sigma), rel=0.06)


def test_bands_tell_where_an_image_is_rough_and_ignore_its_mean() -> None:
    x = torch.full((1, 3, 32, 64), 0.25)
    x[..., 32:] += 0.1 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))  # grey
    octaves = band_octaves(x)[0].unflatten(0, (3, 7))
    silence = math.log2(0.1) / 2
    assert octaves[..., :2].numpy() == pytest.approx(np.full((3, 7, 2, 2), silence), abs=1e-3)
    assert (octaves[0, :, :, 2:] > silence + 3).all() and (octaves[1:, ..., 2:] < silence + 1e-2).all()


@pytest.mark.parametrize("estimate", ["bands", "convolutions"])
def test_noise_estimates_learn_and_take_images_of_any_size(estimate: str) -> None:
    torch.manual_seed(0)
    net = ESTIMATES[estimate]()
    for size in ((1, 1), (15, 40), (64, 64), (50, 17)):
        assert net(torch.rand(2, 3, *size)).shape == (2,)
    items = pair(4, side=64)
    level = 255 * (items.noisy - items.clean).square().mean((1, 2, 3)).sqrt()
    optimizer, losses = torch.optim.Adam(net.parameters(), 3e-3), []
    for _ in range(60):
        loss = (torch.log2(1 + net(items.noisy)) - torch.log2(1 + level)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < max(0.15 * losses[0], 0.02)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (3, 130), (100, 70)])
def test_a_file_holds_its_request_and_decodes_to_the_image_of_forward(size: tuple[int, int]) -> None:
    net, x = tiny(), image(*size, noise=10)
    data = net.compress(x, quality=73.26, sigma=7.03, strength=0.505)
    assert unpack(data).side.request == Request(quality=733, noise=112, strength=50) and data[3] == 3
    with torch.no_grad():
        tensors = {"quality": torch.tensor([73.3]), "strength": torch.tensor([0.5])}
        expected = net(x, sigma=torch.tensor([7.0]), **tensors).x_hat.clamp(0, 1)
    assert net.compress(x, quality=73.3, sigma=7.0, strength=0.5) == data
    # float32 and float64 may round a latent differently
    assert (net.decompress(data) - expected).abs().median() < 1e-4


def test_an_encoder_without_settings_estimates_and_chooses() -> None:
    net, x = tiny(), image(90, 64, noise=25)
    with torch.no_grad():
        expected = float(net.noise_level(x))
    request = unpack(net.compress(x)).side.request
    assert request.noise == round(16 * expected) and request.strength == 100
    assert request.quality == round(10 * default_quality(expected))
    tiled = unpack(net.compress(x, tile=64 * math.ceil(net.margin / 64))).side.request
    assert tiled.strength == 100


def test_higher_quality_costs_more_and_estimated_sizes_are_accurate() -> None:
    net, x = tiny(num_latents=192), image(192, 192, noise=4)
    sizes, errors = [], []
    for quality in (10.0, 40.0, 70.0, 100.0):
        data = net.compress(x, quality=quality, sigma=4.0)
        sizes.append(len(data))
        errors.append(float((net.decompress(data) - x).square().mean()))
        payload = sum(len(s) for t in unpack(data).tiles for s in t.segments)
        assert net.estimate_bytes(x, quality=quality, sigma=4.0) == pytest.approx(payload, rel=0.1)
    assert sizes == sorted(set(sizes)) and errors == sorted(errors, reverse=True)


def test_a_changed_request_is_detected() -> None:
    from dataclasses import replace

    net = tiny()
    contents = unpack(net.compress(image(64, 64), quality=50.0, sigma=5.0))
    for change in ({"quality": 510}, {"noise": 81}, {"strength": 99}, None):
        request = None if change is None else replace(contents.side.request, **change)
        forged = pack(replace(contents, side=replace(contents.side, request=request)))
        with pytest.raises(CorruptFile):
            net.decompress(forged)


def test_codecs_of_one_rate_refuse_requests_and_the_flagship_refuses_wrong_ones() -> None:
    plain = FLLIC(widths=[4, 4, 4], num_latents=4, prior_width=4).eval()
    plain.update()
    x = image(64, 64)
    assert plain.compress(x)[3] == 2
    for option in ({"quality": 50.0}, {"strength": 0.5}):
        with pytest.raises(UserError, match="one rate"):
            plain.compress(x, **option)
    for options, message in (
        ({"quality": 101.0}, "0 .* to 100"),
        ({"strength": -0.1}, "0 .* to 1"),
        ({"quality": math.nan}, "100"),
    ):
        with pytest.raises(UserError, match=message):
            tiny().compress(x, **options)
    with pytest.raises(UserError, match="num_latents"):
        Flagship(**TINY | {"num_latents": 769})
    with pytest.raises(UserError, match="noise_estimate=wavelets is unknown: choose bands or convolutions"):
        Flagship(**TINY | {"noise_estimate": "wavelets"})


def test_rows_hold_the_request_of_the_file() -> None:
    it = pair(1, side=64)
    row, _ = metrics.judge(tiny(), it, settings={"quality": 40.0})
    assert row.quality == 40.0 and row.lmbda == 1024 and row.strength == 1.0 and row.sigma_hat >= 0
    assert row.bpp_payload == pytest.approx(row.bpp_est, rel=0.1)


def test_the_noise_to_be_removed_is_read_from_the_conditions() -> None:
    for noise, strength in ((0.0, 1.0), (0.5, 1.0), (10.0, 0.5), (55.0, 0.01), (300.0, 1.0), (20.0, 0.0)):
        conditions = request_conditions(Request.of(quality=50.0, noise=noise, strength=strength))
        assert float(removed_noise(conditions)) == pytest.approx(noise * strength / 255, rel=1e-9)


# -- denoiser, post-filter and magnitudes -----------------------------------------------------------------------


@torch.no_grad()
def test_what_the_denoiser_removes_is_proportional_to_noise_and_strength() -> None:
    net, x = tiny(), image(64, 64, noise=20)
    net.denoiser.leave[0].weight.normal_(std=0.1)

    def removed(noise: float, strength: float) -> Tensor:
        conditions = request_conditions(Request.of(quality=50.0, noise=noise, strength=strength)).float()
        zeros = torch.zeros(1, TINY["embedding"])  # which the conditions change too
        return x - net._denoised(x, conditions, zeros)

    whole = removed(20.0, 1.0)
    assert float(whole.std()) > 0.005
    torch.testing.assert_close(removed(10.0, 1.0), whole / 2)
    torch.testing.assert_close(removed(20.0, 0.25), whole / 4)
    for nothing in (removed(0.0, 1.0), removed(20.0, 0.0)):
        assert float(nothing.abs().max()) == 0


@torch.no_grad()
def test_what_the_post_filter_changes_is_proportional_to_the_error_of_coding() -> None:
    net, x = tiny(), image(64, 64)
    net.post_filter.leave[0].weight.normal_(std=0.1)

    def changed(quality: float) -> Tensor:
        conditions = request_conditions(Request.of(quality=quality, noise=0.0, strength=1.0)).float()
        return x - net._filtered(x, conditions, torch.zeros(1, TINY["embedding"]))

    assert float(changed(20.0).std()) > 0.005
    torch.testing.assert_close(changed(40.0), changed(20.0) / 2)  # lmbda is 4 times as large
    for quality in (0.0, 35.5, 100.0):
        conditions = request_conditions(Request.of(quality=quality, noise=7.0, strength=0.5))
        assert float(coding_error(conditions)) ** 2 * lmbda_of(quality) == pytest.approx(CODED, rel=1e-9)


def test_gradients_reach_the_decoder_through_the_post_filter() -> None:
    net, it = tiny().train(), AnyRate().train().prepare(pair(4))
    net(it.noisy, sigma=it.sigma, **it.settings).x_hat.square().sum().backward()
    for part in (net.post_filter.enter, net.leave, net.linear_s, net.gain_s):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


def test_the_error_of_the_denoised_image_trains_the_denoiser_and_the_embedding_alone() -> None:
    net, it = tiny().train(), AnyRate().train().prepare(pair(4))
    output = net(it.noisy, sigma=it.sigma, **it.settings)
    assert output.denoised.shape == it.clean.shape
    (output.denoised - it.clean).square().sum().backward()
    reached = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"denoiser"} <= reached <= {"denoiser", "embed"}


@torch.no_grad()
def test_the_prior_is_given_latents_and_their_absolute_values() -> None:
    with_them, without = tiny(), tiny(magnitudes=False)
    m = TINY["num_latents"]
    assert with_them.h_a[0].in_channels == 2 * m and without.h_a[0].in_channels == m
    assert with_them.spatial_prior[0].in_channels - without.spatial_prior[0].in_channels == m
    y = torch.randn(1, m, 4, 4) * 10
    signed = with_them.h_a[0].weight[:, :m].clone()
    with_them.h_a[0].weight[:, :m] = 0  # what is left are absolute values
    assert torch.equal(with_them._hyper_latents(y), with_them._hyper_latents(-y))
    assert not torch.equal(with_them._hyper_latents(y), with_them._hyper_latents(2 * y))
    with_them.h_a[0].weight[:] = torch.cat([signed, torch.zeros_like(signed)], 1)
    state = with_them.h_a.state_dict() | {"0.weight": signed}
    without.h_a.load_state_dict(state)
    torch.testing.assert_close(with_them._hyper_latents(y), without._hyper_latents(y))


@torch.no_grad()
def test_weights_without_the_later_parts_can_still_be_used() -> None:
    old = tiny(
        denoiser=None, post_filter=None, magnitudes=False, passes=2, residuals="gaussian", noise_estimate="convolutions"
    )
    x = image(70, 90, noise=12)
    assert old.decompress(old.compress(x, quality=80.0)).shape == x.shape
    assert old(x).denoised is None


@torch.no_grad()
def test_coarser_levels_correct_the_features_before_the_last_block() -> None:
    torch.manual_seed(3)
    plain, pyramid = (error_network("model.denoiser", sizes, 8) for sizes in ([8, 2], [8, 2, 6, 1, 4, 1]))
    pyramid.load_state_dict(plain.state_dict(), strict=False)
    for last in (pyramid.coarse.up[0], pyramid.coarse.coarse.up[0]):
        last.weight.zero_(), last.bias.zero_()
    x, level, e = torch.rand(2, 3, 24, 16) - 0.5, torch.tensor([0.1, 0.2]), torch.randn(2, 8)
    expected = plain(x, level, e)
    assert torch.equal(pyramid(x, level, e), expected)
    pyramid.coarse.up[0].bias[5 * 4 : 6 * 4] = 0.7  # channel 5, at all four positions of a square
    by_hand = plain.enter(x)
    by_hand = plain.blocks[0](by_hand, e)
    by_hand[:, 5] += 0.7
    by_hand = level.view(2, 1, 1, 1) * plain.leave(plain.blocks[1](by_hand, e))
    torch.testing.assert_close(pyramid(x, level, e), by_hand)
    before = pyramid(x, level, e)
    pyramid.coarse.up[0].weight.normal_()
    middle = pyramid(x, level, e)
    pyramid.coarse.coarse.up[0].weight.normal_()
    assert not torch.equal(middle, before) and not torch.equal(pyramid(x, level, e), middle)


@pytest.mark.parametrize("part", ["denoiser", "post_filter"])
@pytest.mark.parametrize("wrong", [[0, 1], [8, -1], [8, 65], [64], [8, 1, 1], [8, 1, 4, 0], [8, 0, 4, 1], [4, 1] * 4])
def test_a_denoiser_or_post_filter_that_cannot_be_is_refused(wrong: list[int], part: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{part}"):
        tiny(**{part: wrong})


def test_widths_and_blocks_of_another_length_are_refused() -> None:
    for changes, message in (
        ({"blocks": [1]}, r"model\.blocks=\[1\]"),
        ({"widths": [8, 8, 8]}, r"model\.widths=.*two"),
    ):
        with pytest.raises(UserError, match=message):
            tiny(**changes)


# -- the criterion ---------------------------------------------------------------------------------------------


def test_rates_and_strengths_have_the_documented_distribution() -> None:
    criterion = AnyRate(ends=0.2, partial=0.3, blind=0.4, blur=0.15).train()
    it = pair(4, side=16)
    many = Pair(noisy=it.noisy.repeat(500, 1, 1, 1), clean=it.clean.repeat(500, 1, 1, 1), sigma=it.sigma.repeat(500))
    torch.manual_seed(0)
    drawn = criterion.prepare(many)
    quality, strength = drawn.settings["quality"], drawn.settings["strength"]
    assert ((quality == 0) | (quality == 100)).float().mean().item() == pytest.approx(0.2, abs=0.04)
    inner = quality[(quality > 0) & (quality < 100)]
    assert inner.mean().item() == pytest.approx(50, abs=3) and inner.std().item() == pytest.approx(28.9, abs=2)
    assert (strength < 1).float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert drawn.sigma.isnan().float().mean().item() == pytest.approx(0.4, abs=0.04)
    level = (many.noisy - many.clean).square().mean((1, 2, 3)).sqrt() * 255
    torch.testing.assert_close(drawn.level, level)
    given = ~drawn.sigma.isnan() & (level > 1)
    assert torch.log(drawn.sigma / level)[given].std().item() == pytest.approx(0.15, abs=0.02)
    kept = drawn.clean - many.clean
    torch.testing.assert_close(kept, (1 - strength)[:, None, None, None] * (many.noisy - many.clean))
    assert torch.equal(drawn.noisy, many.noisy)


def test_the_qualities_of_a_batch_cover_the_range() -> None:
    torch.manual_seed(0)
    drawn = latin_hypercube(3, 8, device=torch.device("cpu"))
    intervals = (8 * drawn).floor().long()
    assert torch.equal(intervals.sort(1).values, torch.arange(8).expand(3, 8)), "one in each eighth"
    assert len({tuple(row) for row in intervals.tolist()}) == 3, "in an order of their own"
    many = torch.cat([latin_hypercube(1, 8, device=torch.device("cpu")) for _ in range(500)])
    assert (8 * many - (8 * many).floor()).mean().item() == pytest.approx(0.5, abs=0.02), "anywhere within"
    assert many.mean(0).tolist() == pytest.approx([0.5] * 8, abs=0.05), "at any place of the batch"
    it = pair(4, side=16)
    for _ in range(20):
        quality = AnyRate(ends=0.0).train().prepare(it).settings["quality"]
        assert torch.equal((quality / 25).floor().sort().values, torch.arange(4.0))


def test_validation_uses_one_rate_and_draws_nothing() -> None:
    criterion, it = AnyRate().eval(), pair()
    first, second = criterion.prepare(it), criterion.prepare(it)
    assert torch.equal(first.clean, it.clean) and torch.equal(first.settings["quality"], second.settings["quality"])
    assert first.settings["quality"].unique().tolist() == [60.0] and first.sigma.isnan().all()


def test_what_validation_logs_is_of_the_same_settings_as_its_loss() -> None:
    """PSNR and rate were those of quality 50 and a noise level that the encoder was told."""
    told = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor, *, sigma: Tensor, bpp_noisy: Tensor | None = None, **settings: Tensor) -> Output:
            told.append((bool(sigma.isnan().all()), *(float(settings[name][0]) for name in ("quality", "strength"))))
            p = torch.full((len(x), 1, 8, 8), 0.5)
            return Output(x_hat=x, likelihoods={"y": p}, sigma_hat=torch.ones(len(x)))

    task = CodecTask(
        model=Recorder(), criterion=AnyRate().eval(), optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=lambda step: 1.0, max_norm=1.0, seed=0,
    )  # fmt: skip
    task.eval()
    task.validation_step(("a.png", pair(1)), 0)
    assert told == [(True, 60.0, 1.0)] * len(told) and told


def test_the_loss_equals_numpy() -> None:
    it = AnyRate(partial=1.0).train().prepare(pair(4, side=16))
    bpp, x_hat = np.array([0.5, 1.0, 2.0, 3.0]), it.clean + 0.02
    p = torch.full((4, 1, 16, 16), 0.5) ** torch.tensor(bpp).float()[:, None, None, None]
    criterion = AnyRate(estimate=0.5, denoised=0.25)
    output = Output(x_hat=x_hat, likelihoods={"y": p}, sigma_hat=torch.tensor([1.0, 5.0, 10.0, 30.0]))
    lmbda, level = (t.double().numpy() for t in (lmbda_of(it.settings["quality"]), it.level))
    octaves = np.abs(np.log2(1 + np.array([1.0, 5.0, 10.0, 30.0])) - np.log2(1 + level))
    smooth = np.where(octaves < 1, octaves**2 / 2, octaves - 0.5).mean()
    remaining = 0.03**2 / (1.45e-5 * np.maximum(level, 1) ** 1.18)
    expected = 2.16 * np.log(1 + (bpp + lmbda * 0.02**2) / 2.16).mean() + 0.5 * smooth
    assert float(criterion(output, it)["loss"]) == pytest.approx(expected, rel=1e-4)
    with_denoiser = criterion(replace(output, denoised=it.clean - 0.03), it)["loss"]
    assert float(with_denoiser) == pytest.approx(expected + 0.25 * np.log(1 + remaining).mean(), rel=1e-4)


def test_no_crop_dominates_the_gradient() -> None:
    """Noise that is kept at a high quality costs a hundred times what other crops cost, as latents cannot hold it."""
    it = AnyRate().train().prepare(pair(2, side=16))
    it = replace(it, settings={"quality": torch.tensor([90.0, 90.0]), "strength": torch.tensor([1.0, 0.0])})
    x_hat = torch.stack([it.clean[0] + 0.003, it.clean[1] + 0.1]).requires_grad_()
    p = torch.full((2, 1, 16, 16), 0.5)
    parts = AnyRate()(Output(x_hat=x_hat, likelihoods={"y": p}, sigma_hat=it.level), it)
    assert float(parts["cost"]) > 100
    parts["loss"].backward()
    norms = x_hat.grad.flatten(1).norm(dim=1)
    assert float(norms[1] / norms[0]) < 2


def test_shares_outside_0_to_1_are_refused() -> None:
    for wrong in ({"ends": 1.1}, {"blind": -0.1}, {"blur": -1.0}, {"estimate": math.inf}, {"denoised": -1.0}):
        with pytest.raises(UserError, match="criterion"):
            AnyRate(**wrong)


def test_a_few_steps_improve_rate_image_and_noise_estimate() -> None:
    torch.manual_seed(0)
    net, criterion = Flagship(**TINY | {"num_latents": 96}).train(), AnyRate().train()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses, octaves = [], []
    for step in range(60):
        it = criterion.prepare(pair(8, seed=100 * step))
        parts = criterion(net(it.noisy, sigma=it.sigma, **it.settings), it)
        optimizer.zero_grad()
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(parts["loss"]))
        octaves.append(float(parts["sigma_octaves"]))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert np.mean(octaves[-10:]) < 0.6 * np.mean(octaves[:10])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@torch.no_grad()
@pytest.mark.parametrize("passes", [2, 4])
def test_a_widened_network_keeps_its_symbols_and_gains_coefficients(passes: int) -> None:
    script = experiment_scripts.load("flagship/widen.py")
    old, config = tiny(passes=passes), {"_target_": "jdcsuite.models.flagship.Flagship", **TINY, "passes": passes}
    for p in old.parameters():
        p.add_(torch.randn_like(p) * 0.02)
    old.update()
    new, config = script.widened(old, config, 40)
    new.update()
    assert config["num_latents"] == 40 and new.num_latents == 40
    x = image(128, 64, noise=12)
    conditions = request_conditions(Request.of(quality=80.0, noise=12.0, strength=1.0)).float()
    kept = [*range(12), *range(20, 32)] if passes == 2 else [*range(24)]
    before, after = (net._relaxed(net.analyse(x, conditions), conditions)[0] for net in (old, new))
    torch.testing.assert_close(after[:, kept], before, atol=1e-4, rtol=1e-4)
    more = (after[:, sorted({*range(40)} - {*kept})] != 0).float().mean()
    assert more > 0.01, "the new channels carry something"
    decoded = [new.decompress(new.compress(x, quality=80.0)), old.decompress(old.compress(x, quality=80.0))]
    errors = [float((one - x).square().mean()) for one in decoded]
    assert errors[0] < errors[1]
    with pytest.raises(UserError, match="give more"):
        script.widened(old, config, 24)
