"""Each metric against an independent implementation, alone and on two processes; rows from decoded files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from pytorch_msssim import ms_ssim
from skimage.data import coffee
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from jdcsuite.baselines.standards import Standard
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.lossless import Lossless
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.judging.metrics import eight_bit, judge, quality
from jdcsuite.models.clean_entropy import CleanEntropy
from jdcsuite.models.fllic import FLLIC
from jdcsuite.training.outputs import joined
from jdcsuite.training.quality import Quality
from jdcsuite.types import Pair, Row


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Three crops of a photograph with different noise levels."""
    crops = [coffee()[y : y + 192, x : x + 200] for y, x in ((0, 0), (100, 150), (200, 300))]
    noises = [GaussianNoise(sigma=s) for s in (3, 10, 40)]
    return [
        Pair(
            noisy=noise.fixed(np.ascontiguousarray(crop), seed=0)[None],
            clean=to_tensor(crop)[None],
            sigma=torch.tensor([noise.sigma]),
        )
        for crop, noise in zip(crops, noises, strict=True)
    ]


def reference(pair: Pair) -> tuple[float, float]:
    a, b = (np.round(x[0].permute(1, 2, 0).numpy() * 255) for x in (pair.clean, pair.noisy))
    structural = ms_ssim(torch.from_numpy(a).permute(2, 0, 1)[None], torch.from_numpy(b).permute(2, 0, 1)[None])
    return peak_signal_noise_ratio(a, b, data_range=255), float(structural)


def test_quality_of_a_picture(pairs: list[Pair]) -> None:
    for pair in pairs:
        psnr, structural = reference(pair)
        measured = quality(pair.noisy, pair.clean)
        assert measured["psnr"] == pytest.approx(psnr, abs=1e-3)
        assert measured["ms_ssim"] == pytest.approx(structural, abs=2e-3)  # the two treat borders differently


@pytest.mark.parametrize(
    ("size", "noise"), [((176, 176), 0.002), ((301, 177), 0.1), ((180, 333), 0.5), ((256, 192), 0)]
)
def test_ms_ssim_is_that_of_torchmetrics(size: tuple[int, int], noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 20, 30, generator=generator)
    clean = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    x = (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    images = [(255 * image).round().double() / 255 for image in (x, clean)]
    expected = multiscale_structural_similarity_index_measure(*images, data_range=1.0)
    assert quality(x, clean)["ms_ssim"] == pytest.approx(float(expected), abs=1e-6)


def test_quality_is_measured_on_eight_bits() -> None:
    clean = torch.full((1, 3, 8, 8), 100 / 255)
    assert quality(clean + 0.4 / 255, clean)["psnr"] == float("inf")
    assert quality(clean + 0.6 / 255, clean)["psnr"] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert eight_bit(torch.tensor([-1.0, 2.0])).tolist() == [0, 1]


def test_ms_ssim_is_empty_under_176_pixels() -> None:
    x = torch.rand(1, 3, 175, 300)
    assert quality(x, x.flip(2))["ms_ssim"] is None
    x = torch.rand(1, 3, 176, 300)
    assert 0 < quality(x, (x + 0.01).clamp(0, 1))["ms_ssim"] < 1


def test_psnr_is_averaged_over_images_not_over_squared_errors(pairs: list[Pair]) -> None:
    collection = Quality()
    for pair in pairs:
        collection.update(pair.noisy, pair.clean)
    psnr, structural = np.mean([reference(pair) for pair in pairs], axis=0)
    assert float(collection.compute()["psnr"]) == pytest.approx(psnr, abs=1e-3)
    assert float(collection.compute()["ms_ssim"]) == pytest.approx(structural, abs=2e-3)


def _rank(rank: int, port_file: str, pairs: list[tuple[torch.Tensor, torch.Tensor]], out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    collection = Quality()
    for noisy, clean in pairs[rank::2]:  # two on one rank, one on the other
        collection.update(noisy, clean)
    torch.save({name: float(value) for name, value in collection.compute().items()}, f"{out}{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_metrics_of_one(pairs: list[Pair], tmp_path: Path) -> None:
    tensors = [(pair.noisy, pair.clean) for pair in pairs]
    mp.spawn(_rank, args=(str(tmp_path / "store"), tensors, str(tmp_path / "out")), nprocs=2)
    psnr, structural = np.mean([reference(pair) for pair in pairs], axis=0)
    for rank in range(2):
        measured = torch.load(tmp_path / f"out{rank}", weights_only=True)
        assert measured["psnr"] == pytest.approx(psnr, abs=1e-3)
        assert measured["ms_ssim"] == pytest.approx(structural, abs=2e-3)


def test_bpp_of_a_standard_codec_is_that_of_the_whole_file(pairs: list[Pair]) -> None:
    codec, pair = Standard(codec="jpegxl", quality=2.0), pairs[1]
    row, x_hat = judge(codec, pair)
    data = codec.compress(pair.noisy)
    assert row.bpp == 8 * len(data) / (192 * 200) and torch.equal(x_hat, codec.decompress(data))
    assert row.psnr_noisy == pytest.approx(reference(pair)[0], abs=1e-3)
    assert row.bpp_est is None


def test_the_parts_of_a_codec_s_file_add_up_to_its_size(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    codec = FLLIC(widths=[8, 8, 16], num_latents=32, prior_width=8).eval()
    codec.update()
    row, _ = judge(codec, pairs[1])
    assert row.bpp_payload == pytest.approx(row.bpp_y + row.bpp_z)
    assert row.bpp == pytest.approx(row.bpp_payload + row.bpp_header)
    assert row.bpp_est > 0 and row.h_hat is None


def test_a_guided_codec_s_row_describes_the_denoised_image_that_it_coded(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    guide = CleanEntropy(widths=[8, 8], lossless=Lossless(coder="jpegls"))
    codec = FLLIC(widths=[8, 8, 16], num_latents=32, prior_width=8, guide=guide).eval()
    codec.update()
    handed = Pair(noisy=pairs[1].clean, clean=pairs[1].clean, sigma=torch.tensor([torch.nan]))
    row, x_hat = judge(codec, pairs[1], denoised=handed, denoise_ms=1e6)
    alone, same = judge(codec, handed)
    assert torch.equal(x_hat, same) and row.enc_ms > 1e6 > alone.enc_ms and row.sigma == 10
    for part in ("bpp", "bpp_payload", "bpp_est", "bpp_header", "bpp_y", "bpp_z", "h_hat", "psnr"):
        assert getattr(row, part) == getattr(alone, part) > 0, "the codec's own, with or without a denoiser"
    assert row.bpp_est == pytest.approx(row.bpp_payload, rel=0.15)  # untrained priors
    assert row.psnr_noisy < alone.psnr_noisy, "quality is measured against the noisy input in both cases"


def test_a_row_keeps_its_own_values_when_it_is_filled() -> None:
    row = Row(image="a.png", bpp=1.0).fill(Row(image="b.png", bpp=2.0, method="fllic"))
    assert row == Row(image="a.png", bpp=1.0, method="fllic")


def test_rows_of_two_ranks_keep_every_quality_and_drop_repeated_images() -> None:
    """Rows used to be identified by the image alone, so that an any-rate codec kept only one quality under DDP."""
    rows = [Row(dataset="kodak24", image=image, quality=q) for image in ("a.png", "b.png") for q in (25.0, 70.0)]
    assert joined([rows[2:], rows[:2] + rows[2:]]) == rows
