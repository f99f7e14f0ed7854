"""Noisy images -> a folder of pairs whose clean halves are a denoiser's output: the training data of JDC-UD.

OUT/noisy/NAME.png is the input and OUT/clean/NAME.png the denoised whole image, both rounded to 8 bits.
predenoised.json records the denoiser (the teacher) and the scenes, see `data.provenance`; scores.csv how much each
image was changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jdcsuite.artifacts import environment, weights
from jdcsuite.artifacts.rows import write_rows
from jdcsuite.baselines.denoisers import TRAINING_FREE
from jdcsuite.data import provenance
from jdcsuite.data.layouts import scene_and_iso
from jdcsuite.data.provenance import Predenoised, Teacher
from jdcsuite.files import paths, pool
from jdcsuite.imaging import atomic
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.imaging.write import encode
from jdcsuite.models.denoiser import TILE, Denoiser
from jdcsuite.types import UserError

MAX_SCORED = 1024  # pixels: larger images are scored in parts of at most this side, to limit memory
SCORES = "scores.csv"
Denoise = Callable[[Tensor], Tensor]  # (1, 3, h, w) in [0, 1] -> the same shape, for any size


@dataclass(frozen=True)
class LazyDenoiser:
    """A denoiser that every process loads at its first use, so that it can be pickled with each image.

    ``word``: nlm, bm3d, a run folder or a weights file. ``id``: see `provenance.Teacher`; changed weights are reloaded.
    """

    word: str
    id: str
    sigma: float | None
    tile: int
    device: str

    def __call__(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        return _load(self)(x)


@lru_cache(maxsize=1)
def _load(lazy: LazyDenoiser) -> Denoise:
    if lazy.word in TRAINING_FREE:
        return partial(TRAINING_FREE[lazy.word](sigma=lazy.sigma).denoise, tile=lazy.tile)
    model = weights.load(lazy.word, device=lazy.device)
    if not isinstance(model, Denoiser):
        raise UserError(f"{lazy.word} is a {type(model).__name__}, not a denoiser: give a run of +experiment=unet")
    if lazy.tile % model.stride:
        raise UserError(
            f"--tile {lazy.tile} does not suit this denoiser: give a multiple of {model.stride}, or 0 for one tile"
        )
    return partial(model.eval().denoise, tile=lazy.tile)


@dataclass(frozen=True)
class InputImage:
    """An input image. ``name``: of its two files in the output's folders."""

    path: Path
    name: str


@dataclass(frozen=True)
class PairOutcome:
    """Result of one image. ``score``: MS-SSIM(target, input), None if a side is below 176 pixels. ``error``: why it
    failed."""

    image: InputImage
    height: int = 0
    width: int = 0
    score: float | None = None
    error: str = ""


def load_teacher(
    word: str, *, sigma: float | None = None, tile: int = TILE, device: str = "cpu"
) -> tuple[LazyDenoiser, Teacher]:
    """A denoiser and its record. ``word``: nlm, bm3d, or a denoiser's run folder or weights file. ``sigma``: noise
    level in grey levels, for nlm and bm3d (None: estimated from each image). UserError: weights of another kind of
    model, or options that it does not support."""
    if tile < 0:
        raise UserError(f"--tile {tile} is not possible: give pixels, or 0 for one tile")
    if word in TRAINING_FREE:
        level = "estimated" if sigma is None else f"{sigma:g}"
        package = "scikit-image" if word == "nlm" else "bm3d"
        teacher = Teacher(
            name=word, id=f"{package} {environment.package_version(package)}, sigma {level}", train_scenes=[]
        )
    elif sigma is not None:
        raise UserError(
            f"a trained denoiser takes no noise level: leave --sigma out, it is for {' and '.join(TRAINING_FREE)}"
        )
    else:
        path = weights.path_of(word)
        teacher = Teacher.of_weights(weights.read_about(path), id=str(weights.content_hash(path)), name=path.stem)
    denoiser = LazyDenoiser(word, teacher.id, sigma, tile, device)
    _load(denoiser)  # mistakes are reported before anything is written
    return denoiser, teacher


def plan(words: list[str], out: Path) -> list[InputImage]:
    """Files, folders and patterns -> the images and their names in ``out``: the relative path with underscores, because
    ``noisy/`` and ``clean/`` have no subfolders. A subfolder ``noisy`` is left out, so that patterns of file names
    match as they do in the folder of pairs. UserError: ``out`` lies inside an input or an input inside ``out``, or two
    images have one name."""
    place = out.resolve()
    for word in words:
        if place.is_relative_to(Path(word).resolve()):
            raise UserError(f"{out} lies inside the input {word}: choose a place outside")
    images, taken = [], {}
    for item in paths.plan(words, f"{out}{os.sep}", suffix=".png", coded=False):
        if item.source.resolve().is_relative_to(place):
            raise UserError(f"the input {item.source} lies inside {out}, which is replaced: choose another place")
        name = "_".join(part for part in item.target.relative_to(out).parts if part != "noisy")
        if (other := taken.setdefault(name, item.source)) is not item.source:
            raise UserError(f"{other} and {item.source} would both be called {name}: process them separately")
        images.append(InputImage(item.source, name))
    return images


def prepare(out: Path, *, force: bool) -> None:
    """Make the folders of ``out``. With ``force``, the files of an earlier run are removed, so that targets of two
    denoisers never mix. UserError: ``out`` is not empty without ``force``, or holds other files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as the output")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise UserError(f"{out} exists: give --force to replace its pairs, or another place")
        earlier = provenance.read(out)
        own = {out / provenance.FILE, out / SCORES}
        own |= {out / kind / name for name in (earlier.pictures if earlier else []) for kind in ("noisy", "clean")}
        files = [path for path in sorted(out.rglob("*")) if not path.is_dir()]
        for path in files:
            atomic.check(path)
        if foreign := [path for path in files if path not in own and not atomic.is_part(path)]:
            raise UserError(f"{out} holds files that predenoise did not write (as {foreign[0]}): choose another place")
        for path in files:
            path.unlink()
    for kind in ("noisy", "clean"):
        (out / kind).mkdir(parents=True, exist_ok=True)


def run(
    images: list[InputImage], denoise: Denoise, teacher: Teacher, out: Path, *, processes: int = 1
) -> Iterator[PairOutcome]:
    """Denoise every image and yield its outcome as it finishes; one failure never stops the rest.

    The record is written before the first image, so that no target is ever without its teacher, and again at the end,
    of the pairs that exist then.
    """
    record = Predenoised(teacher=teacher, pictures={image.name: _origin(image.path) for image in images})
    _write_record(record, out)
    outcomes: dict[str, PairOutcome] = {}
    work = partial(_process, denoise=denoise, teacher=teacher, out=out)
    results = pool.run(
        images, work, jobs=processes, died=lambda image: PairOutcome(image, error=f"{pool.DIED}: {pool.SMALLER}")
    )
    try:
        for outcome in results:
            outcomes[outcome.image.name] = outcome
            if outcome.error:
                _remove(out, outcome.image.name)
            yield outcome
    finally:  # also on Ctrl-C
        results.close()  # images in progress in other processes are finished
        kept, rows = {}, []
        for image in images:
            if not all(path.exists() for path in _pair_paths(out, image.name)):
                _remove(out, image.name)
                continue
            outcome = outcomes.get(image.name) or _outcome_of_files(image, out)
            kept[image.name] = record.pictures[image.name]
            row = {"image": image.name, **kept[image.name], "height": outcome.height, "width": outcome.width}
            rows.append({**row, "ms_ssim": outcome.score, "teacher": teacher.name})
        if rows:
            write_rows(rows, out / SCORES)
        _write_record(Predenoised(teacher=teacher, pictures=kept), out)


def _pair_paths(out: Path, name: str) -> list[Path]:
    """Files of the target and of the input."""
    return [out / kind / name for kind in ("clean", "noisy")]


def _remove(out: Path, name: str) -> None:
    """Remove whatever exists of a pair."""
    for path in _pair_paths(out, name):
        path.unlink(missing_ok=True)


def _outcome_of_files(image: InputImage, out: Path) -> PairOutcome:
    """The outcome of a pair that another process finished after an interruption, from its files."""
    clean, noisy = (Picture.read(path).pixels for path in _pair_paths(out, image.name))
    return PairOutcome(image, *noisy.shape[:2], score=score(clean, noisy))


def _write_record(record: Predenoised, out: Path) -> None:
    atomic.write(out / provenance.FILE, record.dump(code_version=environment.code_version()))


def _origin(path: Path) -> dict[str, str]:
    scene, iso = scene_and_iso(path)
    return {"source": str(path), "scene": scene, "iso": iso}


def _process(image: InputImage, *, denoise: Denoise, teacher: Teacher, out: Path) -> PairOutcome:
    """One image; an exception that concerns it alone becomes its error."""
    try:
        return _make_pair(image, denoise, teacher, _pair_paths(out, image.name))
    except Exception as error:  # must not stop the other images
        return PairOutcome(image, error=pool.reason(error, image.path, advice=pool.SMALLER))


def _make_pair(image: InputImage, denoise: Denoise, teacher: Teacher, pair_paths: list[Path]) -> PairOutcome:
    pixels = Picture.read(image.path).full_scale
    # through int32, because PyTorch has few operations on uint16
    x = torch.from_numpy(pixels.astype(np.int32)).permute(2, 0, 1)[None].float() / np.iinfo(pixels.dtype).max
    denoised = denoise(x)
    if not torch.isfinite(denoised).all():
        raise UserError(f"{teacher.name} turns {image.path} into NaN: give other weights")
    noisy, clean = to_bytes(x[0]), to_bytes(denoised[0])
    for path, samples in zip(pair_paths, (clean, noisy), strict=True):
        atomic.write(path, encode(Picture(samples), path))
    return PairOutcome(image, *noisy.shape[:2], score=score(clean, noisy))


@torch.no_grad()
def score(target: UInt8[np.ndarray, "h w 3"], noisy: UInt8[np.ndarray, "h w 3"]) -> float | None:
    """MS-SSIM(target, input) of an image; with a side over `MAX_SCORED`, the mean over equal parts, weighted by area.
    None under 176 pixels, where it is undefined."""
    if min(noisy.shape[:2]) < SMALLEST:
        return None
    total = 0.0
    for rows in _parts(noisy.shape[0]):
        for columns in _parts(noisy.shape[1]):
            pair = [to_tensor(np.ascontiguousarray(image[rows, columns]))[None] for image in (target, noisy)]
            total += float(ms_ssim(*pair)) * pair[0][0, 0].numel()
    return total / (noisy.shape[0] * noisy.shape[1])


def _parts(side: int) -> list[slice]:
    edges = np.linspace(0, side, -(-side // MAX_SCORED) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def summary(outcomes: list[PairOutcome], out: Path) -> str:
    """One line: images done and failed, and how much they were changed."""
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    failed = sum(bool(outcome.error) for outcome in outcomes)
    parts = [f"{len(outcomes) - failed} image{'s' * (len(outcomes) - failed != 1)} in {out}"]
    if scores:
        above = sum(s > 0.8 for s in scores)
        parts.append(f"MS-SSIM(target, input) {np.mean(scores):.3f} on average, above 0.8 in {above} of {len(scores)}")
    return ", ".join(parts + ([f"{failed} failed"] if failed else []))
