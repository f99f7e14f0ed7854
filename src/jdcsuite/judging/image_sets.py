"""Folders of images, or a run -> test sets: images with fixed noise, and the columns that their rows share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.utils import instantiate
from torch.utils.data import Dataset

from jdcsuite.artifacts import environment
from jdcsuite.artifacts import folder as run_folder
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.datamodule import DataModule
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.paircache import PairCache
from jdcsuite.data.samples import Named, PairPictures, Pictures
from jdcsuite.data.shots import find_shots
from jdcsuite.data.sources import Source
from jdcsuite.imaging.folders import printable, scan
from jdcsuite.judging.metrics import image_id
from jdcsuite.types import Row, UserError


@dataclass(frozen=True)
class ImageSet:
    """Test images at one noise level. ``row``: columns that all rows share. ``scenes``: those of the images."""

    dataset: str
    images: Dataset[Named]
    row: Row
    scenes: frozenset[str] = frozenset()

    @property
    def sigma(self) -> float:
        return self.images.noise.sigma if isinstance(self.images, Pictures) else self.images.sigma

    def row_of(self, i: int) -> Row:
        """The columns of image ``i`` that are known before it is read."""
        plain = isinstance(self.images, Pictures)
        clean, k = (self.images.cache, i) if plain else (self.images.pairs.clean, self.images.pairs.partner[i])
        known = self.images.side is None and k not in clean.refused  # crops have other pixels
        identity = image_id(clean.contents[k][1]) if known else None
        name = printable(self.images.names[i])
        return replace(self.row, dataset=self.dataset, sigma=self.sigma, image=name, image_id=identity)


def distinct(folders: list[Path]) -> list[Path]:
    """``folders``, whose names become the datasets of the rows. UserError: two of them have one name."""
    names = [folder.name for folder in folders]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two folders of --data are called {repeated[0]}, their name in results: judge them separately")
    return folders


def of_job(config: Mapping) -> tuple[DataModule, list[ImageSet]]:
    """The datamodule of a job, and its test sets with their noise."""
    data: DataModule = instantiate(config["data"], _convert_="all")
    data.prepare()
    row = Row(noise_protocol=data.noise.protocol, noise_seed=data.noise_seed, code_version=environment.code_version())
    scenes = frozenset(data.test_scenes)
    return data, [ImageSet(name, data.pictures(name), row, scenes) for name in data.test_sets]


def is_run(folder: Path) -> bool:
    return (folder / run_folder.CONFIG).is_file()


def of_folder(folder: Path, sigmas: list[float], noise_seed: int, protocol: str) -> list[ImageSet]:
    """The test sets of a folder or run. An image of a folder that cannot be read is an error when it is asked for."""
    if is_run(folder):
        if sigmas:
            raise UserError(f"{folder} is a run, whose test images have their own noise: leave out --sigma")
        return of_job(run_folder.read_config(folder))[1]
    files = scan(folder)
    scenes = frozenset(scene_and_iso(path)[0] for path in files.images)
    version, dataset = Row(code_version=environment.code_version()), printable(folder.name)
    if pairs := find_shots(folder, Source.parse(folder.name)):
        noisy = PairPictures(PairCache.of_shots(pairs, cache_dir=None, keep_refused=True), lossless=None)
        return [ImageSet(dataset, noisy, replace(version, noise_protocol="real"), scenes)]
    if not sigmas:
        raise UserError(f"{folder} holds clean images: give the noise level to add, as in --sigma 10")
    noises = [GaussianNoise(sigma=sigma, protocol=protocol) for sigma in dict.fromkeys(sigmas)]
    cache = ImageCache.build(files.images, keep_refused=True)
    row = replace(version, noise_protocol=protocol, noise_seed=noise_seed)
    return [
        ImageSet(dataset, Pictures(cache, noise=noise, noise_seed=noise_seed, lossless=None), row, scenes)
        for noise in noises
    ]
