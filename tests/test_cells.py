"""Cells of pairs, their MS-SSIM and the threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_pairs import (
    LEVELS,
    module,
)

from jdcsuite.data import cells
from jdcsuite.types import UserError

pytest_plugins = ("real_pairs",)


def test_cells_lie_on_the_paper_s_grid(root: Path) -> None:
    pairs = module(root)._parts["train"]
    assert [c for c in cells.grid(pairs.noisy, side=176).tolist() if c[0] == 0] == [[0, 0, 0], [0, 0, 132]]


def test_a_threshold_keeps_the_crops_above_it_and_scores_are_computed_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, some = module(root), module(root, min_ms_ssim=0.9)
    score = cells.scores(every._parts["train"], every._cells, side=176)
    assert some._cells.tolist() == every._cells[score > 0.9].tolist()
    assert 0 < len(some._cells) == some.facts["crops_kept"] < len(every._cells) == some.facts["crops"]
    monkeypatch.setattr(cells, "_measure", None)
    assert len(module(root, min_ms_ssim=0.8)._cells) >= len(some._cells)
    exact = float(score[score < 0.9].max())
    assert len(cells.above(exact, score)) == (score > exact).sum(), "strictly"


@pytest.mark.parametrize("damage", ["cut", "of other crops", "of other pictures", "pickled"])
def test_damaged_or_foreign_scores_are_computed_again(root: Path, tmp_path: Path, damage: str) -> None:
    pairs = module(root, cache=str(tmp_path))._parts["train"]
    at = cells.grid(pairs.noisy, side=176)
    score = cells.scores(pairs, at, side=176)
    (path,) = (tmp_path / "images").glob("*.scores.npz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        with np.load(path) as kept:
            own = dict(kept)
        own |= {
            "of other crops": {"scores": score[1:]},
            "of other pictures": {"scores": np.full_like(score, 0.1), "of": "0" * 64},
            "pickled": {"scores": np.array([{}], dtype=object)},
        }[damage]
        np.savez(path, **own)
    assert np.array_equal(cells.scores(pairs, at, side=176), score)
    with np.load(path) as kept:
        assert np.array_equal(kept["scores"], score), "and kept"


def test_scores_of_embedded_pairs_cover_the_range() -> None:
    """A sweep over the threshold, .2 to .9, needs crops to keep and to drop at each value."""
    data = module(None, cell=256, levels=LEVELS)
    score = cells.scores(data._parts["train"], data._cells[::3], side=256)
    counts, _ = np.histogram(score, bins=np.linspace(0, 1, 11))
    assert (counts[1:] > 0).all(), counts
    assert score.min() < 0.12 and score.max() > 0.99


def test_a_threshold_that_leaves_no_crop_reports_the_scores(root: Path) -> None:
    with pytest.raises(UserError, match=r"min_ms_ssim=0\.9999 leaves none of 28 crops: the best has 0\.\d+ \(.*above"):
        module(root, min_ms_ssim=0.9999)
    with pytest.raises(UserError, match="176 pixels"):
        module(root, min_ms_ssim=0.5, cell=64)
