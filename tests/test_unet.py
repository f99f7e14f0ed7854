"""The U-Net denoiser: number of parameters, supported image sizes, and loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jdcsuite.models.unet import UNet
from jdcsuite.training.criteria import Denoising
from jdcsuite.types import Output, Pair, UserError


def test_it_is_as_large_as_the_reference() -> None:
    """31.03 M parameters and, for 504x504 pixels, 169.3 GMAC including biases and activations, which the counter
    omits."""
    with torch.device("meta"):
        net, x = UNet(), torch.rand(1, 3, 504, 504)
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert sum(p.numel() for p in net.parameters()) == 31_031_893
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(169.3, rel=0.003)


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (104, 105), (120, 121)])
def test_the_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    net = UNet(width=2)
    x = torch.rand(2, 3, *size)
    assert net(x).x_hat.shape == x.shape


def test_the_centre_of_an_image_does_not_depend_on_its_borders() -> None:
    torch.manual_seed(0)
    net = UNet(width=2).double()
    x = torch.rand(1, 3, 376, 376, dtype=torch.float64)
    with torch.no_grad():
        whole, part = net(x).x_hat, net(x[..., 80:-80, 80:-80]).x_hat
    assert torch.allclose(whole[..., 184:192, 184:192], part[..., 104:112, 104:112])


def pair(*, noise: list[float], side: int = 180) -> Pair:
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(len(noise), 3, 9, 9), size=(side, side), mode="bicubic").clamp(0, 1)
    noisy = smooth + torch.tensor(noise)[:, None, None, None] * torch.randn_like(smooth)
    return Pair(noisy=noisy.clamp(0, 1), clean=torch.zeros_like(smooth), sigma=torch.arange(float(len(noise))))


@pytest.mark.parametrize("distance", ["mse", "l1", "ms_ssim"])
def test_the_loss_of_a_denoiser_is_its_distance(distance: str) -> None:
    batch, criterion = pair(noise=[0.05]), Denoising(distance=distance)
    exact = criterion(Output(x_hat=batch.clean.clone()), batch)["loss"]
    x_hat = batch.noisy.clone().requires_grad_()
    parts = criterion(Output(x_hat=x_hat), batch)
    parts["loss"].backward()
    assert abs(float(exact)) < 1e-5 < float(parts["loss"]) and x_hat.grad.abs().max() > 0
    expected = {"mse": ((x_hat - batch.clean) ** 2).mean(), "l1": (x_hat - batch.clean).abs().mean()}
    if distance in expected:
        assert float(parts["loss"]) == pytest.approx(float(expected[distance]), rel=1e-5)


def test_unknown_distances_and_crops_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="mse, l1 or ms_ssim"):
        Denoising(distance="ssim")
    small = pair(noise=[0.1], side=64)
    with pytest.raises(UserError, match="176"):
        Denoising(distance="ms_ssim")(Output(x_hat=small.noisy), small)
