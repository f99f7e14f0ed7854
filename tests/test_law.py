"""The law of training noise: shares, levels, each kind, and independence of ranks."""

from __future__ import annotations

import io
from pathlib import Path

import kornia.color as kornia
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from scipy.fft import dctn
from torch._subclasses.fake_tensor import FakeTensorMode

from jdcsuite.data import law as module
from jdcsuite.data.augment import Augmentation
from jdcsuite.data.camera import PARAMETERS, bayer, camera_noise, demosaic, mosaic
from jdcsuite.data.draw import Draw
from jdcsuite.data.law import NoiseLaw
from jdcsuite.data.noise import GaussianNoise, Noise
from jdcsuite.data.recompression import STEEPNESS, jpeg, table
from jdcsuite.imaging.dct import block_dct, block_idct
from jdcsuite.types import UserError

CONF = Path(__file__).parents[1] / "conf"
PATTERNS = {(0, 0): "BG", (0, 1): "GB", (1, 1): "RG", (1, 0): "GR"}  # row and column of the first red sample


def grey(count: int, side: int = 32, level: float = 0.5) -> torch.Tensor:
    return torch.full((count, 3, side, side), level)


def textured(count: int, side: int = 64) -> torch.Tensor:
    """Smooth gradients with fine texture, in colour."""
    random = torch.Generator().manual_seed(0)
    hills = torch.rand(count, 3, side // 16, side // 16, generator=random)
    hills = torch.nn.functional.interpolate(hills, size=(side, side), mode="bilinear")
    return (0.15 + 0.6 * hills + 0.2 * torch.rand(count, 1, side, side, generator=random)).clamp(0, 1)


def rms(x: torch.Tensor) -> torch.Tensor:
    return x.square().mean((1, 2, 3)).sqrt()


def neighbours(noise: torch.Tensor) -> torch.Tensor:
    """Correlation of horizontal neighbours in each image."""
    return (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3)) / noise.square().mean((1, 2, 3))


def only(level: float, **shares: float) -> NoiseLaw:
    """A single level; ``shares`` may choose a single kind."""
    options = dict.fromkeys(("none", "poisson", "camera", "jpeg"), 0.0)
    options |= {"logarithmic": 1.0, "lowest": level, "highest": level}
    return NoiseLaw(protocol="float", **(options | shares))


# -- the law ---------------------------------------------------------------------------------------------------


def test_levels_follow_the_mixture() -> None:
    law = NoiseLaw(protocol="float", poisson=0, camera=0, jpeg=0)
    drawn = np.sort(255 * rms(law(grey(4000), Draw.whole(4000, seed=0)) - 0.5).numpy())
    assert (drawn == 0).mean() == pytest.approx(0.15, abs=0.02)
    logarithmic = np.clip(np.log(np.maximum(drawn, 1e-9) / 1.5) / np.log(55 / 1.5), 0, 1)
    expected = 0.15 + 0.55 * logarithmic + 0.3 * np.clip(drawn / 55, 0, 1)
    empirical = np.arange(1, 4001) / 4000
    assert np.abs(empirical - expected)[drawn > 0].max() < 0.03  # Kolmogorov-Smirnov: 1e-3 of all draws are beyond .031


def test_kinds_have_their_shares_and_are_independent_of_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "camera_noise", lambda clean, **_: torch.full_like(clean, 9.0))
    halves = torch.cat([grey(16, 16, 0.05)[..., :8], grey(16, 16, 0.95)[..., :8]], -1)
    camera, poisson, levels = [], [], []
    for seed in range(200):
        noise = NoiseLaw(protocol="float", none=0, jpeg=0)(halves, Draw.whole(16, seed=seed)) - halves
        camera.append((noise.amin((1, 2, 3)) - 9).abs() < 1e-5)
        poisson.append(noise[..., 8:].var((1, 2, 3)) > 2 * noise[..., :8].var((1, 2, 3)))
        levels.append(rms(noise))
    camera, poisson, levels = (torch.stack(x) for x in (camera, poisson, levels))
    assert camera.float().mean() == pytest.approx(0.15, abs=0.01)
    assert not camera[:, :13].any() and camera[:, 13:].float().mean() == pytest.approx(0.8, abs=0.06)
    # twice the variance on the bright side if the share of shot noise is 36 % or more: 64 % of these images
    share = poisson[~camera].float().mean().item()
    assert share == pytest.approx(0.64 * 0.25 / 0.85, abs=0.03)
    with_shot, without = (levels[chosen].median().item() for chosen in (poisson & ~camera, ~poisson & ~camera))
    assert with_shot == pytest.approx(without, rel=0.2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_noise_depends_on_the_sample_not_the_rank(world: int) -> None:
    clean, law, augment = (
        textured(8, 32),
        NoiseLaw(protocol="float", camera=0.5, jpeg=0.5),
        Augmentation(exposure=1, colours=1),
    )

    def at(places: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = [16 + place for place in places]
        draw = Draw(numbers=numbers, seeds=numbers, batch=8, seed=3, device="cpu")
        mine = augment(clean[places], draw)
        return mine, law(mine, draw)

    torch.manual_seed(world)
    whole = at(list(range(8)))
    for rank in range(world):
        places = list(range(rank, 8, world))
        for of_rank, of_all in zip(at(places), whole, strict=True):
            torch.testing.assert_close(of_rank, of_all[places], atol=1e-6, rtol=0)
    torch.testing.assert_close(at([6, 1])[1], whole[1][[6, 1]], atol=1e-6, rtol=0)
    assert not torch.equal(law(clean, Draw.whole(8, seed=1)), law(clean, Draw.whole(8, seed=2)))


def test_nothing_is_read_back_from_the_device() -> None:
    """On meta tensors, reading a value (item, tolist, a mask as an index) is an error."""
    with FakeTensorMode():
        draw = Draw.whole(4, seed=0)
        clean = Augmentation()(torch.rand(4, 3, 16, 16), draw)
        assert NoiseLaw(camera=0.5, jpeg=0.5)(clean, draw).shape == (4, 3, 16, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="waiting for a GPU shows on a GPU alone")
def test_the_cpu_does_not_wait_for_a_gpu() -> None:
    clean, law, augment = textured(4).cuda(), NoiseLaw(camera=0.5, jpeg=0.5), Augmentation()
    law(clean, Draw.whole(4, seed=0, device="cuda"))  # loads the kernels
    draw = Draw.whole(4, seed=1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        law(augment(clean, draw), draw)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_noisy_images_are_8_bit_or_as_drawn() -> None:
    clean, draws = textured(8), [Draw.whole(8, seed=1), Draw.whole(8, seed=1)]
    rounded, drawn = (
        NoiseLaw(protocol=p, none=0, jpeg=0)(clean, d) for p, d in zip(("clip8", "float"), draws, strict=True)
    )
    levels = rounded.double().numpy() * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=2e-5)
    torch.testing.assert_close(rounded, drawn.clamp(0, 1), atol=0.5001 / 255, rtol=0)
    assert ((drawn * 255 - (drawn * 255).round()).abs() > 0.1).float().mean() > 0.7


def test_sigma_zero_changes_nothing() -> None:
    clean = (textured(6) * 255).round() / 255
    torch.testing.assert_close(NoiseLaw(none=1, logarithmic=0, jpeg=0)(clean, Draw.whole(6, seed=0)), clean)


def test_test_noise_is_gaussian() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    law = NoiseLaw(sigma=25)
    assert isinstance(law, Noise) and law.sigma == 25
    assert torch.equal(law.fixed(picture, seed=3), GaussianNoise(sigma=25).fixed(picture, seed=3))
    with pytest.raises(UserError, match="no level for tests: give it sigma"):
        NoiseLaw().fixed(picture, seed=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"protocol": "clip16"}, "choose clip8 or float"),
        ({"none": -0.1}, "none=-0.1 is not usable"),
        ({"camera": 1.5}, "camera=1.5 is not usable"),
        ({"jpeg": 0.6}, "jpeg=0.6 is not usable"),
        ({"none": 0.6}, "none and logarithmic are together over 1"),
        ({"poisson": 0.9}, "poisson and camera are together over 1"),
        ({"lowest": 0}, "levels from 0 to 55.0 are no range"),
        ({"highest": float("nan")}, "levels from 1.5 to nan"),
        ({"sigma": -1.0}, "sigma=-1.0"),
    ],
)
def test_impossible_settings_are_refused(options: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        NoiseLaw(**options)


def test_the_configuration_holds_the_defaults() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["data=noise_law"]).data
    law, augment = instantiate(config.training_noise), instantiate(config.augment)
    assert vars(law) == pytest.approx(vars(NoiseLaw()), nan_ok=True) and law.protocol == "law to 55 clip8"
    assert vars(augment) == vars(Augmentation())


# -- Poisson-Gaussian ------------------------------------------------------------------------------------------


def test_signal_dependent_noise_has_the_mean_and_variance_of_poisson_gaussian() -> None:
    """Variance a x + b^2 and an unchanged mean: against the formula, and against drawn Poisson counts."""
    dark, bright, level = 0.2, 0.8, 20 / 255
    clean = torch.cat([grey(1, 256, dark), grey(1, 256, bright)], -1)
    for shot in (0.0, 0.5, 1.0):
        share = torch.full((1, 1, 1, 1), shot)
        deviation = module._deviation(clean, torch.full((1, 1, 1, 1), level), shot=share)
        a, b = shot * level**2 / 0.5, (1 - shot) ** 0.5 * level
        for x, side in ((dark, deviation[..., :256]), (bright, deviation[..., 256:])):
            assert side.std() < 1e-5 and side.mean().item() ** 2 == pytest.approx(a * x + b * b, rel=1e-4)
            if a:
                random = np.random.default_rng(0)
                exact = a * random.poisson(x / a, 200000) + b * random.standard_normal(200000)
                assert exact.mean() == pytest.approx(x, abs=0.001)
                assert exact.var() == pytest.approx(side.mean().item() ** 2, rel=0.02)


def test_poisson_gaussian_images_have_their_level_and_any_share_of_shot_noise() -> None:
    clean = torch.cat([grey(64, 64, 0.1), grey(64, 64, 0.9)], -1)
    noise = only(15, poisson=1.0)(clean, Draw.whole(64, seed=0)) - clean
    assert (255 * rms(noise)).numpy() == pytest.approx(np.full(64, 15), rel=0.04)
    assert noise.mean().abs() * 255 < 0.1
    ratio = noise[..., 64:].var((1, 2, 3)) / noise[..., :64].var((1, 2, 3))
    assert ratio.min() > 0.9 and ratio.max() < 9.8, "from 1 to .9 / .1"
    assert ratio.min() < 1.3 and ratio.max() > 6
    assert neighbours(noise).abs().max() < 0.05


# -- camera-like noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_mosaic_and_demosaicing_equal_kornias(pattern: tuple[int, int]) -> None:
    rgb, cfa = torch.rand(2, 3, 12, 16), kornia.CFA[PATTERNS[pattern]]
    row, column = (torch.full((2, 1, 1, 1), bool(odd)) for odd in pattern)
    red, blue = bayer(rgb, row=row, column=column)
    raw = mosaic(rgb, red, blue)
    assert torch.equal(raw, kornia.rgb_to_raw(rgb, cfa))
    inner = (..., slice(2, -2), slice(2, -2))  # kornia repeats red and blue at the border
    torch.testing.assert_close(demosaic(raw, red, blue)[inner], kornia.raw_to_rgb(raw, cfa)[inner])
    torch.testing.assert_close(demosaic(raw, red, blue).gather(1, _seen(red, blue)), raw)


def _seen(red: torch.Tensor, blue: torch.Tensor) -> torch.Tensor:
    return torch.where(red, 0, torch.where(blue, 2, 1))


def test_a_linear_ramp_is_demosaiced_exactly_at_any_size() -> None:
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    rgb = torch.stack([rows, 2 * columns, rows + columns])[None] / 20
    red, blue = bayer(rgb, row=torch.zeros(1, 1, 1, 1, dtype=bool), column=torch.ones(1, 1, 1, 1, dtype=bool))
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(demosaic(mosaic(rgb, red, blue), red, blue)[inner], rgb[inner])


def drawn(clean: torch.Tensor, level: float, seed: int = 0) -> torch.Tensor:
    draw = Draw.whole(len(clean), seed=seed)
    return camera_noise(
        clean, level=torch.full((len(clean), 1, 1, 1), level / 255), normal=draw.normal(*clean.shape[1:]),
        uniform=draw.uniform(PARAMETERS),
    )  # fmt: skip


@pytest.mark.parametrize("level", [1.5, 15.0, 55.0])
def test_camera_noise_has_its_level_zero_mean_and_realistic_correlation(level: float) -> None:
    noise = drawn(textured(64), level)
    assert (255 * rms(noise)).numpy() == pytest.approx(np.full(64, level), rel=1e-3)
    assert (255 * noise.mean((1, 2, 3))).abs().max() < 1e-3 * level
    correlation = neighbours(noise)
    assert correlation.min() < 0.2 and correlation.max() > 0.8
    assert 0.55 < correlation.median() < 0.85  # cc15 .73, polyu_crops .70, sidd_small_256 .01


def test_camera_noise_of_colour_has_the_coarse_grain_of_developed_photographs() -> None:
    """Correlation at 1, 2, 4 and 8 pixels, in luminance and colour: the measured medians of cc15, polyu_crops and
    sidd_small_256 (which was scaled down) lie between the extremes that are drawn, as do their shares of colour."""
    noise = drawn(textured(64, 128), 10.0)
    grey = noise.mean(1, keepdim=True)
    colour = noise - grey

    def at(x: torch.Tensor, distance: int) -> torch.Tensor:
        return (x[..., distance:] * x[..., :-distance]).mean((1, 2, 3)) / x.square().mean((1, 2, 3))

    measured = {  # luminance, colour
        1: [(0.63, 0.90), (0.68, 0.92), (0.01, 0.01)],
        2: [(0.20, 0.71), (0.35, 0.83), (0.01, 0.01)],
        4: [(0.04, 0.37), (0.17, 0.61), (0.01, 0.01)],
        8: [(0.01, 0.06), (0.07, 0.26), (0.01, 0.01)],
    }
    for distance, pairs in measured.items():
        for part, values in zip((grey, colour), zip(*pairs, strict=True), strict=True):
            correlation = at(part, distance)
            assert correlation.min() - 0.05 < min(values) and max(values) < correlation.max() + 0.03, distance
    share = rms(colour) / rms(grey)
    assert share.min() < 0.52 and share.max() > 1.11, "the measured shares are .52 to 1.11"


def test_camera_noise_is_not_the_blur_of_demosaicing() -> None:
    clean = textured(16)
    red, blue = bayer(clean, row=torch.zeros(16, 1, 1, 1, dtype=bool), column=torch.zeros(16, 1, 1, 1, dtype=bool))
    blur = demosaic(mosaic(clean, red, blue), red, blue) - clean
    assert (255 * rms(blur)).min() > 5, "there is blur that could be mistaken for noise"
    noise = drawn(clean, 5.0)
    correlation = (noise * blur).mean((1, 2, 3)) / (rms(noise) * rms(blur))
    assert correlation.abs().max() < 0.06


def test_camera_noise_is_finite_for_black_white_and_level_zero() -> None:
    for level in (0.0, 1.5, 55.0):
        for picture in (grey(8, 16, 0.0), grey(8, 16, 1.0), grey(8, 2)):
            assert drawn(picture, level).isfinite().all()
    assert drawn(textured(4), 0.0).abs().max() == 0


# -- JPEG ------------------------------------------------------------------------------------------------------


def by_pillow(pixels: np.ndarray, step: float, *, halved: bool) -> np.ndarray:
    """libjpeg's image, with our tables."""
    tables = [table(torch.full((1, 1, 1, 1), step), steepness).int().flatten().tolist() for steepness in STEEPNESS]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", qtables=tables, subsampling="4:2:0" if halved else "4:4:4")
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("size", [(48, 64), (17, 33)])
@pytest.mark.parametrize("step", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("coloured", [False, True])
def test_jpeg_equals_libjpegs(size: tuple[int, int], step: float, *, halved: bool, coloured: bool) -> None:
    x = (255 * textured(1, 64)[..., : size[0], : size[1]]).round() / 255
    x = x if coloured else x[:, :1].expand(-1, 3, -1, -1)
    settings = {"step": torch.full((1, 1, 1, 1), step), "halved": torch.full((1, 1, 1, 1), halved)}
    pixels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
    ours = 255 * jpeg(x, **settings)[0].permute(1, 2, 0).double().numpy() - pixels
    theirs = by_pillow(pixels, step, halved=halved).astype(float) - pixels
    # libjpeg rounds colours to integers first, and ties of coefficients the other way, so that some come out one step
    # apart and with them their blocks
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > (0.85 if coloured else 0.95) or step == 1
    assert coloured or np.median(np.abs(ours - theirs)) < 0.5
    assert ours.std() == pytest.approx(theirs.std(), rel=0.1, abs=0.3)


def test_jpeg_reaches_its_share_and_half_of_the_camera_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.recompression, "jpeg", lambda x, **_: torch.full_like(x, 0.125))
    law, coded = NoiseLaw(protocol="float", none=0), []
    for seed in range(200):
        coded.append((law(grey(16, 16), Draw.whole(16, seed=seed)) == 0.125).all(-1).all(-1).all(-1))
    share = torch.stack(coded).float()
    assert share.mean() == pytest.approx(0.15, abs=0.01)
    # camera noise is in the last three places
    assert not share[:, :11].any() and share[:, 13:].mean() == pytest.approx(0.5, abs=0.06)


def test_jpeg_removes_the_noise_of_flat_parts_but_not_of_others() -> None:
    clean = torch.cat([grey(16, 64), textured(16, 64)], -1)
    noisy = only(3)(clean, Draw.whole(16, seed=0))
    settings = {"step": torch.full((16, 1, 1, 1), 6.0), "halved": torch.ones(16, 1, 1, 1, dtype=torch.bool)}
    noise = jpeg(noisy, **settings) - clean
    flat, rough = 255 * rms(noise[..., :64]), 255 * rms(noise[..., 64:])
    assert flat.max() < 1.5 and rough.min() > 3


# -- the DCT of blocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 16])
def test_the_dct_of_blocks_equals_scipys_and_is_inverted(side: int) -> None:
    x = torch.rand(2, 3, 3 * side, 2 * side)
    coefficients = block_dct(x, side)
    expected = dctn(x[1, 2, side : 2 * side, :side].numpy(), norm="ortho")
    np.testing.assert_allclose(coefficients[1, 2, 1, :, 0, :].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(block_idct(coefficients), x, atol=1e-5, rtol=0)
