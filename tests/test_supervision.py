"""Supervision: which images of the data each kind of it looks at, and what it makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jdcsuite.data.draw import Draw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.training.criteria import mse
from jdcsuite.training.supervision import CleanInput, NoisyTarget, Recorrupted, Supervised, Taught
from jdcsuite.types import Output, Pair, UserError


class Blur(nn.Module):
    """A denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, *, sigma: Tensor | None = None, bpp_noisy: Tensor | None = None) -> Output:
        return Output(x_hat=self.gain * nn.functional.avg_pool2d(x, 5, stride=1, padding=2))


def pair(*, noise: list[float], side: int = 180) -> Pair:
    """Smooth images with noise of these standard deviations, on [0, 1]; ``sigma`` numbers the images."""
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(len(noise), 3, 9, 9), size=(side, side), mode="bicubic").clamp(0, 1)
    noisy = smooth + torch.tensor(noise)[:, None, None, None] * torch.randn_like(smooth)
    number = torch.arange(float(len(noise)))
    return Pair(noisy=noisy.clamp(0, 1), clean=smooth, sigma=number, bpp_noisy=10 + number, bpp_clean=5 + number)


def without(kind: str, batch: Pair) -> Pair:
    """The batch with NaN in place of everything that comes from its noisy or its clean images."""
    unknown = {name: torch.full_like(getattr(batch, name), math.nan) for name in (kind, f"bpp_{kind}")}
    return replace(batch, **unknown)


def results(supervision: nn.Module, batch: Pair) -> list[Tensor]:
    """Everything in the Pair of a supervision that depends on images."""
    torch.manual_seed(0)
    result = supervision(batch)
    values = (result.noisy, result.clean, result.bpp_noisy, result.bpp_clean, result.weight)
    return [value for value in values if value is not None]


IGNORES = {
    "Supervised": (None, Supervised),
    "CleanInput": ("noisy", CleanInput),
    "NoisyTarget": ("clean", NoisyTarget),
    "Recorrupted": ("clean", Recorrupted),
    "Taught": ("clean", lambda: Taught(teacher=Blur())),
    "Taught without threshold": ("clean", lambda: Taught(teacher=Blur(), min_ms_ssim=None)),
}


@pytest.mark.parametrize("name", IGNORES)
def test_an_ignored_image_has_no_influence_and_the_other_one_has(name: str) -> None:
    ignored, supervision = IGNORES[name]
    batch = pair(noise=[0.01, 0.9, 0.02])
    expected = results(supervision(), batch)
    assert len(expected) >= 3 and all(value.isfinite().all() for value in expected)
    for kind in ("noisy", "clean"):
        result = results(supervision(), without(kind, batch))
        unchanged = all(torch.equal(a, b) for a, b in zip(expected, result, strict=True))
        assert unchanged == (kind == ignored), kind


def test_input_and_target() -> None:
    batch = pair(noise=[0.01, 0.9])
    assert Supervised()(batch) is batch
    plain = CleanInput()(batch)
    assert torch.equal(plain.noisy, batch.clean) and torch.equal(plain.clean, batch.clean)
    assert plain.sigma.tolist() == [0, 0] and torch.equal(plain.bpp_noisy, batch.bpp_clean)
    noisy = NoisyTarget()(batch)
    assert torch.equal(noisy.noisy, batch.noisy) and torch.equal(noisy.clean, batch.noisy)
    assert torch.equal(noisy.sigma, batch.sigma) and noisy.weight is None
    untaught = Taught(teacher=Blur(), min_ms_ssim=None)(batch)
    assert torch.equal(untaught.noisy, batch.noisy) and torch.equal(untaught.clean, Blur()(batch.noisy).x_hat)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_recorrupted_adds_and_subtracts_the_same_noise_of_the_sigma_of_each_image(alpha: float) -> None:
    torch.manual_seed(0)
    sigma = torch.tensor([5.0, 20.0])
    batch = Pair(noisy=torch.rand(2, 3, 128, 128), clean=torch.zeros(2, 3, 128, 128), sigma=sigma)
    result = Recorrupted(alpha=alpha)(batch)
    added, removed = (result.noisy - batch.noisy) / alpha, (batch.noisy - result.clean) * alpha
    torch.testing.assert_close(added, removed, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(added.flatten(1).std(1).numpy() * 255, sigma.numpy(), rtol=0.02)
    np.testing.assert_allclose(added.flatten(1).mean(1).numpy(), 0, atol=0.002)


def test_recorrupted_gives_weight_0_to_saturated_samples_only() -> None:
    clean = torch.rand(2, 3, 32, 32)
    noisy = GaussianNoise(sigma=60)(clean, Draw.whole(2, seed=0))
    result = Recorrupted()(Pair(noisy=noisy, clean=clean, sigma=torch.full((2,), 60.0)))
    assert torch.equal(result.weight, ((noisy > 0) & (noisy < 1)).float())
    assert 0.1 < result.weight.mean() < 0.9


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_the_best_linear_estimator_under_recorrupted_is_the_supervised_one(alpha: float) -> None:
    """Gaussian samples of standard deviation s under noise of standard deviation n: slope s^2 / (s^2 + (1 + alpha^2)
    n^2)."""
    s, sigma, side = 0.06, 12.0, 512
    generator = torch.Generator().manual_seed(1)
    clean = 0.5 + s * torch.randn(2, 3, side, side, generator=generator)
    noisy = clean + sigma / 255 * torch.randn(clean.shape, generator=generator)
    torch.manual_seed(2)
    batch = Recorrupted(alpha=alpha)(Pair(noisy=noisy, clean=clean, sigma=torch.full((2,), sigma)))

    def slope(target: Tensor) -> float:
        x, t = (v.double().flatten() - v.double().mean() for v in (batch.noisy, target))
        return float(x @ t / (x @ x))

    closed = s**2 / (s**2 + (1 + alpha**2) * (sigma / 255) ** 2)
    assert slope(batch.clean) == pytest.approx(closed, abs=0.006)
    assert slope(clean) == pytest.approx(closed, abs=0.003)
    assert slope(noisy) > closed + 0.1, "the noisy image as the target is biased"
    # the loss differs from the supervised one by a constant, so both have the same minimum
    differences = []
    for w in (closed - 0.2, closed, closed + 0.2):
        x_hat = 0.5 + w * (batch.noisy - 0.5)
        blind, supervised = (mse(x_hat, it).mean().item() for it in (batch, replace(batch, clean=clean)))
        differences.append(blind - supervised)
    np.testing.assert_allclose(differences, (1 + 1 / alpha**2) * (sigma / 255) ** 2, rtol=0.02)


def test_taught_keeps_the_crops_whose_target_resembles_the_input() -> None:
    batch = pair(noise=[0.01, 0.9, 0.02, 0.9, 0.9])
    supervision = Taught(teacher=Blur())
    result = supervision(batch)
    assert result.sigma.tolist() in ([0, 0, 2, 2, 0], [0, 2, 2, 2, 0]), "crops 1, 3 and 4 are replaced by 0 and 2"
    assert torch.equal(result.bpp_noisy, 10 + result.sigma), "all of a crop is replaced"
    for noisy, target, number in zip(result.noisy, result.clean, result.sigma.int(), strict=True):
        assert torch.equal(noisy, batch.noisy[number])
        assert torch.allclose(Blur()(noisy[None]).x_hat[0], target, atol=1e-6)
    hopeless = pair(noise=[0.9, 0.9])
    assert torch.equal(supervision(hopeless).noisy, hopeless.noisy), "all are kept where none qualifies"


def test_taught_never_trains_its_teacher() -> None:
    supervision = Taught(teacher=Blur()).train()
    assert not supervision(pair(noise=[0.01])).clean.requires_grad
    assert not any(p.requires_grad for p in supervision.parameters()) and not supervision.teacher.training


def test_what_taught_refuses() -> None:
    assert Taught(teacher=Blur()).smallest == 176 and Taught(teacher=Blur(), min_ms_ssim=None).smallest == 1
    small = pair(noise=[0.9, 0.01], side=64)
    assert torch.equal(Taught(teacher=Blur(), min_ms_ssim=None)(small).noisy, small.noisy)
    with pytest.raises(UserError, match="jdc_ud"):
        Taught()(small)
    for value in (1, -0.1, True):
        with pytest.raises(UserError, match=f"min_ms_ssim={value} is not usable: give a number of 0 or more, under 1"):
            Taught(min_ms_ssim=value)
