"""Denoisers on whole images: tiles without seams, any size, and the training-free denoisers."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jdcsuite.baselines.denoisers import BM3D, NonLocalMeans, is_named, named
from jdcsuite.judging import candidates
from jdcsuite.models.denoiser import tiled
from jdcsuite.models.unet import UNet
from jdcsuite.types import Output, UserError

BOUND = 1e-5  # difference between tiled and whole images: 1/400 of a grey level, the last bits of a float


def unet() -> UNet:
    """Weights with large gains at every depth, so that the whole receptive field shows."""
    torch.manual_seed(0)
    net = UNet(width=2).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(net.out.weight, std=0.03)
    nn.init.constant_(net.out.bias, 0.5)
    return net


def smooth(*, height: int, width: int) -> Tensor:
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.rand(1, 3, 6, 6), size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("size", [(300, 411), (113, 350), (352, 120)])
def test_tiles_of_a_u_net_have_no_seams(size: tuple[int, int]) -> None:
    net, x = unet(), torch.rand(1, 3, *size)
    whole = net.denoise(x, tile=0)
    assert whole.std() > 0.01
    assert (net.denoise(x, tile=64) - whole).abs().max() < BOUND


def test_the_margin_is_not_larger_than_the_receptive_field() -> None:
    net, x = unet(), torch.rand(1, 3, 16, 400)
    whole = net.denoise(x, tile=0)
    less = tiled(net._denoise_tile, x, tile=64, margin=net.margin - 32)
    assert (less - whole).abs().max() > BOUND


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (150, 16)])
def test_any_size_is_denoised_in_0_to_1(size: tuple[int, int]) -> None:
    net = unet().train()
    nn.init.constant_(net.out.bias, 1.0)
    out = net.denoise(torch.rand(1, 3, *size))
    assert out.shape == (1, 3, *size) and out.min() >= 0 and out.max() == 1 and not out.requires_grad
    assert net.training, "it is left as it was"


def test_at_most_a_tile_with_its_margin_is_computed_at_once() -> None:
    sizes = []

    class Watched(UNet):
        def forward(self, x: Tensor, *, sigma: Tensor | None = None, bpp_noisy: Tensor | None = None) -> Output:
            sizes.append(x.shape[-2:])
            return Output(x_hat=x)

    x = torch.rand(1, 3, 500, 1000)
    assert torch.equal(Watched(width=1).denoise(x, tile=128), x)
    assert len(sizes) == 4 * 8 and max(map(max, sizes)) == 128 + 2 * 112


def test_tiles_that_are_no_multiple_of_the_stride_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        UNet(width=1).denoise(torch.rand(1, 3, 9, 9), tile=100)


# -- training-free denoisers ------------------------------------------------------------------------------------


def noised(x: Tensor, *, sigma: float) -> Tensor:
    torch.manual_seed(2)
    return (x + sigma / 255 * torch.randn_like(x)).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


@pytest.mark.parametrize("sigma", [None, 15.0])
def test_non_local_means_denoises_without_seams(sigma: float | None) -> None:
    clean = smooth(height=150, width=190)
    noisy = noised(clean, sigma=15)
    denoiser = NonLocalMeans(sigma=sigma)
    whole = denoiser.denoise(noisy, tile=0)
    assert psnr(whole, clean) > psnr(noisy, clean) + 6
    assert (denoiser.denoise(noisy, tile=64) - whole).abs().max() < 1e-4
    assert whole.dtype == torch.float32 and whole.min() >= 0 and whole.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (9, 7)])
def test_non_local_means_takes_any_size_and_keeps_images_without_noise(size: tuple[int, int]) -> None:
    x = torch.full((1, 3, *size), 0.25)
    assert torch.allclose(NonLocalMeans().denoise(x), x, atol=1e-6)


def test_a_name_may_include_the_noise_level() -> None:
    assert named("nlm").sigma is None and named("nlm@5.5").sigma == 5.5
    assert named("avif@50") is None
    x = noised(smooth(height=40, width=40), sigma=10)
    assert torch.equal(named("nlm@10").denoise(x), NonLocalMeans(sigma=10).denoise(x))


def test_missing_bm3d_is_reported_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(UserError, match=r"pip install jdcsuite\[bm3d\]"):
        BM3D()


def test_bm3d_is_called_with_arrays_in_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package."""

    class Standin:
        @staticmethod
        def bm3d_rgb(z: np.ndarray, sigma_psd: float) -> np.ndarray:
            assert z.ndim == 3 and z.shape[-1] == 3 and sigma_psd == pytest.approx(10 / 255)
            return z + 2 * (z > 0.5)

    monkeypatch.setitem(sys.modules, "bm3d", Standin())
    x = torch.rand(1, 3, 20, 30)
    assert torch.equal(BM3D(sigma=10).denoise(x), torch.where(x > 0.5, 1.0, x))


# not a dependency of the tests because of its licence; `test_bm3d_is_called_with_arrays_in_its_units` runs without
@pytest.mark.skipif(importlib.util.find_spec("bm3d") is None, reason="an extra, not for commercial use")
def test_bm3d_denoises() -> None:
    clean = smooth(height=64, width=80)
    noisy = noised(clean, sigma=20)
    assert psnr(BM3D().denoise(noisy), clean) > psnr(noisy, clean) + 8
    flat = torch.full((1, 3, 5, 6), 0.5)
    assert torch.allclose(BM3D().denoise(flat), flat)


LIBRARY = """
class Half:
    def denoise(self, x):
        return x / 2


class Scaled:
    def __init__(self, sigma=None):
        self.sigma = sigma

    def denoise(self, x):
        return x * self.sigma


class Nothing:
    pass
"""


def test_a_librarys_denoiser_is_named_by_its_class_or_an_entry_point(tmp_path, monkeypatch) -> None:
    (tmp_path / "a_library.py").write_text(LIBRARY)
    info = tmp_path / "a_library-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a_library\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jdcsuite.denoisers]\nscaled = a_library:Scaled\n")
    monkeypatch.syspath_prepend(tmp_path)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(named("a_library.Half").denoise(x), x / 2)
    for word in ("a_library.Scaled@3", "scaled@3"):
        assert is_named(word) and torch.equal(named(word).denoise(x), 3 * x)
    assert not is_named("a_library.Missing") and named("no_such_library.Denoiser") is None
    assert not is_named("../runs/x.safetensors") and not is_named("runs") and not is_named("x.csv")
    with pytest.raises(UserError, match="takes no noise level: leave out @5"):
        named("a_library.Half@5")
    with pytest.raises(UserError, match=r"need a method denoise\(x\)"):
        named("a_library.Nothing")
    (candidate,) = candidates.parse(["a_library.Half+png"])
    assert candidate.row.method == "a_library.Half + png" and torch.equal(candidate.denoiser.denoise(x), x / 2)
