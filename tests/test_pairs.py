"""Real pairs: partners, scenes and splits, which crops are kept, what a batch holds."""

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
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from jdcsuite.data import cells, provenance
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.noise import PoissonGaussian
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.pairfolders import PairFolders
from jdcsuite.data.samples import PairCrops
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source, as_list, patterns
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.write import encode
from jdcsuite.types import Pair, UserError

SIDE = 180
LEVELS = [
    PoissonGaussian(a=level["a"], b=level["b"])
    for level in yaml.safe_load((Path(__file__).parents[1] / "conf" / "data" / "real_noise.yaml").read_text())["levels"]
]
NIND_TEST = (
    "ursulines-red", "ursulines-building", "stefantiek", "CourtineDeVillersDebris", "MuseeL-Bobo", "MuseeL-Bobo-C500D",
)  # fmt: skip
NIND_VAL = ("7D-2", "7D-7", "Pen-pile")
EARLY = {"folder": "real", "without": ["*_00800_*"]}
NOISY = {"folder": "real", "only": ["*_00800_*"], "name": "noisiest"}
SIDD = "{:04d}_{}_S6_00{}_00100_5500_L.png"


def photo(seed: int, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 216, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def noised(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes at two ISOs in ``real``, two other scenes in ``other``, clean pictures in ``plain``."""
    root = tmp_path_factory.mktemp("pairs")
    for folder, scenes in (("real", range(1, 9)), ("other", (20, 21))):
        for scene in scenes:
            for iso, sigma in (("100", 3 * scene), ("800", 90)):
                name = SIDD.format(scene, f"{scene:03d}", iso)
                clean = photo(scene, width=2 * SIDE)
                save(root / folder / "clean" / name, clean)
                save(root / folder / "noisy" / name, noised(clean, sigma))
    for i in range(3):
        save(root / "plain" / f"{i}.png", photo(100 + i))
    return root


def module(root: Path | None, *, rank: int = 0, world: int = 1, start: int = 0, **other: object) -> PairFolders:
    options = {"root": root and str(root), "train": ["real"], "test": ["other", "plain"], "clean": None}
    options |= {"levels": [PoissonGaussian(a=0.01, b=0.01)], "noise_seed": 0, "crop": 64, "val_crop": 64, "cell": 176}
    data = PairFolders(**options | {"batch": 8, "workers": 0, "seed": 3, "steps": 5} | other)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start, strategy=strategy)
    data.prepare()
    return data


def batches(data: PairFolders) -> list[Pair]:
    return [
        data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0) for batch in data.train_dataloader()
    ]


# -- folders and names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scene", "iso"),
    [
        ("0129_006_GP_00100_00100_4400_N.png", "sidd_006", "00100"),
        ("0001_001_S6_00100_00060_3200_L/0001_NOISY_SRGB_010.PNG", "sidd_001", "00100"),
        ("Canon5D2_5_160_3200_chair_11.jpg", "polyu_Canon5D2_chair", "3200"),
        ("Sony_3-5_200_1600_classroom_10.jpg", "polyu_Sony_classroom", "1600"),
        ("5dmark3_iso3200_1.png", "cc_5dmark3_iso3200_1", "3200"),
        ("NIND_ursulines-red_ISOH2.jpg", "nind_NIND_ursulines-red", "H2"),
        ("Canon5D2_5_160_3200_plug_11_real.JPG", "polyu_Canon5D2_plug", "3200"),
        ("Sony_3-5_200_1600_classroom_10_mean.JPG", "polyu_Sony_classroom", "1600"),
        ("5dmark3_iso3200_1_real.png", "cc_5dmark3_iso3200_1", "3200"),
        ("dog_ISO800.png", "iso_dog", "800"),
        ("holiday_iso800.png", "somewhere/holiday_iso800", ""),
        ("here/noisy/a.png", "here/a", ""),
    ],
)
def test_scene_and_iso_of_file_names(name: str, scene: str, iso: str) -> None:
    assert scene_and_iso(Path("somewhere") / name) == (scene, iso)


def test_nind_s_lowest_iso_is_the_clean_picture(tmp_path: Path) -> None:
    for scene in ("a-b", "c"):
        for iso in ("200", "200-2", "6400", "H1"):
            save(tmp_path / "nind" / scene / f"NIND_{scene}_ISO{iso}.png", photo(1, height=8, width=8))
    shots = find_shots(tmp_path / "nind", Source(folder="nind"))
    assert [shot.noisy.stem for shot in shots] == [f"NIND_{s}_ISO{i}" for s in ("a-b", "c") for i in ("6400", "H1")]
    assert {shot.clean.stem for shot in shots} == {"NIND_a-b_ISO200", "NIND_c_ISO200"}
    assert find_shots(tmp_path / "nind", Source(folder="renamed")) == shots, "the layout is recognised without the name"


def test_real_and_mean_are_partners(tmp_path: Path) -> None:
    for kind in ("real", "mean"):
        save(tmp_path / f"d600_iso3200_1_{kind}.png", photo(1, height=8, width=8))
    (shot,) = find_shots(tmp_path, Source(folder="x"))
    assert shot.noisy.stem.endswith("real") and shot.clean.stem.endswith("mean")


@pytest.mark.parametrize("alone", ["d600_iso3200_2_mean.png", "d600_iso3200_2_real.png"])
def test_half_a_pair_is_reported_in_real_and_mean_layout(tmp_path: Path, alone: str) -> None:
    for name in ("d600_iso3200_1_real.png", "d600_iso3200_1_mean.png", alone):
        save(tmp_path / name, photo(1, height=8, width=8))
    with pytest.raises(UserError, match=f"1 pictures of .*{alone}"):
        find_shots(tmp_path, Source(folder="x"))
    assert len(find_shots(tmp_path, Source(folder="x"), allow_unpaired=True)) == 1


def test_half_a_pair_is_reported_in_sidd_layout(tmp_path: Path) -> None:
    for number in (1, 2):
        for kind in ("NOISY", "GT"):
            save(tmp_path / f"000{number}_001_S6" / f"000{number}_{kind}_SRGB_010.PNG", photo(1, height=8, width=8))
    (tmp_path / "0002_001_S6" / "0002_NOISY_SRGB_010.PNG").unlink()
    with pytest.raises(UserError, match=r"1 pictures of .*0002_GT_SRGB_010\.PNG"):
        find_shots(tmp_path, Source(folder="x"))


def test_pictures_without_a_partner_are_listed_and_refused(root: Path, tmp_path: Path) -> None:
    for kind, names in {"noisy": "abcdefg", "clean": "az"}.items():
        for name in names:
            save(tmp_path / kind / f"{name}.png", photo(1, height=8, width=8))
    with pytest.raises(UserError, match=r"7 pictures .*noisy/b\.png, .*\.\.\.; .*allow_unpaired"):
        find_shots(tmp_path, Source(folder="x"))
    assert [s.noisy.name for s in find_shots(tmp_path, Source(folder="x"), allow_unpaired=True)] == ["a.png"]


def test_pairs_that_differ_in_size_are_listed_and_refused(tmp_path: Path) -> None:
    for name, side in {"a": 40, "b": 48}.items():
        save(tmp_path / "noisy" / f"{name}.png", photo(1, height=40, width=40))
        save(tmp_path / "clean" / f"{name}.png", photo(1, height=40, width=side))
    shots = find_shots(tmp_path, Source(folder="x"))
    with pytest.raises(UserError, match=r"1 of 2 pairs differ in size: b\.png \(40, 40\) and \(40, 48\)"):
        PairCache.of_shots(shots, cache_dir=None)
    assert PairCache.of_shots(shots, cache_dir=None, allow_unpaired=True).noisy.names == ["a.png"]


def test_patterns_choose_images_and_a_scene_is_never_trained_and_tested(root: Path) -> None:
    early = Source.parse({"folder": "real", "only": ["*_00[1-4]_*"], "without": ["*_00800_*"]})
    shots = find_shots(root / "real", early)
    assert [shot.scene for shot in shots] == [f"sidd_00{i}" for i in range(1, 5)]
    with pytest.raises(UserError, match="4 scenes"):
        module(root, test=[{"folder": "real", "only": ["*_00[1-4]_*"], "name": "part"}])
    with pytest.raises(UserError, match="names no pictures"):
        Source.parse({"folders": "real"})


def test_training_validation_and_test_share_no_scene(root: Path) -> None:
    data = module(root)
    scenes = {name: set(pairs.scenes) for name, pairs in data._parts.items()}
    assert len(scenes["train"]) == 7 and len(scenes["val"]) == 1 and not scenes["train"] & scenes["val"]
    whole = module(root / "real", train=None, test=None)
    parts = [set(pairs.scenes) for pairs in (*whole._parts.values(), *whole._tests.values())]
    assert sum(map(len, parts)) == 8 == len(set.union(*parts)) and whole.test_sets == ["real-held-out"]


@pytest.fixture(scope="module")
def nind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with ``nind``: the test and validation scenes, three others, and one whose name begins with that of a
    validation scene."""
    root = tmp_path_factory.mktemp("nind")
    for number, scene in enumerate((*NIND_TEST, *NIND_VAL, "7D-3", "droid", "soap", "Pen-piles")):
        for iso, sigma in (("200", 1), ("200-2", 1), ("800", 20), ("H1", 60)):
            image = noised(photo(number, height=64, width=64), sigma)
            save(root / "nind" / scene / f"NIND_{scene}_ISO{iso}.png", image)
    for scene in range(12):
        for kind, sigma in (("clean", 0), ("noisy", 30)):
            image = noised(photo(50 + scene, height=64, width=64), sigma)
            save(root / "mine" / kind / SIDD.format(scene, f"{scene:03d}", 100), image)
    return root


def scenes_of(data: PairFolders, part: str) -> set[str]:
    return {scene.removeprefix("nind_NIND_") for scene in (data._parts | data._tests)[part].scenes}


def test_pairs_of_16_bits_are_rounded_to_8(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (64, 64, 3), dtype=np.uint16)
    for kind, pixels in (("noisy", deep), ("clean", np.flipud(deep))):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes(encode(Picture(pixels), Path("a.png")))
    pairs = PairCache.of_shots(find_shots(tmp_path, Source(folder="pairs")), cache_dir=str(tmp_path))
    expected = np.rint(deep / 65535 * 255).astype(np.uint8)
    noisy, clean = pairs.crop(0, 0, 0, 64)
    assert np.array_equal(noisy, expected) and np.array_equal(clean, np.flipud(expected))


def test_nind_is_split_as_published(nind: Path) -> None:
    data = module(nind, train=["nind"], test=["nind"], cell=64)
    assert scenes_of(data, "nind") == set(NIND_TEST) and len(data.pictures("nind")) == 12
    assert scenes_of(data, "val") == set(NIND_VAL)
    assert scenes_of(data, "train") == {"7D-3", "droid", "soap", "Pen-piles"}
    part = {"folder": "nind", "only": ["*_droid_*", "*_soap_*"], "name": "part"}
    with pytest.raises(UserError, match=r"data\.train holds 2 scenes of data\.test"):
        module(nind, train=["nind"], test=[part], cell=64)


def test_a_test_folder_may_be_called_train_or_val(root: Path, tmp_path: Path) -> None:
    """`data.test=[train]` used to be trained on, and [val] used to replace the validation pairs."""
    (tmp_path / "real").symlink_to(root / "real")
    for name in ("train", "val"):
        (tmp_path / name).symlink_to(root / "other")
        data, usual = module(tmp_path, test=[name]), module(root)
        for part in ("train", "val"):
            assert data._parts[part].scenes == usual._parts[part].scenes
        assert set(data.test_scenes) == {"sidd_020", "sidd_021"} and not {"sidd_020"} & set(data.train_scenes)
        shown = {name for name, _ in (data.pictures(name)[i] for i in range(4))}
        assert shown == set(usual._tests["other"].noisy.names)


def test_mixed_in_clean_images_exclude_validation_scenes_and_teachers_outputs(root: Path, tmp_path: Path) -> None:
    data = module(root, clean="real/clean")
    (held,) = set(data._parts["val"].scenes)
    plain = {scene_and_iso(Path(name))[0] for name in data._caches["plain"].names}
    assert len(plain) == 7 and held not in plain
    for name in ("real", "other", "plain"):
        (tmp_path / name).symlink_to(root / name)
    save(tmp_path / "taught" / "clean" / "x.png", photo(200))
    teacher = provenance.Teacher(name="unet-1", id="a" * 64, train_scenes=["sidd_020"])
    (tmp_path / "taught" / provenance.FILE).write_bytes(provenance.Predenoised(teacher=teacher).dump())
    for clean in ("taught", "taught/clean"):
        with pytest.raises(UserError, match=r"are a teacher's, which are not clean"):
            module(tmp_path, clean=clean)


def test_validation_images_too_small_for_ms_ssim_are_named(root: Path) -> None:
    data = module(root)
    data.require_val(SIDE)
    with pytest.raises(UserError, match=rf"2 of 2 pictures are smaller than the {SIDE + 1} pixels of MS-SSIM"):
        data.require_val(SIDE + 1)


def test_nind_is_recognised_by_its_scenes_in_any_folder(nind: Path, tmp_path: Path) -> None:
    (tmp_path / "mynind").symlink_to(nind / "nind")
    data = module(tmp_path, train=["mynind"], test=["mynind"], cell=64)
    assert scenes_of(data, "mynind") == set(NIND_TEST) and scenes_of(data, "val") == set(NIND_VAL)
    assert scenes_of(data, "train") == {"7D-3", "droid", "soap", "Pen-piles"}
    for scene in "ab":
        for iso, sigma in (("100", 0), ("800", 30)):
            save(tmp_path / "own" / f"{scene}_ISO{iso}.png", noised(photo(ord(scene), height=64, width=64), sigma))
    data = module(tmp_path, train=["mynind"], test=["own"], cell=64)
    assert data.test_scenes == ["iso_a", "iso_b"], "names like NIND's are not NIND"


def test_published_test_scenes_are_never_trained_on(nind: Path) -> None:
    for source in ("nind", "nind/", {"folder": "nind", "name": "all of it"}):
        data = module(nind, train=[source], test=["mine"], cell=64)
        assert not set(NIND_TEST) & (scenes_of(data, "train") | scenes_of(data, "val"))
    with pytest.raises(UserError, match="nothing but its test scenes"):
        module(nind, train=[{"folder": "nind", "only": ["*ursulines*"]}], test=["mine"], cell=64)


def test_folders_without_published_validation_hold_out_their_own(nind: Path) -> None:
    data = module(nind, train=["mine", "nind"], test=["nind"], cell=64)
    alone = module(nind, train=["mine"], test=["nind"], cell=64)
    assert scenes_of(data, "val") == set(NIND_VAL) | scenes_of(alone, "val") and len(scenes_of(alone, "val")) == 1


def test_parts_of_nind_without_published_scenes(nind: Path) -> None:
    data = module(nind, train=[{"folder": "nind", "only": ["*_droid_*", "*_soap_*"]}], test=["mine"], cell=64)
    assert len(scenes_of(data, "val")) == 1 == len(scenes_of(data, "train")), "by hash"
    without = {"folder": "nind", "without": [f"*_{scene}_*" for scene in NIND_TEST]}
    with pytest.raises(UserError, match="nind holds none of its test scenes"):
        module(nind, train=["mine"], test=[without], cell=64)
    with pytest.raises(UserError, match=r"all scenes of .* are for validation"):
        module(nind, train=[{"folder": "nind", "only": ["*_7D-[27]_*"]}], test=["mine"], cell=64)


def test_one_folder_of_nind_crops_is_split_as_published(nind: Path, tmp_path: Path) -> None:
    for shot in find_shots(nind / "nind", Source(folder="nind")):
        for kind, path in (("noisy", shot.noisy), ("clean", shot.clean)):
            save(tmp_path / "nind" / kind / shot.noisy.name, np.asarray(Image.open(path)))
    data = module(tmp_path / "nind", train=None, test=None, cell=64)
    assert scenes_of(data, "nind-held-out") == set(NIND_TEST) and scenes_of(data, "val") == set(NIND_VAL)


def test_validation_scenes_can_be_named(root: Path, nind: Path) -> None:
    for val in (["sidd_00[23]"], ["0002_*", "0003_003_S6_00800_*"], "*_00[23]*"):
        data = module(root, val=val)
        assert scenes_of(data, "val") == {"sidd_002", "sidd_003"}, "whole scenes"
        assert len(scenes_of(data, "train")) == 6
    data = module(nind, train=["nind"], test=["nind"], val=["*_soap"], cell=64)
    assert scenes_of(data, "val") == {"soap"} and set(NIND_VAL) < scenes_of(data, "train")
    embedded = module(None, val=["rocket*"], cell=256)
    assert scenes_of(embedded, "val") == {"rocket.jpg"}


@pytest.mark.parametrize(
    ("patterns", "message"), [(["sidd_001", "x*"], r"called x\*: they are sidd_001"), (["*"], "takes all 8 scenes")]
)
def test_unusable_validation_patterns_are_refused(root: Path, patterns: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(root, val=patterns)


# -- scores ----------------------------------------------------------------------------------------------------


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


# -- batches ---------------------------------------------------------------------------------------------------


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


def test_values_that_are_no_names_are_refused() -> None:
    for call, message in {
        lambda: as_list("data.train", 5): "data.train=5 is not usable",
        lambda: patterns("data.val", 5): "data.val=5 is not usable",
        lambda: patterns("data.val", [["a"]]): "is not usable: give patterns",
    }.items():
        with pytest.raises(UserError, match=message):
            call()
    assert Source.parse({"folder": "a", "only": "Canon*"}).only == ["Canon*"], "it used to be split into letters"


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
        ({"train": None}, "must name folders"),
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
