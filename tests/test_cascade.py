"""Denoise-then-compress: the input of the codec, the rows, and the errors."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from test_cli import folder, jdc, run  # noqa: F401
from torch import Tensor, nn

from jdcsuite.artifacts import weights
from jdcsuite.baselines import denoisers
from jdcsuite.baselines.cascade import denoise, denoised
from jdcsuite.baselines.standards import LADDERS, Standard
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.imaging.folders import image_files
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.judging import evaluation, image_sets
from jdcsuite.judging.metrics import judge, timed
from jdcsuite.models.manypriors import ManyPriors
from jdcsuite.models.unet import UNet
from jdcsuite.types import Output, Pair, UserError


class Darker(nn.Module):
    """A denoiser whose output is easy to recognise."""

    def forward(self, x: Tensor, *, sigma: Tensor | None = None, bpp_noisy: Tensor | None = None) -> Output:
        time.sleep(0.05)
        self.sigma = sigma
        return Output(x_hat=x * 0.5 - 0.1)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("with+plus")
    about = {"run": "u1", "curve": "unet", "method": "unet", "sigma": None, "lmbda": None, "budget": "lab", "seed": 3}
    weights.save(UNet(width=2), {"_target_": "jdcsuite.models.unet.UNet", "width": 2}, path / "weights.safetensors",
                 about=about)  # fmt: skip
    return path


def test_the_codec_gets_the_denoised_image_in_8_bits() -> None:
    x, net = torch.rand(1, 3, 37, 50), Darker()
    coded = denoised(net, Pair(noisy=x, clean=x.flip(2), sigma=torch.tensor([7.0])))
    assert torch.equal(coded.noisy, to_tensor(to_bytes((x * 0.5 - 0.1)[0]))[None]) and net.sigma.tolist() == [7.0]
    assert torch.equal(coded.clean, x.flip(2)) and coded.sigma.isnan().all(), "the codec gets no sigma"
    denoised(net, coded)
    assert net.sigma.isnan().all()


def test_time_and_quality_are_those_of_denoiser_and_codec_together() -> None:
    clean = torch.rand(1, 3, 32, 32)
    pair = Pair(noisy=clean, clean=clean, sigma=torch.tensor([0.0]))
    coded, ms = timed(lambda: denoised(Darker(), pair), clean)
    row, x_hat = judge(Standard(codec="png"), pair, denoised=coded, denoise_ms=ms)
    assert row.enc_ms >= 50 > row.dec_ms and row.sigma == 0
    error = float(((x_hat - (clean * 255).round() / 255) ** 2).mean())
    assert row.psnr == pytest.approx(-10 * np.log10(error), abs=1e-3) and row.psnr_noisy > 90


def test_each_image_is_denoised_once_for_all_codecs(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    sizes = []

    class Counting(Darker):
        def forward(self, x: Tensor, **other: Tensor) -> Output:
            sizes.append(tuple(x.shape[-2:]))
            return super().forward(x, **other)

    monkeypatch.setitem(denoisers.TRAINING_FREE, "counting", lambda sigma: Counting())
    out = tmp_path / "rows.csv"
    failed = evaluation.evaluate(
        ["counting+jpeg", "counting+png", "jpegls"], out=out, folders=[folder], sigmas=[5.0, 10.0], noise_seed=0,
        protocol="clip8", device="cpu", console=Console(),
    )  # fmt: skip
    assert failed == [] and sizes == [(64, 64), *[(66, 70)] * 4], "a warm-up, and two images at each of two sigmas"
    rows = list(pd.read_csv(out).itertuples())
    assert len(rows) == (len(LADDERS["jpeg"]) + 2) * 4
    own = [row for row in rows if row.method != "noisy + jpegls"]
    assert all(row.enc_ms >= 50 for row in own), "a row's time is the denoiser's and the codec's"
    keys = [(row.sigma, row.method, row.quality) for row in rows]
    assert len(set(keys)) == len(rows) / 2 and keys[::2] == keys[1::2], "a codec's rows follow each other"


def test_a_model_without_image_output_is_one_sentence() -> None:
    class Estimator(nn.Module):
        def forward(self, x: Tensor, *, sigma: Tensor) -> Output:
            return Output(h_hat=sigma)

    net = Estimator()
    with pytest.raises(UserError, match="Estimator returns no image: give a denoiser's run"):
        denoise(net, torch.rand(1, 3, 16, 16))


def test_evaluate_takes_a_denoiser_before_any_codec(jdc, folder: Path, run: Path, unet: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "rows.csv"
    words = ["evaluate", f"{unet}+{run}", f"{unet}+jpeg", run, "jpeg", "--data", folder, "--sigma", 5, "--out", out]
    status, printed, err = jdc(*words)
    assert status == 0, printed + err
    rows = pd.read_csv(out)
    count = len(LADDERS["jpeg"])
    assert rows["method"].value_counts().to_dict() == {
        "unet + fllic": 2, "unet + jpeg": 2 * count, "fllic": 2, "noisy + jpeg": 2 * count
    }  # fmt: skip
    learned, standard = (rows[rows["method"] == f"unet + {name}"] for name in ("fllic", "jpeg"))
    assert (
        set(learned["run"]) == {"u1+r1"} and set(learned["lmbda"]) == {8192} and set(learned["budget"]) == {"lab+demo"}
    )
    assert set(standard["run"]) == {"u1+jpeg"} and set(standard["budget"]) == {"lab"}
    assert sorted(set(standard["quality"])) == LADDERS["jpeg"] and standard["codec_version"].notna().all()
    assert set(standard["curve"]) == {"unet + jpeg"}
    assert rows.groupby("image")["psnr_noisy"].nunique().eq(1).all(), "every codec gets the same noisy image"
    row = learned.iloc[0]
    cache = image_sets.ImageCache.build(image_files(folder))
    noise = image_sets.GaussianNoise(sigma=5.0)
    pair = image_sets.Pictures(cache, noise=noise, noise_seed=0, lossless=None)[0][1]
    coded = denoised(weights.load(unet), pair).noisy
    assert 8 * len(weights.load(run).compress(coded)) / (66 * 70) == pytest.approx(row["bpp"])
    assert row["bpp"] == pytest.approx(row["bpp_y"] + row["bpp_z"] + row["bpp_header"])
    alone, _ = judge(weights.load(run), Pair(noisy=coded, clean=pair.clean, sigma=torch.tensor([0.0])))
    for part in ("bpp_payload", "bpp_est", "bpp_header", "psnr"):
        assert row[part] == pytest.approx(getattr(alone, part)), f"{part} of the image that the codec gets"
    status, printed, err = jdc("report", out, "-o", tmp_path / "report")
    assert status == 0, printed + err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("RUN+avif", "is a codec, not a denoiser"),
        ("UNET+nope", "nope is neither a run"),
        ("nowhere+avif", "there are no weights at nowhere"),
        ("UNET", "name the codec that follows a denoiser, as in"),
        ("UNET+UNET", "is a UNet, not a codec"),
        ("UNET+avif@", "avif@ names no qualities: give numbers, as in avif@30,50"),
        ("UNET+avif@30;50", "avif@30;50 names no qualities"),
        ("nlm+jpeg@200", "from 1 to 100"),
        ("nlm@x+png", "nlm@x names no noise level: give grey levels, as in nlm@5.5"),
        ("nlm@-1+png", "sigma=-1.0 is not usable"),
    ],
)
def test_a_mistake_is_one_sentence(
    jdc, folder: Path, run: Path, unet: Path, tmp_path: Path, word: str, message: str  # noqa: F811
) -> None:  # fmt: skip
    word = word.replace("RUN", str(run)).replace("UNET", str(unet))
    status, _, err = jdc("evaluate", word, "--data", folder, "--sigma", 1, "--out", tmp_path / "out.csv")
    assert status == 2 and message in err and len(err.strip().splitlines()) == 1


def test_a_training_free_denoiser_can_precede_any_codec(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.csv"
    words = ["nlm+png", "nlm+jpeg@90,50,50", "jpegxl@0.5"]
    assert jdc("evaluate", *words, "--data", folder, "--sigma", 20, "--out", out)[0] == 0
    rows = pd.read_csv(out)
    qualities = {"nlm+jpeg": [50, 50, 90, 90], "nlm+png": [0, 0]}
    assert rows.groupby("run")["quality"].apply(sorted).to_dict() == qualities, "the requested ones, once"
    assert rows[rows["method"] == "noisy + jpegxl"]["quality"].tolist() == [0.5, 0.5]
    rows = rows[rows["method"] == "nlm + png"]
    assert (rows["psnr"] > rows["psnr_noisy"] + 1).all()


def test_pairs_are_judged_with_their_own_noise(jdc, tmp_path: Path) -> None:  # noqa: F811
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("noisy", "clean"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for name in ("a.png", "b.png"):
        clean = rng.integers(60, 200, (48, 64, 3)).astype(np.uint8)
        noisy = np.clip(clean + rng.normal(0, 8, clean.shape), 0, 255).astype(np.uint8)
        for kind, pixels in {"noisy": noisy, "clean": clean}.items():
            Image.fromarray(pixels).save(tmp_path / "pairs" / kind / name)
    out = tmp_path / "out.csv"
    assert jdc("evaluate", "nlm+png", "png", "--data", tmp_path / "pairs", "--out", out)[0] == 0
    rows = pd.read_csv(out)
    assert len(rows) == 4 and set(rows["noise_protocol"]) == {"real"} and rows["sigma"].isna().all()
    plain = rows[rows["method"] == "noisy + png"]
    np.testing.assert_allclose(plain["psnr"], plain["psnr_noisy"])
    assert plain["psnr_noisy"].between(28, 32).all()
    status, _, err = jdc("evaluate", "nlm+nlm+png", "--data", tmp_path / "pairs", "--out", out, "--force")
    assert status == 2 and "names two denoisers" in err
    twice = ["--data", tmp_path / "pairs", "--data", tmp_path / "pairs"]
    status, _, err = jdc("evaluate", "png", *twice, "--out", out, "--force")
    assert status == 2 and "two folders of --data are called pairs" in err
    status, _, err = jdc("report", out, "-o", out)
    assert status == 2 and "is a file: give a folder" in err
    status, _, err = jdc("evaluate", "png", "--data", tmp_path / "pairs" / "clean", "--out", out, "--force")
    assert status == 2 and "give the noise level to add" in err
    status, _, err = jdc("evaluate", "png", "--data", tmp_path / "pairs", "--sigma", 5, "--out", out, "--force")
    assert status == 2 and "judged with their own noise: leave out --sigma" in err
    assert len(pd.read_csv(out)) == 4, "a refused command leaves the file as it is"


def test_evaluate_names_weights_that_were_trained_on_its_images(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """The weights list their training scenes, and rows keep them, as the rows of a run do."""
    about = {
        "run": "m1",
        "curve": "jdc_ud",
        "method": "jdc_ud",
        "sigma": None,
        "lmbda": 512,
        "budget": "lab",
        "seed": 0,
    }
    about |= {"seed": 0, "train_set": "mine", "teacher_saw": "2 of 2"}
    about["train_scenes"] = [scene_and_iso(path)[0] for path in image_files(folder)][:1]
    config = {"_target_": "jdcsuite.models.manypriors.ManyPriors", "num_channels": 8, "num_latents": 8}
    model = ManyPriors(num_channels=8, num_latents=8)
    model.update()
    weights.save(model, config, tmp_path / "m.safetensors", about=about)
    out = tmp_path / "out.csv"
    status, printed, err = jdc("evaluate", tmp_path / "m.safetensors", "--data", folder, "--sigma", 5, "--out", out)
    assert status == 0 and f"m1 was trained on 1 scenes of {folder.name}" in printed, printed + err
    rows = pd.read_csv(out)
    assert set(rows["train_set"]) == {"mine"} and set(rows["teacher_saw"]) == {"2 of 2"}
