"""The eight symmetries of the square."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jdcsuite.data.symmetries import turned

# (transpose, upside down, mirror) -> its effect on (rows, columns, channels)
SYMMETRIES = {
    (0, 0, 0): lambda a: a,
    (0, 0, 1): np.fliplr,
    (0, 1, 0): np.flipud,
    (0, 1, 1): lambda a: np.rot90(a, 2),
    (1, 0, 0): lambda a: a.transpose(1, 0, 2),
    (1, 0, 1): lambda a: np.rot90(a, -1),
    (1, 1, 0): np.rot90,
    (1, 1, 1): lambda a: np.rot90(a, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_combination_of_bits_is_its_symmetry(layout: torch.memory_format) -> None:
    images = torch.rand(8, 3, 5, 5).to(memory_format=layout)
    for image, result, operation in zip(
        images, turned(images, torch.tensor(list(SYMMETRIES))), SYMMETRIES.values(), strict=True
    ):
        expected = operation(image.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(result.permute(1, 2, 0).numpy(), expected)


def test_symmetries_of_known_corners() -> None:
    square = torch.tensor([[1.0, 2], [3, 4]]).expand(4, 1, 2, 2)
    result = turned(square, torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]))[:, 0].tolist()
    assert result == [[[1, 2], [3, 4]], [[2, 1], [4, 3]], [[3, 4], [1, 2]], [[1, 3], [2, 4]]]
