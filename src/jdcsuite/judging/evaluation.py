"""Codecs (learned or standard) and test images with fixed noise -> rows of results, from files that are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset

from jdcsuite import checks
from jdcsuite.artifacts import environment
from jdcsuite.baselines.cascade import denoised
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.samples import Named, PairPictures, Pictures
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.imaging.folders import image_files
from jdcsuite.judging import candidates
from jdcsuite.judging.candidates import Candidate
from jdcsuite.judging.metrics import judge, of_input, timed
from jdcsuite.types import Pair, Row, UserError


@dataclass(frozen=True)
class ImageSet:
    """Test images at one noise level. ``row``: columns that all of its rows share. ``scenes``: those of its images."""

    dataset: str
    images: Dataset[Named]
    row: Row
    scenes: frozenset[str] = frozenset()


def evaluate(
    codecs: list[str],
    *,
    folders: list[Path],
    sigmas: list[float],
    noise_seed: int,
    protocol: str,
    device: str,
    console: Console,
) -> list[Row]:
    """Rows of ``codecs`` (see `candidates`) on all images of ``folders``.

    A folder of clean images is judged at each of ``sigmas`` (grey levels), with noise of ``noise_seed`` by ``protocol``
    (clip8 or float); a folder of pairs (see `data.layouts`) with the noise that its images have.
    """
    test_sets = [test for folder in _distinct(folders) for test in _test_sets(folder, sigmas, noise_seed, protocol)]
    checks.device(device)
    judged = candidates.parse(codecs, device=device)
    _warn_of_training_images(judged, test_sets, console)
    return [row for test_set in test_sets for row in rows_of(judged, test_set, console=console, device=device)]


def _distinct(folders: list[Path]) -> list[Path]:
    """``folders``, whose names become the datasets of the rows. UserError: two of them have one name."""
    names = [folder.name for folder in folders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two folders of --data are called {repeated[0]}, their name in results: judge them separately")
    return folders


def _test_sets(folder: Path, sigmas: list[float], noise_seed: int, protocol: str) -> list[ImageSet]:
    images = image_files(folder)
    scenes = frozenset(scene_and_iso(path)[0] for path in images)
    version = Row(code_version=environment.code_version())
    if pairs := find_shots(folder, Source.parse(folder.name)):
        noisy = PairPictures(PairCache.of_shots(pairs, cache_dir=None), lossless=None)
        return [ImageSet(folder.name, noisy, replace(version, noise_protocol="real"), scenes)]
    if not sigmas:
        raise UserError(f"{folder} holds clean images: give the noise level to add, as in --sigma 10")
    noises = [GaussianNoise(sigma=sigma, protocol=protocol) for sigma in sigmas]
    cache, row = ImageCache.build(images), replace(version, noise_protocol=protocol, noise_seed=noise_seed)
    return [
        ImageSet(folder.name, Pictures(cache, noise=noise, noise_seed=noise_seed, lossless=None), row, scenes)
        for noise in noises
    ]


def _warn_of_training_images(judged: list[Candidate], test_sets: list[ImageSet], console: Console) -> None:
    """Report weights that were trained on scenes of a test set."""
    shared = {
        (str(candidate.row.run), test_set.dataset): test_set.scenes & candidate.train_scenes
        for test_set in test_sets
        for candidate in judged
    }
    for (run, dataset), scenes in shared.items():
        if scenes:
            console.print(
                f"{run} was trained on {len(scenes)} scenes of {dataset} (as {min(scenes)}): these rows are no test",
                style="yellow", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def rows_of(judged: list[Candidate], test_set: ImageSet, *, console: Console, device: str = "cpu") -> list[Row]:
    """One row for each candidate and image, candidate by candidate."""
    rows: list[list[Row]] = [[] for _ in judged]
    progress = track(
        _image_by_image(judged, test_set.images, device), f"{len(judged)} codecs on {test_set.dataset}",
        console=console, total=len(test_set.images) * len(judged), transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    for number, image, row in progress:
        row = replace(row, dataset=test_set.dataset, image=image)
        rows[number].append(row.fill(judged[number].row).fill(test_set.row))
    return [row for candidate_rows in rows for row in candidate_rows]


def _image_by_image(judged: list[Candidate], images: Dataset[Named], device: str) -> Iterator[tuple[int, str, Row]]:
    """(number of the candidate, name of the image, row). Holds one image at a time, which each denoiser processes once
    for all codecs."""
    denoisers = {id(one.denoiser): one.denoiser for one in judged if one.denoiser is not None}
    for i in range(len(images)):
        name, pair = images[i]
        pair = pair.to(device)
        if i == 0:
            _warm_up(denoisers.values(), pair)
        outputs = {key: timed(partial(denoised, denoiser, pair), pair.noisy) for key, denoiser in denoisers.items()}
        input_row = of_input(pair)
        for number, candidate in enumerate(judged):
            output, ms = outputs.get(id(candidate.denoiser), (None, 0.0))
            row, _ = judge(
                candidate.codec,
                pair,
                denoised=output,
                denoise_ms=ms,
                input_row=input_row,
                settings=candidate.settings,
            )
            yield number, name, row


def _warm_up(denoisers: Iterable[object], pair: Pair) -> None:
    """Load libraries and kernels, so that the first measured time is like the others."""
    corner = replace(pair, noisy=pair.noisy[..., :64, :64], clean=pair.clean[..., :64, :64])
    for denoiser in denoisers:
        denoised(denoiser, corner)
