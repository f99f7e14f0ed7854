"""Pictures -> a folder of pairs whose clean halves a denoiser made, on whole pictures: the training data of JDC-UD.

OUT/noisy/NAME.png is the input and OUT/clean/NAME.png what the teacher makes of it, both rounded to 8 bits;
predenoised.json says which teacher and which scenes (`data/provenance`), scores.csv how much each picture was changed.
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
from jdcsuite.data.provenance import Predenoised
from jdcsuite.files import paths, pool
from jdcsuite.imaging import atomic
from jdcsuite.imaging.picture import Picture
from jdcsuite.imaging.pixels import to_bytes, to_tensor
from jdcsuite.imaging.similarity import SMALLEST, ms_ssim
from jdcsuite.imaging.write import encode
from jdcsuite.models.denoiser import TILE, Denoiser
from jdcsuite.types import UserError

SCORED = 1024  # pixels: MS-SSIM of a larger picture is the mean over parts of at most that side, for memory's sake
SCORES = "scores.csv"


@dataclass(frozen=True)
class Teacher:
    """``denoise``: (1, 3, h, w) in [0, 1] -> the same, of any size; pickled where several processes work."""

    denoise: Callable[[Tensor], Tensor]
    about: provenance.Teacher


@dataclass(frozen=True)
class Asked:
    """A teacher's `denoise` as it was asked for: small enough to go with every picture to any process, and loaded once
    in each. ``id``: as in `provenance.Teacher`, so that what changed is loaded anew."""

    word: str
    id: str
    sigma: float | None
    tile: int
    device: str

    def __call__(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 h w"]:
        return _loaded(self)(x)


@lru_cache(maxsize=1)
def _loaded(asked: Asked) -> Callable[[Tensor], Tensor]:
    if asked.word in TRAINING_FREE:
        return partial(TRAINING_FREE[asked.word](sigma=asked.sigma).denoise, tile=asked.tile)
    model = weights.load(asked.word, device=asked.device)
    if not isinstance(model, Denoiser):
        raise UserError(f"{asked.word} holds no denoiser but a {type(model).__name__}: give a run of +experiment=unet")
    if asked.tile % model.stride:
        raise UserError(
            f"--tile {asked.tile} is not possible: this denoiser's are multiples of {model.stride}, or 0 for one"
        )
    return partial(model.eval().denoise, tile=asked.tile)


@dataclass(frozen=True)
class Job:
    """``name``: of the picture in the output's two folders."""

    source: Path
    name: str


@dataclass(frozen=True)
class Done:
    """``score``: MS-SSIM(target, input), None under 176 pixels. ``error``: the sentence of a picture that failed."""

    job: Job
    height: int = 0
    width: int = 0
    score: float | None = None
    error: str = ""


def teacher(word: str, *, sigma: float | None = None, tile: int = TILE, device: str = "cpu") -> Teacher:
    """``word``: nlm, bm3d, or a denoiser's run folder or weights file. ``sigma``: of the noise in grey levels, for the
    first two (None: estimated from each picture). UserError for weights of anything else."""
    if tile < 0:
        raise UserError(f"--tile {tile} is not possible: give pixels, or 0 for the picture as one")
    if word in TRAINING_FREE:
        level = "estimated" if sigma is None else f"{sigma:g}"
        package = "scikit-image" if word == "nlm" else "bm3d"
        about = provenance.Teacher(
            name=word, id=f"{package} {environment.package_version(package)}, sigma {level}", train_scenes=[]
        )
    elif sigma is not None:
        raise UserError(f"--sigma is for {' and '.join(TRAINING_FREE)}: a trained denoiser is not told the noise level")
    else:
        path = weights.path_of(word)
        said = weights.read(path)[1]
        about = provenance.Teacher.of_weights(said, id=str(weights.content_hash(path)), name=path.stem)
    asked = Asked(word, about.id, sigma, tile, device)
    _loaded(asked)  # what is wrong with it is told before anything is written
    return Teacher(asked, about)


def plan(inputs: list[str], out: Path) -> list[Job]:
    """Pictures, folders and globs -> what each is called in ``out``: its own name, behind its subfolders' with
    underscores, because the loader's two folders have none. A subfolder ``noisy`` is not named, so that patterns of
    names mean what they meant in the folder of pairs."""
    for word in inputs:
        if out.absolute().is_relative_to(Path(word).absolute()):
            raise UserError(f"{out} lies inside the input {word}: choose a place outside")
    tasks = paths.plan(inputs, f"{out}{os.sep}", ending=".png", coded=False)
    parts = [[part for part in task.target.relative_to(out).parts if part != "noisy"] for task in tasks]
    jobs = [Job(task.source, "_".join(named)) for task, named in zip(tasks, parts, strict=True)]
    taken: dict[str, Path] = {}
    for job in jobs:
        if (other := taken.setdefault(job.name, job.source)) is not job.source:
            raise UserError(f"{other} and {job.source} would both be called {job.name}: do them one by one")
    return jobs


def prepare(out: Path, *, force: bool) -> None:
    """Makes ``out``'s folders. What an earlier run wrote is removed with ``force``, so that no two teachers' targets
    mix. UserError: anything else lies there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as the output")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise UserError(f"{out} exists: give --force to make it anew, or another place")
        earlier = provenance.read(out)
        own = {out / provenance.FILE, out / SCORES}
        own |= {out / kind / name for name in (earlier.pictures if earlier else []) for kind in ("noisy", "clean")}
        found = [path for path in sorted(out.rglob("*")) if not path.is_dir()]
        if foreign := [path for path in found if path not in own and not path.name.endswith(".part")]:
            raise UserError(f"{out} holds what predenoise did not write (as {foreign[0]}): choose another place")
        for path in found:
            path.unlink()
    for kind in ("noisy", "clean"):
        (out / kind).mkdir(parents=True, exist_ok=True)


def run(jobs: list[Job], taught_by: Teacher, out: Path, *, processes: int = 1) -> Iterator[Done]:
    """Every picture, as it is done; a picture that fails is told and the others are still done. Records are written
    first, so that no picture is ever without its teacher's name, and again at the end, of what is there."""
    made = Predenoised(teacher=taught_by.about, pictures={job.name: _origin(job.source) for job in jobs})
    _record(made, out)
    known: dict[str, Done] = {}
    work = partial(_guarded, taught_by=taught_by, out=out)
    ended = pool.run(jobs, work, jobs=processes, died=lambda job: Done(job, error=pool.DIED))
    try:
        for done in ended:
            known[done.job.name] = done
            if done.error:
                _remove(out, done.job.name)
            yield done
    finally:  # Ctrl-C, too
        ended.close()  # pictures that other processes have begun are ended
        there, rows = {}, []
        for job in jobs:
            if not all(place.exists() for place in _places(out, job.name)):
                _remove(out, job.name)
                continue
            done = known.get(job.name) or _ended(job, out)
            there[job.name] = made.pictures[job.name]
            row = {"image": job.name, **there[job.name], "height": done.height, "width": done.width}
            rows.append({**row, "ms_ssim": done.score, "teacher": taught_by.about.name})
        if rows:
            write_rows(rows, out / SCORES)
        _record(Predenoised(teacher=made.teacher, pictures=there), out)


def _places(out: Path, name: str) -> list[Path]:
    """Of a picture's target and input."""
    return [out / kind / name for kind in ("clean", "noisy")]


def _remove(out: Path, name: str) -> None:
    """Half a pair is none."""
    for place in _places(out, name):
        place.unlink(missing_ok=True)


def _ended(job: Job, out: Path) -> Done:
    """What another process made of a picture when nobody listened any more."""
    clean, noisy = (Picture.read(place).pixels for place in _places(out, job.name))
    return Done(job, *noisy.shape[:2], score=score(clean, noisy))


def _record(made: Predenoised, out: Path) -> None:
    atomic.write(out / provenance.FILE, made.dump(code_version=environment.code_version()))


def _origin(source: Path) -> dict[str, str]:
    scene, iso = scene_and_iso(source)
    return {"source": str(source), "scene": scene, "iso": iso}


def _guarded(job: Job, *, taught_by: Teacher, out: Path) -> Done:
    try:
        return _one(job, taught_by, _places(out, job.name))
    except UserError as error:
        return Done(job, error=str(error))
    except (OSError, MemoryError, RuntimeError) as error:
        said = "there is not enough memory" if isinstance(error, MemoryError) else str(error).splitlines()[0]
        return Done(job, error=f"it could not be denoised ({said}): a smaller --tile needs less memory")


def _one(job: Job, taught_by: Teacher, places: list[Path]) -> Done:
    pixels = Picture.read(job.source).pixels
    # through int32: PyTorch knows few operations on 16 unsigned bits
    x = torch.from_numpy(pixels.astype(np.int32)).permute(2, 0, 1)[None].float() / np.iinfo(pixels.dtype).max
    denoised = taught_by.denoise(x)
    if not torch.isfinite(denoised).all():
        raise UserError(f"{taught_by.about.name} makes no picture of {job.source} but NaN: give other weights")
    noisy, clean = to_bytes(x[0]), to_bytes(denoised[0])
    for place, image in zip(places, (clean, noisy), strict=True):
        atomic.write(place, encode(Picture(image), place))
    return Done(job, *noisy.shape[:2], score=score(clean, noisy))


@torch.no_grad()
def score(target: UInt8[np.ndarray, "h w 3"], noisy: UInt8[np.ndarray, "h w 3"]) -> float | None:
    """MS-SSIM(target, input) of a picture; of one with a side over `SCORED`, the mean over equal parts, weighted by
    their area. None under 176 pixels, where it is undefined."""
    if min(noisy.shape[:2]) < SMALLEST:
        return None
    total = 0.0
    for rows in _parts(noisy.shape[0]):
        for columns in _parts(noisy.shape[1]):
            pair = [to_tensor(np.ascontiguousarray(image[rows, columns]))[None] for image in (target, noisy)]
            total += float(ms_ssim(*pair)) * pair[0][0, 0].numel()
    return total / (noisy.shape[0] * noisy.shape[1])


def _parts(side: int) -> list[slice]:
    edges = np.linspace(0, side, -(-side // SCORED) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def summary(results: list[Done], out: Path) -> str:
    """Pictures done and failed, and how much they were changed."""
    scores = [done.score for done in results if done.score is not None]
    failed = sum(bool(done.error) for done in results)
    parts = [f"{len(results) - failed} picture{'s' * (len(results) - failed != 1)} in {out}"]
    if scores:
        above = sum(s > 0.8 for s in scores)
        parts.append(f"MS-SSIM(target, input) {np.mean(scores):.3f} on average, above 0.8 in {above} of {len(scores)}")
    return ", ".join(parts + ([f"{failed} failed"] if failed else []))
