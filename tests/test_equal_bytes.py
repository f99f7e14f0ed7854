"""Codecs at equal file size, words that name candidates, and reference codecs of a report."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from jdcsuite.artifacts import weights
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.imaging.pixels import to_tensor
from jdcsuite.judging import candidates, evaluation, references, results, rows_file
from jdcsuite.judging.references import reference_rows
from jdcsuite.models.flagship import Flagship
from jdcsuite.reports import equal_bytes
from jdcsuite.types import Pair, UserError

SHAPE = {"widths": [8, 8], "blocks": [1, 1], "num_latents": 24, "prior_width": 8, "embedding": 8}


@pytest.fixture(scope="module")
def pair() -> Pair:
    y, x = np.mgrid[:96, :112]
    clean = np.stack([(2 * x + y) % 256, 40 + y, 255 - x], -1).astype(np.uint8)
    noisy = GaussianNoise(sigma=10).fixed(clean, seed=0)
    return Pair(noisy=noisy[None], clean=to_tensor(clean)[None], sigma=torch.tensor([10.0]))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Flagship(**SHAPE).eval()
    model.update()
    path = tmp_path_factory.mktemp("weights") / "flagship.safetensors"
    about = {"method": "flagship", "run": "flagship", "curve": "flagship", "lmbda": None, "sigma": None, "seed": 0}
    config = {"_target_": "jdcsuite.models.flagship.Flagship", **SHAPE}
    weights.save(model, config, path, about={**about, "budget": "legs"})
    return path


@pytest.mark.parametrize("most", [400, 2000, 10_000, 10**7])
def test_largest_uses_the_highest_quality_within_the_size(pair: Pair, most: int) -> None:
    quality, data = equal_bytes.largest("avif", pair.noisy, most=most)
    assert len(data) <= most
    larger = [len(equal_bytes.Standard(codec="avif", quality=q).compress(pair.noisy)) for q in range(quality + 1, 100)]
    assert not larger or larger[0] > most
    assert equal_bytes.largest("avif", pair.noisy, most=50) is None


def test_captions_at_equal_bytes_state_size_and_quality(pair: Pair, shipped: Path, tmp_path: Path, monkeypatch) -> None:
    shown = equal_bytes.reconstructions(pair, weights.load(shipped), name="ours")
    titles = [title.split("\n") for title, _ in shown]
    assert [t[0].split(" q ")[0] for t in titles] == ["noisy", "AVIF", "nlm + AVIF", "ours", "clean"]
    sizes = [int(t[1].split(" bytes")[0]) for t in titles[1:4]]
    assert max(sizes[:2]) <= sizes[2] and min(sizes) > 0.5 * sizes[2]
    assert torch.equal(shown[0][1], pair.noisy) and torch.equal(shown[-1][1], pair.clean)
    monkeypatch.setattr(weights, "shipped", lambda: shipped)
    equal_bytes.draw(pair, tmp_path / "strip.png")
    assert (tmp_path / "strip.png").stat().st_size > 1000


def test_flagship_names_the_weights_in_the_package(pair: Pair, shipped: Path, monkeypatch) -> None:
    monkeypatch.setattr(weights, "shipped", lambda: shipped)
    for word, qualities in (("flagship", candidates.QUALITIES), ("flagship@20,60", [20, 60]), (f"{shipped}@5", [5])):
        parsed = candidates.parse([word])
        assert [candidate.settings["quality"] for candidate in parsed] == qualities
        assert {candidate.row.method for candidate in parsed} == {"flagship"}
    (cascade,) = candidates.parse(["nlm+flagship@30"])
    assert cascade.settings == {"quality": 30.0} and cascade.denoiser is not None


def study(folder: Path, *, sigma: float = 10, **report: object) -> dict:
    """The configuration of a job with one embedded test image."""
    data = {
        "_target_": "jdcsuite.data.photographs.Photographs", "root": None, "train": None, "test": None, "noise_seed": 0,
        "noise": {"_target_": "jdcsuite.data.noise.GaussianNoise", "sigma": sigma},
        "crop": 64, "val_crop": 64, "batch": 1, "workers": 0, "seed": 0, "steps": 1, "limit": 1,
    }  # fmt: skip
    return {"data": data, "report": report, "sigma": sigma, "runs": str(folder), "name": "study"}


def test_a_reference_codec_without_weights_is_reported_and_the_others_are_judged(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def missing() -> Path:
        raise UserError("there are no weights here: fetch them")

    monkeypatch.setattr(weights, "shipped", missing)
    config = study(tmp_path, standards={"avif": [30], "jpegxl": None}, beside=["flagship", "webp@20"])
    paths = reference_rows(config, Console())
    assert [path.name.split("-")[0] for path in paths] == ["avif", "webp"]
    assert "flagship is left out of the report: there are no weights here" in capsys.readouterr().out
    written = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in reference_rows(config, Console())] == written, "files are made once"


def test_failed_rows_of_a_reference_codec_are_tried_again(tmp_path: Path, monkeypatch) -> None:
    """They used to be final, and its curve a mean over fewer images in every report of the study."""
    write_rows, failing = references.write_rows, [True]

    def failed(evaluator: evaluation.Evaluator, file: rows_file.RowsFile, **options: object) -> list:
        if not failing:
            return write_rows(evaluator, file, **options)
        row = evaluator.test_sets[0].row_of(0).fill(evaluator.codecs.judged[0].row)
        file.append(row := replace(row, error="no memory"))
        return [row]

    monkeypatch.setattr(references, "write_rows", failed)
    config = study(tmp_path, standards={"avif": [30]}, beside=[])
    (part,) = reference_rows(config, Console())
    assert results.read([part])["error"].tolist() == ["no memory"]
    failing.clear()
    (path,) = reference_rows(config, Console())
    assert path.suffix == ".csv" and results.read([path])["bpp"].notna().all() and not part.exists()


def test_two_launches_make_the_rows_of_a_reference_codec_once(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    write_rows = references.write_rows

    def slow(evaluator: evaluation.Evaluator, *rest: object, **options: object) -> list:
        calls.append(evaluator.test_sets[0].dataset)
        time.sleep(0.3)
        return write_rows(evaluator, *rest, **options)

    monkeypatch.setattr(references, "write_rows", slow)
    config = study(tmp_path, standards={"avif": [30]}, beside=[])
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda config: reference_rows(config, Console()), [config, config])
    assert first == second and len(calls) == 1
    (other,) = reference_rows(study(tmp_path, sigma=20, standards={"avif": [30]}, beside=[]), Console())
    assert other not in first and len(calls) == 2, "another noise level has rows of its own"
    assert results.read([*first, other])["sigma"].tolist() == [10, 20]
