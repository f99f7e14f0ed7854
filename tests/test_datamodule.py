"""Photographs: which samples a run sees, on any number of ranks, from which folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_symmetries import SYMMETRIES
from torch.utils.data import default_collate

from jdcsuite.data.augment import Augmentation, half
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.draw import Draw
from jdcsuite.data.law import NoiseLaw
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.photographs import Photographs
from jdcsuite.data.resident import fits
from jdcsuite.data.samples import Crops, Pictures, Steps
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.types import Pair, UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(1)
    for name, count in (("a", 5), ("b", 3)):
        (folder / name).mkdir()
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (70 + i, 90, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def photographs(root: Path | None, *, rank: int = 0, world: int = 1, start: int = 0, **other: object) -> Photographs:
    options = {"root": root and str(root), "train": root and "a", "test": root and ["b"], "noise_seed": 0, "crop": 32}
    options |= {"noise": GaussianNoise(sigma=10), "val_crop": 48, "batch": 8, "workers": 0, "seed": 4, "steps": 6}
    module = Photographs(**(options | other))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start, strategy=strategy)
    module.prepare()
    return module


def batches(module: Photographs) -> list[Pair]:
    return [
        module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
        for batch in module.train_dataloader()
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_the_union_is_the_same_for_any_number_of_ranks(root: Path, world: int) -> None:
    one = batches(photographs(root))
    many = [batches(photographs(root, rank=rank, world=world)) for rank in range(world)]
    for step, whole in enumerate(one):
        for place in range(8):
            part = many[place % world][step]
            assert torch.equal(part.clean[place // world], whole.clean[place])
            assert torch.equal(part.noisy[place // world], whole.noisy[place])


def test_a_resumed_run_continues_with_the_next_samples_for_any_number_of_workers(root: Path) -> None:
    whole, rest = batches(photographs(root)), batches(photographs(root, start=4, workers=2))
    assert len(rest) == 2
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a.clean, b.clean) and torch.equal(a.noisy, b.noisy)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("samples", "first"), [(0, 0), (1, 8), (8, 8), (41, 48)])
def test_begin_behind_skips_whole_batches(root: Path, samples: int, first: int, world: int) -> None:
    numbers = []
    for rank in range(world):
        module = photographs(root, rank=rank, world=world, start=4)
        module.begin_behind(samples)
        numbers.append([n for step in module.train_dataloader().batch_sampler for n in step])
    assert sorted(n for rank in numbers for n in rank) == list(range(first + 4 * 8, first + 6 * 8))
    assert module.first_of(6) == first + 48


def test_the_scenes_of_photographs_are_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights list those they learned from, and results on them are told from tests."""
    module = photographs(root)
    assert module.train_scenes == [f"a/{i}" for i in range(5)], "training and validation"
    assert module.test_scenes == [f"b/{i}" for i in range(3)]
    assert photographs(None, crop=16).train_scenes is None, "the package's own have no files"
    monkeypatch.setattr("jdcsuite.data.photographs.MOST_SCENES", 1)
    assert photographs(root).train_scenes is None, "more than weights can list"


def test_noise_does_not_repeat_with_another_batch_size() -> None:
    """Step 2 of batches of 4 and step 1 of batches of 8 begin at sample 8; no other two steps share a first sample."""

    def first_noise(number: int, batch: int) -> float:
        draw = Draw(numbers=[number], seeds=[0], batch=batch, seed=0, device="cpu")
        return float(draw.normal(3, 8, 8)[0, 0, 0, 0])

    small, large = ([first_noise(n, batch) for n in range(0, 64, batch)] for batch in (4, 8))
    assert len(set(small)) == 16 and len(set(large)) == 8
    assert set(small) & set(large) <= set(small[::2]) and not set(small[:8]) & set(large[4:])


def test_samples_differ_by_seed_and_step_and_are_crops_of_the_pictures(root: Path) -> None:
    first = batches(photographs(root))
    assert not torch.equal(first[0].clean, first[1].clean)
    assert not torch.equal(first[0].clean, batches(photographs(root, seed=5))[0].clean)
    pictures = [np.asarray(Image.open(p)) for p in sorted((root / "a").glob("*.png"))]
    for crop in first[0].clean:
        array = to_bytes(crop)
        variants = [operation(array) for operation in SYMMETRIES.values()]
        windows = (np.lib.stride_tricks.sliding_window_view(p, (32, 32, 3)) for p in pictures)
        assert any((w[:, :, 0] == v).all((2, 3, 4)).any() for w in windows for v in variants)
    assert first[0].noisy.is_contiguous() and first[0].clean.is_contiguous()
    assert (first[0].noisy - first[0].clean).std().item() * 255 == pytest.approx(10, rel=0.08)


def test_noisy_and_clean_crops_share_one_of_eight_symmetries(root: Path) -> None:
    module = photographs(root, noise=GaussianNoise(sigma=0), batch=64)
    crops = Crops(module._caches["train"], crop=32, seed=4, noise=module.noise, lossless=None)
    seen = set()
    for pair, step in zip(batches(module), range(2), strict=False):
        for place in range(64):
            sample = crops[64 * step + place]
            bits = tuple(sample["flips"].tolist())
            expected = SYMMETRIES[bits](sample["clean"].permute(1, 2, 0).numpy())
            np.testing.assert_array_equal(to_bytes(pair.clean[place]), expected)
            np.testing.assert_array_equal(to_bytes(pair.noisy[place]), expected)
            seen.add(bits)
    assert seen == set(SYMMETRIES)


def test_every_crop_position_is_as_likely_as_any_other(root: Path) -> None:
    module = photographs(root, crop=64)
    crops = Crops(module._caches["train"], crop=64, seed=0, noise=module.noise, lossless=None)
    tall = np.array([(crops.cache.shape(i)[0] - 63) * 27 for i in range(len(crops.cache))])
    drawn = np.searchsorted(crops.share, np.random.default_rng(0).random(20000), side="right")
    assert np.bincount(drawn) / 20000 == pytest.approx(tall / tall.sum(), abs=0.02)


def test_code_lengths_are_those_of_the_noisy_and_clean_crops(root: Path) -> None:
    coder = Lossless(coder="png")
    module = photographs(root, lossless=coder)
    samples = [Crops(module._caches["train"], crop=32, seed=4, noise=module.noise, lossless=coder)[n] for n in range(3)]
    for sample in samples:
        assert float(sample["bpp_clean"]) == pytest.approx(
            coder.bpp(sample["clean"].permute(1, 2, 0).contiguous().numpy())
        )
        assert float(sample["bpp_noisy"]) == pytest.approx(coder.bpp(to_bytes(sample["noisy"])))
    with_code, without = (
        module.pair(module.on_before_batch_transfer(default_collate(samples), 0)),
        batches(photographs(root))[0],
    )
    assert torch.equal(with_code.clean, without.clean[:3]), "the same crops, wherever the noise is drawn"
    assert with_code.bpp_noisy.shape == (3,) and without.bpp_noisy is None


def test_batches_that_cannot_be_split_over_the_devices_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.batch=6 cannot be split over 4 devices"):
        Steps(steps=1, batch=6, rank=0, world=4)


def test_train_validation_and_test_share_no_picture(root: Path) -> None:
    module = photographs(root)
    names = {split: set(cache.names) for split, cache in (module._caches | module._tests).items()}
    assert len(names["train"]) == 4 and len(names["val"]) == 1 and names["b"] == {"0.png", "1.png", "2.png"}
    assert not names["train"] & names["val"]
    alone = photographs(root / "a", train=None, test=None)
    sets = [set(cache.names) for cache in (*alone._caches.values(), *alone._tests.values())]
    assert len(sets) == 3 and sum(map(len, sets)) == 5 == len(set.union(*sets))


def test_a_test_folder_may_be_called_train_or_val(root: Path, tmp_path: Path) -> None:
    """`data.test=[train]` used to be tested on the training images."""
    for name, folder in {"train": "b", "val": "b", "other": "a"}.items():
        (tmp_path / name).symlink_to(root / folder)
    module = photographs(tmp_path, train="other", test=["train", "val"])
    for name in ("train", "val"):
        pictures = module.pictures(name)
        assert {pictures[i][0] for i in range(len(pictures))} == {"0.png", "1.png", "2.png"}
    assert len(module._caches["train"]) == 4 and len(module._caches["val"]) == 1


def test_ranks_test_every_picture_once(root: Path) -> None:
    seen = [name for rank in range(2) for name, _ in photographs(root, rank=rank, world=2).test_dataloader()[0]]
    assert sorted(seen) == ["0.png", "1.png", "2.png"]


def test_test_noise_is_the_same_on_every_rank_and_in_every_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for file in (root / "b").iterdir():
        (tmp_path / "other" / f"renamed-{file.name}").write_bytes(file.read_bytes())
    here = [pair.noisy for _, pair in photographs(root).test_dataloader()[0]]
    module = photographs(root)
    cache = ImageCache.build(image_files(tmp_path / "other"))
    renamed = Pictures(cache, noise=module.noise, noise_seed=0, lossless=None)
    assert all(torch.equal(a, renamed[i][1].noisy) for i, a in enumerate(here))


def test_embedded_photographs_need_no_folder() -> None:
    module = photographs(None, train=None, test=None)
    assert module.train_set == "embedded" and module.test_sets == ["embedded"]
    assert len(batches(module)) == 6


# -- separate training noise -----------------------------------------------------------------------------------


def test_training_noise_is_used_in_training_only_and_sigma_is_measured(root: Path) -> None:
    law = NoiseLaw(none=0.3)
    plain, module = photographs(root, augment=None), photographs(root, training_noise=law, augment=None)
    for a, b in zip(batches(plain), batches(module), strict=True):
        assert torch.equal(a.clean, b.clean) and not torch.equal(a.noisy, b.noisy)
        assert (a.sigma == 10).all()
        noise = 255 * (b.noisy - b.clean).double().numpy()
        assert b.sigma.numpy() == pytest.approx(np.sqrt((noise**2).mean((1, 2, 3))), rel=1e-4)
        assert b.sigma.max() > 0
    for (_, a), (_, b) in zip(plain.pictures("b"), module.pictures("b"), strict=True):
        assert torch.equal(a.noisy, b.noisy) and b.sigma == 10
    assert module.facts["training_noise"] == "law to 55 clip8" and "training_noise" not in plain.facts


def test_augmented_crops_and_their_noise_are_the_same_for_any_number_of_ranks(root: Path) -> None:
    options = {"training_noise": NoiseLaw(camera=0.5, jpeg=0.5), "augment": Augmentation(exposure=1, colours=1)}
    one, untouched = batches(photographs(root, **options)), batches(photographs(root))
    assert not torch.equal(one[0].clean, untouched[0].clean)
    for rank in range(2):
        for whole, part in zip(one, batches(photographs(root, rank=rank, world=2, **options)), strict=True):
            torch.testing.assert_close(part.clean, whole.clean[rank::2])
            # sums in another order may round the other way
            assert ((part.noisy - whole.noisy[rank::2]).abs() > 1e-6).float().mean() < 1e-3


def test_halved_crops_are_cut_twice_as_large_where_pictures_allow(root: Path) -> None:
    module = photographs(root, augment=Augmentation(exposure=0, colours=0, halved=0.5))
    crops, plain = (m.train_dataloader().dataset for m in (module, photographs(root)))
    assert crops.halved == 0.5 and plain.halved == 0
    # the images are white noise of standard deviation 74; means of four have half of it
    samples = [crops[n]["clean"].permute(1, 2, 0).numpy() for n in range(40)]
    small = [sample for sample in samples if sample.std() < 50]
    assert all(34 < sample.std() < 40 for sample in small) and 11 <= len(small) <= 29
    pictures = [crops.cache[i] for i in range(len(crops.cache))]
    starts = [(p, top, left) for p in pictures for top in range(p.shape[0] - 63) for left in range(p.shape[1] - 63)]
    assert any(np.array_equal(half(p[top : top + 64, left : left + 64]), small[0]) for p, top, left in starts)
    too_large = Crops(crops.cache, crop=40, seed=4, noise=module.noise, lossless=None, halved=1.0)
    assert too_large[0]["clean"].shape == (3, 40, 40)


def test_code_lengths_are_of_the_training_noise_and_not_of_augmented_crops(root: Path) -> None:
    coder = Lossless(coder="png")
    batch = batches(photographs(root, lossless=coder, training_noise=NoiseLaw(none=1, logarithmic=0, jpeg=0)))[0]
    assert torch.equal(batch.bpp_noisy, batch.bpp_clean) and (batch.sigma == 0).all()
    with pytest.raises(UserError, match=r"data\.augment changes crops"):
        photographs(root, lossless=coder, augment=Augmentation())


@pytest.mark.parametrize("halved", [0.0, 0.5])
def test_crops_cut_on_the_device_equal_those_of_the_loader(root: Path, halved: float) -> None:
    options = {"augment": Augmentation(exposure=0.5, colours=0.5, halved=halved)} if halved else {}
    loaded, cut = photographs(root, **options), photographs(root, resident=True, workers=1, **options)
    sent = next(iter(cut.train_dataloader()))
    assert set(sent) == {"at", "width", "scale", "flips", "number", "noise_seed"}, "workers send no pixels"
    assert all(value.shape[0] == 8 for value in sent.values())
    whole, parts = batches(loaded), batches(cut)
    assert len(whole) == len(parts) == 6
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a.clean, b.clean) and torch.equal(a.noisy, b.noisy) and b.noisy.is_contiguous()
    assert not halved or 2 in torch.cat([batch["scale"] for batch in cut.train_dataloader()])


def test_images_go_to_a_gpu_with_room_for_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, devices = photographs(root)._caches["train"], []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: devices.append(device) or (4 * cache.size, 0))
    gpu = torch.device("cuda", 1)
    assert fits(cache, gpu) and devices == [gpu]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * cache.size - 1, 10**12))
    assert not fits(cache, gpu) and not fits(cache, torch.device("cpu"))
    assert photographs(root).train_dataloader().dataset.places is False
    with pytest.raises(UserError, match=r"data\.resident=true keeps crops off the CPU"):
        photographs(root, resident=True, lossless=Lossless(coder="png"))


@pytest.mark.parametrize(("law", "sigma"), [(None, 10), (NoiseLaw(), None)])
def test_weights_state_their_noise_level(root: Path, tmp_path: Path, law: NoiseLaw | None, sigma: int | None):
    """A noise law has no single level; with one, `jdc compress` would warn of images that the weights suit."""
    from jdcsuite.artifacts import weights
    from jdcsuite.models.unet import UNet
    from jdcsuite.training import outputs

    model = {"_target_": "jdcsuite.models.unet.UNet", "width": 4}
    named = {"method": "unet", "lmbda": None, "budget": "demo", "seed": 0, "min_ms_ssim": None, "curve": "unet"}
    config = {**named, "sigma": 10, "model": model}
    data = photographs(root, training_noise=law, augment=None)
    outputs.export(config, UNet(width=4), data, tmp_path, {}, steps=3)
    assert weights.read_about(tmp_path / "weights.safetensors")["sigma"] == sigma


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (("div2k/a.png", "kodak24/b.png"), "test images"),
        (("mine/a.png", "my_test/b.png"), "test images"),
        (("mine/a.png", "cam/noisy/b.png", "cam/clean/b.png"), "noisy images"),
        (("noisy/b.png", "clean/b.png"), "noisy images"),
        (("0001/x_NOISY_SRGB_010.PNG", "0001/x_GT_SRGB_010.PNG"), "noisy images"),
        (("a_real.png", "a_mean.png"), "noisy images"),
    ],
)
def test_a_root_with_test_sets_or_noisy_images_is_refused(tmp_path: Path, layout: tuple, kind: str) -> None:
    for number, name in enumerate(("c.png", "d.png", *layout)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(tmp_path / name)
    with pytest.raises(UserError, match=rf"holds {kind} .* as data\.train=NAME data\.test=\[NAME\]"):
        photographs(tmp_path, train=None, test=None)


def test_a_named_folder_of_pairs_is_refused_and_one_called_test_is_not(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "a", tmp_path / "photos_test" / "latest")
    shutil.copytree(root / "b", tmp_path / "cam" / "noisy")
    assert photographs(tmp_path, train="photos_test", test=None).test_sets == [f"{tmp_path.name}-held-out"]
    with pytest.raises(UserError, match="holds noisy images"):
        photographs(tmp_path, train="photos_test", test=["cam"])


def test_home_and_the_current_folder_are_roots(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    home = photographs(Path("~") / root.name)
    assert (home.train_set, len(home.pictures("b"))) == ("a", 3)
    monkeypatch.chdir(root / "a")
    assert photographs(Path(), train=None, test=None).test_sets == ["a-held-out"]
