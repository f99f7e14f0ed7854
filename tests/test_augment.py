"""Augmentation of clean crops: exposure, order of the channels, half the size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jdcsuite.data.augment import Augmentation, half
from jdcsuite.data.draw import Draw
from jdcsuite.types import UserError


def grey(count: int, side: int = 32, level: float = 0.5) -> torch.Tensor:
    return torch.full((count, 3, side, side), level)


def test_channels_take_all_orders_in_their_share_of_images() -> None:
    clean = torch.tensor([10.0, 100, 200]).view(1, 3, 1, 1).expand(4000, 3, 4, 4) / 255
    augmented = Augmentation(exposure=0, colours=0.6)(clean, Draw.whole(4000, seed=0))
    orders, counts = torch.unique((augmented[:, :, 0, 0] * 255).round().int(), dim=0, return_counts=True)
    assert len(orders) == 6 and (orders.sort(1).values == torch.tensor([10, 100, 200])).all()
    as_is = counts[(orders == torch.tensor([10, 100, 200])).all(1)].item() / 4000
    assert as_is == pytest.approx(0.4 + 0.1, abs=0.03) and counts.min() / 4000 == pytest.approx(0.1, abs=0.03)


def test_exposures_are_factors_in_range_rounded_to_8_bits() -> None:
    augmented = (
        Augmentation(exposure=0.25, colours=0)(grey(4000, 2, 200 / 255), Draw.whole(4000, seed=0))[:, 0, 0, 0] * 255
    )
    changed = augmented[(augmented - 200).abs() > 1e-3]
    assert len(changed) / 4000 == pytest.approx(0.25, abs=0.03)
    assert changed.min() >= 100 and changed.min() < 102 and 218 < changed.max() <= 220.001
    torch.testing.assert_close(augmented, augmented.round(), atol=1e-3, rtol=0)


def test_half_the_size_is_the_rounded_mean() -> None:
    image = np.array([[[0, 255, 1], [1, 255, 2]], [[0, 255, 2], [1, 254, 2]]], np.uint8)
    assert half(image).tolist() == [[[1, 255, 2]]]
    random = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    assert half(random)[2, 1].tolist() == np.floor(random[4:6, 2:4].mean((0, 1)) + 0.5).tolist()


def test_augmentation_can_be_switched_off_and_unusable_settings_are_refused() -> None:
    clean = torch.randint(256, (8, 3, 64, 64)) / 255
    torch.testing.assert_close(Augmentation(exposure=0, colours=0)(clean, Draw.whole(8, seed=0)), clean)
    for options in ({"exposure": 1.1}, {"colours": -1}, {"halved": 2}, {"darkest": 0}, {"brightest": 0.1}):
        with pytest.raises(UserError, match=r"not usable|no range"):
            Augmentation(**options)
