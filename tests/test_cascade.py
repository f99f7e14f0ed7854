"""Denoise-then-compress: what the codec is given, what the rows say, and what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import folder, jdc, run  # noqa: F401
from torch import Tensor, nn

from jdcsuite import evaluation, weights
from jdcsuite.baselines.cascade import Cascade, denoise
from jdcsuite.baselines.standards import LADDERS, Standard
from jdcsuite.data.noise import to_bytes, to_tensor
from jdcsuite.metrics import judge
from jdcsuite.models.unet import UNet
from jdcsuite.types import Compressor, Output, Pair, UserError


class Darker(nn.Module):
    """A denoiser whose picture is easily told."""

    def forward(self, x: Tensor, *, sigma: Tensor | None = None, bpp_noisy: Tensor | None = None) -> Output:
        time.sleep(0.05)
        self.told = sigma
        return Output(x_hat=x * 0.5 - 0.1)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("with+plus")
    about = {"run": "u1", "curve": "unet", "method": "unet", "sigma": None, "lmbda": None, "budget": "lab", "seed": 3}
    weights.save(UNet(width=2), {"_target_": "jdcsuite.models.unet.UNet", "width": 2}, path / "weights.safetensors",
                 about=about)  # fmt: skip
    return path


def test_the_codec_is_given_the_denoiser_s_picture_in_8_bits() -> None:
    x = torch.rand(1, 3, 37, 50)
    cascade, codec = Cascade(denoiser=Darker(), codec=Standard(codec="png")), Standard(codec="png")
    assert isinstance(cascade, Compressor)
    data = cascade.compress(x, sigma=7.0)
    expected = (x * 0.5 - 0.1).clamp(0, 1)
    assert data == codec.compress(expected) and cascade.denoiser.told.tolist() == [7.0]
    assert torch.equal(cascade.decompress(data), to_tensor(to_bytes(expected[0]))[None])
    cascade.compress(x)
    assert cascade.denoiser.told.isnan().all()


def test_time_and_quality_are_those_of_the_whole() -> None:
    clean = torch.rand(1, 3, 32, 32)
    pair = Pair(noisy=clean, clean=clean, sigma=torch.tensor([0.0]))
    row, x_hat = judge(Cascade(denoiser=Darker(), codec=Standard(codec="png")), pair)
    assert row["enc_ms"] >= 50 > row["dec_ms"]
    error = float(((x_hat - (clean * 255).round() / 255) ** 2).mean())
    assert row["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3) and row["psnr_noisy"] > 90


def test_what_makes_no_picture_is_one_sentence() -> None:
    class Estimator(nn.Module):
        def forward(self, x: Tensor, *, sigma: Tensor) -> Output:
            return Output(h_hat=sigma)

    net = Estimator()
    with pytest.raises(UserError, match="Estimator makes no picture: give a denoiser's run"):
        denoise(net, torch.rand(1, 3, 16, 16))


def test_evaluate_takes_a_denoiser_before_any_codec(jdc, folder: Path, run: Path, unet: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "rows.csv"
    words = ["evaluate", f"{unet}+{run}", f"{unet}+jpeg", run, "jpeg", "--data", folder, "--sigma", 5, "--out", out]
    status, said, err = jdc(*words)
    assert status == 0, said + err
    rows = pd.read_csv(out)
    count = len(LADDERS["jpeg"])
    assert rows["method"].value_counts().to_dict() == {
        "denoise + fllic": 2, "denoise + jpeg": 2 * count, "fllic": 2, "noisy + jpeg": 2 * count
    }  # fmt: skip
    learned, standard = (rows[rows["method"] == f"denoise + {name}"] for name in ("fllic", "jpeg"))
    assert (
        set(learned["run"]) == {"u1+r1"} and set(learned["lmbda"]) == {8192} and set(learned["budget"]) == {"lab+demo"}
    )
    assert set(standard["run"]) == {"u1+jpeg"} and set(standard["budget"]) == {"lab"}
    assert sorted(set(standard["quality"])) == LADDERS["jpeg"] and standard["codec_version"].notna().all()
    assert set(standard["curve"]) == {"denoise + jpeg (unet + jpeg)"}
    assert rows.groupby("image")["psnr_noisy"].nunique().eq(1).all(), "every codec was given the same noisy picture"
    row = learned.iloc[0]
    cascade = Cascade(denoiser=weights.load(unet), codec=weights.load(run))
    cache = evaluation.ImageCache.build(evaluation.files(folder))
    noise = evaluation.GaussianNoise(sigma=5.0)
    noisy = evaluation.Pictures(cache, noise=noise, noise_seed=0, lossless=None)[0][1].noisy
    assert 8 * len(cascade.compress(noisy, sigma=5.0)) / (66 * 70) == pytest.approx(row["bpp"])
    status, said, err = jdc("report", out, "-o", tmp_path / "report")
    assert status == 0, said + err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("RUN+avif", "holds a codec, no denoiser"),
        ("UNET+nope", "nope is neither a run"),
        ("nowhere+avif", "there are no weights at nowhere"),
        ("UNET", "say what codes a denoiser's pictures, as in"),
        ("UNET+UNET", "holds no codec but a UNet"),
    ],
)
def test_a_mistake_is_one_sentence(
    jdc, folder: Path, run: Path, unet: Path, tmp_path: Path, word: str, said: str  # noqa: F811
) -> None:  # fmt: skip
    word = word.replace("RUN", str(run)).replace("UNET", str(unet))
    status, _, err = jdc("evaluate", word, "--data", folder, "--sigma", 1, "--out", tmp_path / "out.csv")
    assert status == 2 and said in err and len(err.strip().splitlines()) == 1


def test_a_denoiser_that_learned_nothing_goes_before_any_codec(jdc, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.csv"
    assert jdc("evaluate", "nlm+png", "--data", folder, "--sigma", 20, "--out", out)[0] == 0
    rows = pd.read_csv(out)
    assert set(rows["method"]) == {"denoise + png"} and set(rows["run"]) == {"nlm+png"}
    assert (rows["psnr"] > rows["psnr_noisy"] + 1).all()


def test_pairs_are_judged_with_the_noise_that_they_have(jdc, tmp_path: Path) -> None:  # noqa: F811
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
    status, _, err = jdc("evaluate", "png", "--data", tmp_path / "pairs" / "clean", "--out", out, "--force")
    assert status == 2 and "give the noise to add" in err
