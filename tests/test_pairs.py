"""Batches of real pairs: the union over ranks, clean shares, sampling, weights, settings."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from real_pairs import (
    SIDE,
    batches,
    module,
    photo,
    save,
)

from jdcsuite.data.cache import ImageCache
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.samples import PairCrops
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.types import Pair, UserError

pytest_plugins = ("real_pairs",)


EARLY = {"folder": "real", "without": ["*_00800_*"]}


NOISY = {"folder": "real", "only": ["*_00800_*"], "name": "noisiest"}


@pytest.mark.parametrize("world", [2, 4])
def test_the_union_is_the_same_for_any_number_of_ranks_and_after_a_resume(root: Path, world: int) -> None:
    one = batches(module(root))
    many = [batches(module(root, rank=rank, world=world, start=2)) for rank in range(world)]
    for step, whole in enumerate(one[2:]):
        for place in range(8):
            part = many[place % world][step]
            assert torch.equal(part.clean[place // world], whole.clean[place])
            assert torch.equal(part.noisy[place // world], whole.noisy[place])
    assert not torch.equal(one[0].noisy, one[1].noisy)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_no_sample_and_every_batch_has_its_clean_places(root: Path, world: int) -> None:
    weighted = [{"folder": "real", "without": ["*_00800_*"], "weight": 2}, {"folder": "real", "only": ["*_00800_*"]}]
    ranks = [module(root, rank=r, world=world, train=weighted, clean_share=0.3) for r in range(world)]
    numbers = [list(data.train_dataloader().batch_sampler) for data in ranks]
    for step in range(5):
        here = [n for rank in numbers for n in rank[step]]
        assert sorted(here) == list(range(8 * step, 8 * step + 8)), "disjoint, and the same union as of one rank"
        samples = ranks[-1].crops()
        assert [float(samples[n]["sigma"]) == 0 for n in sorted(here)] == [False] * 6 + [True] * 2


class Diary(L.LightningModule):
    """Records the samples of its rank, step by step, and learns nothing."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.steps, self.weight = folder, [], torch.nn.Parameter(torch.zeros(()))

    def training_step(self, pair: Pair, _: int) -> torch.Tensor:
        pictures = [sha256(np.stack([n, c])).hexdigest() for n, c in zip(pair.noisy, pair.clean, strict=True)]
        self.steps.append(list(zip(pictures, (pair.sigma == 0).tolist(), strict=True)))
        return self.weight.square()

    def on_train_end(self) -> None:
        Path(self.folder, f"{self.global_rank}.json").write_text(json.dumps(self.steps))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_processes_see_the_union_of_one(root: Path, tmp_path: Path) -> None:
    """A real process group, started by Lightning."""
    seen = {}
    for world, strategy in ((1, "auto"), (2, "ddp_spawn")):
        folder = tmp_path / str(world)
        folder.mkdir()
        trainer = L.Trainer(
            accelerator="cpu", devices=world, strategy=strategy, max_steps=3, max_epochs=-1, limit_val_batches=0,
            use_distributed_sampler=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        data = module(root, steps=3, clean_share=0.3)
        with patch.dict(os.environ):  # Lightning leaves a port in it
            trainer.fit(Diary(str(folder)), datamodule=data)
        seen[world] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
    for step in range(3):
        ((whole,), (first, second)) = ([rank[step] for rank in seen[world]] for world in (1, 2))
        assert len({picture for picture, _ in whole}) == 8, "all samples differ"
        assert len(first) == len(second) == 4 and sorted(first + second) == sorted(whole)
        assert sum(clean for _, clean in first + second) == 2 == sum(clean for _, clean in whole)


@pytest.mark.parametrize(("share", "cleans"), [(0.2, 2), (0.0, 0), (0.01, 1)])
def test_every_batch_holds_its_share_of_clean_pictures(root: Path, share: float, cleans: int) -> None:
    for pair in batches(module(root, clean_share=share, clean="plain", test=["other"])):
        same = [torch.equal(n, c) for n, c in zip(pair.noisy, pair.clean, strict=True)]
        assert same == [False] * (8 - cleans) + [True] * cleans
        assert pair.sigma.isnan().tolist() == [not s for s in same]


def test_noisy_and_clean_crops_are_aligned(root: Path) -> None:
    data = module(root, train=[{"folder": "real", "without": ["*_00800_*"]}], clean_share=0.0)
    crops = data.crops()
    for n in range(20):
        sample = crops[n]
        error = (sample["noisy"].float() - sample["clean"].float()).std()
        assert 2 < error < 30, "only noise, no shift"
    assert sample["noisy"].shape == (3, 64, 64)


def test_pairs_share_one_of_eight_symmetries(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    for name, image in {"noisy": 255 - picture, "clean": picture}.items():
        save(tmp_path / f"{name}.png", image)
    noisy, clean = (ImageCache.build([tmp_path / f"{name}.png"], cache_dir=tmp_path) for name in ("noisy", "clean"))
    pairs = PairCache(noisy=noisy, clean=clean, partner=[0], scenes=["a"], sources=[0])
    crops = PairCrops(
        pairs, clean, cells=np.array([(0, 0, 0)]), cell=8, crop=8, batch=2, cleans=1, sampling="pair", seed=3,
        lossless=None,
    )  # fmt: skip
    quarters = [np.rot90(picture, turns) for turns in range(4)]
    ways = [image.tobytes() for quarter in quarters for image in (quarter, quarter.transpose(1, 0, 2))]
    seen = {0: set(), 1: set()}  # of pairs, of clean images
    for n in range(128):
        noisy_crop, clean_crop = (crops[n][kind].permute(1, 2, 0).numpy() for kind in ("noisy", "clean"))
        np.testing.assert_array_equal(noisy_crop, clean_crop if n % 2 else 255 - clean_crop)
        seen[n % 2].add(ways.index(clean_crop.tobytes()))
    assert len(set(ways)) == 8 and seen[0] == seen[1] == set(range(8))


def test_pair_and_scene_sampling(root: Path) -> None:
    at = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 132]])  # two ISOs of one place, and one ISO of another
    seen = {}
    for sampling in ("pair", "scene"):
        data = module(root, clean_share=0.0, sampling=sampling)
        data._parts["train"].partner[1] = data._parts["train"].partner[0]
        data._cells = at
        crops = data.crops()
        crops.pairs = SimpleNamespace(crop=lambda i, top, left, size: (np.full((9, 9, 3), i + left),) * 2)
        crops.crop = 176
        drawn = [(int(v) % 132, int(v) // 132) for v in (crops[n]["clean"].max() for n in range(600))]
        seen[sampling] = [drawn.count(place) / 600 for place in ((0, 0), (1, 0), (1, 1))]
    assert seen["pair"] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert seen["scene"] == pytest.approx([1 / 4, 1 / 4, 1 / 2], abs=0.06)


def crops_of(cells: list[tuple[int, int, int]], **options: object) -> PairCrops:
    """A sampler of cells (source, clean image, place) without pixels."""
    sources, partner, _ = (list(kind) for kind in zip(*cells, strict=True))
    noisy = ImageCache(path=Path("none"), names=["a"] * len(cells), shapes=[(8, 16)] * len(cells))
    pairs = PairCache(noisy=noisy, clean=noisy, partner=partner, scenes=noisy.names, sources=sources)
    at = np.array([(i, 0, place) for i, (_, _, place) in enumerate(cells)])
    plain = ImageCache(path=Path("none"), names=["a"], shapes=[(8, 8)])
    fixed = {"cell": 8, "crop": 8, "batch": 5, "cleans": 1, "seed": 3, "lossless": None}
    return PairCrops(pairs, plain, cells=at, **fixed | options)


def chances(crops: PairCrops, cells: int) -> np.ndarray:
    """The exact probability of each cell."""
    probabilities = np.zeros(cells)
    for share, places in zip(np.diff(crops.chance, prepend=0.0), crops.places, strict=True):
        for place in places:
            probabilities[place] += share / len(places) / len(place)
    return probabilities


@settings(max_examples=50, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), min_size=3, max_size=3),
    sampling=st.sampled_from(["pair", "scene"]),
)
def test_weights_set_the_shares_of_sources_and_not_the_sampling_within(
    cells: list, weights: list, sampling: str
) -> None:
    here = {source for source, _, _ in cells}
    assume(any(weights[source] for source in here))
    weighted = chances(crops_of(cells, sampling=sampling, weights=weights), len(cells))
    total = sum(weights[source] for source in here)
    for source in here:
        own = [k for k, cell in enumerate(cells) if cell[0] == source]
        alone = chances(crops_of([cells[k] for k in own], sampling=sampling), len(own))
        assert weighted[own] == pytest.approx(weights[source] / total * alone)


@pytest.mark.parametrize("sampling", ["pair", "scene"])
def test_samples_have_the_computed_probabilities(sampling: str) -> None:
    cells = [(0, 0, 0), (0, 0, 0), (0, 1, 0), (1, 2, 0), (1, 2, 1), (2, 3, 0)]
    crops, draws = crops_of(cells, sampling=sampling, weights=[3.0, 1.0, 0.0]), 4000
    drawn = [crops._cell(np.random.Generator(np.random.Philox(key=[3, n]))) for n in range(draws)]
    expected = chances(crops, len(cells)) * draws
    assert expected[-1] == 0 == drawn.count(5)
    seen = np.bincount(drawn, minlength=6)[:5]
    assert ((seen - expected[:5]) ** 2 / expected[:5]).sum() < 18.5, "chi square, 4 degrees of freedom, p = .001"


def test_without_weights_the_draws_are_those_of_one_source(root: Path) -> None:
    two = [{"folder": "real", "without": ["*_00800_*"]}, {"folder": "real", "only": ["*_00800_*"]}]
    plain = module(root, train=two).crops()
    assert len(plain.places) == 1 and len(plain.places[0]) == 28
    draw = np.random.Generator(np.random.Philox(key=[3, 0]))
    first = int(draw.integers(28))
    assert plain._cell(np.random.Generator(np.random.Philox(key=[3, 0]))) == first
    heavy = module(root, train=[{**two[0], "weight": 3}, two[1]])
    assert heavy.train_set == "3*real+real" and np.allclose(np.diff(heavy.crops().chance, prepend=0), [0.75, 0.25])
    noisy = [not torch.equal(p.noisy[k], p.clean[k]) for p in batches(heavy) for k in range(8)]
    assert sum(noisy) == 5 * 6


def test_clean_images_can_be_selected_by_iso(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "real").symlink_to(root / "real")
    (tmp_path / "other").symlink_to(root / "other")
    for name, iso in {"100": 100, "200": 200, "400": 400, "none": None}.items():
        exif = Image.Exif()
        if iso:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = iso
        (tmp_path / "featured").mkdir(exist_ok=True)
        Image.fromarray(photo(7)).save(tmp_path / "featured" / f"{name}.jpg", exif=exif)
    options = {"test": ["other"], "clean": "featured"}
    assert module(tmp_path, **options, clean_max_iso=200)._caches["plain"].names == ["100.jpg", "200.jpg"]
    module(tmp_path, **options, clean_max_iso=200)
    summary = "2 of 4 pictures of featured have an EXIF ISO of 200 or less (1 have none)"
    assert " ".join(capfd.readouterr().out.split()).count(summary) == 1, "once"
    assert len(module(tmp_path, **options)._caches["plain"]) == 4


def test_test_sets_are_pairs_or_clean_images(root: Path) -> None:
    data = module(root, limit=3)
    assert data.test_sets == ["other", "plain"] and data.train_set == "real"
    real, plain = data.pictures("other"), data.pictures("plain")
    assert len(real) == 3 and len(plain) == 3
    name, pair = real[0]
    assert name.endswith(".png") and pair.noisy.shape == (1, 3, SIDE, 2 * SIDE) and pair.sigma.isnan()
    assert not torch.equal(pair.noisy, pair.clean)
    _, pair = plain[0]
    assert torch.equal(pair.noisy, pair.clean) and float(pair.sigma) == 0
    assert data.noise.protocol == "real"


def test_embedded_pairs_need_no_folder_and_have_names() -> None:
    data = module(None, cell=256)
    assert data.noise.protocol == "poisson-gaussian clip8"
    assert data.train_set == data.test_sets[0] == "embedded-poisson-gaussian"
    assert len(batches(data)) == 5 and len(data.pictures("embedded-clean")) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling": "iso"}, "pair or scene"),
        ({"clean_share": 1.0}, "under 1"),
        ({"min_ms_ssim": 1.5}, "under 1"),
        ({"train": ["plain"]}, "holds no pairs"),
        ({"clean": "plain"}, "data.clean and in data.test"),
        (
            {"clean": "other/clean", "test": [{"folder": "other", "name": "renamed"}]},
            "data.clean holds 2 scenes of data.test",
        ),
        ({"train": None}, "name folders of pairs in it"),
        ({"train": [{"folder": "real", "weight": -1}]}, "weight=-1 of real is not usable"),
        ({"train": [{"folder": "real", "weight": float("nan")}]}, "weight=nan of real is not usable"),
        ({"train": [{"folder": "real", "weight": float("inf")}]}, "weight=inf of real is not usable"),
        ({"train": [{"folder": "real", "weight": "much"}]}, "weight=much of real is not usable"),
        ({"train": [{"folder": "real", "weight": True}]}, "weight=True of real is not usable"),
        ({"train": [{"folder": "real", "weight": 0}]}, "every weight of data.train is 0"),
        ({"test": [{"folder": "other", "weight": 1}]}, "other of data.test has a weight"),
        ({"train": [EARLY, NOISY | {"weight": 1}], "min_ms_ssim": 0.7}, "noisiest has weight=1 and none"),
        ({"train": [EARLY | {"weight": 2}, NOISY], "min_ms_ssim": 0.7}, "noisiest has weight=1 and none"),
        ({"train": [{"folder": 5}]}, "names no pictures"),
        ({"train": [{"folder": "real", "name": 5}]}, "name=5 of real is no name"),
        ({"train": [{"folder": "real", "only": [5]}]}, r"only=\[5\] is not usable"),
        ({"train": [{"folder": "real", "only": "NOPE*"}]}, "holds no pairs that match only"),
        ({"test": ["other", "other"]}, "other is in data.test twice"),
        ({"clean": "real"}, "real of data.clean holds pairs"),
        ({"batch": 1}, "leaves no place for pairs"),
        ({"limit": 0}, "data.limit=0 is not usable"),
        ({"workers": -1}, "data.workers=-1 is not usable"),
        ({"clean_max_iso": 200}, "has no folder to choose from"),
        ({"clean_max_iso": 0, "clean": "plain"}, "clean_max_iso=0 is not usable"),
        ({"clean_max_iso": 200, "clean": "plain", "test": ["other"]}, r"0 of 3 pictures .* \(3 have none\)"),
    ],
)
def test_impossible_settings_are_refused(root: Path, wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(root, **wrong)


def test_crops_with_code_lengths_have_an_estimated_noise_level() -> None:
    """Networks that take it trained to NaN on recorded pairs, at every step."""
    clean = np.full((96, 96, 3), 120, np.uint8)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 12, clean.shape), 0, 255).round().astype(np.uint8)
    for lossless, expected in ((None, None), (Lossless(coder="jpegls"), 12.0)):
        crops = crops_of([(0, 0, 0)] * 4, cell=96, crop=96, cleans=0, sampling="pair", lossless=lossless)
        crops.pairs = SimpleNamespace(crop=lambda *place: (noisy, clean))
        sigma = float(crops[0]["sigma"])
        assert np.isnan(sigma) if expected is None else sigma == pytest.approx(expected, rel=0.1)
