"""Codecs (learned or standard) + test pictures with their fixed noise -> rows of results, on real bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset

from jdcsuite.artifacts import runs, weights
from jdcsuite.baselines.cascade import denoised
from jdcsuite.baselines.denoisers import UNTAUGHT, untaught
from jdcsuite.baselines.standards import LADDERS, Standard
from jdcsuite.coding.codec import Codec
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.datamodule import Named, Photographs, Pictures
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.pairmodule import PairPictures
from jdcsuite.data.pairs import Source, scene_and_iso, shots
from jdcsuite.data.quality import PairCache
from jdcsuite.imaging.folders import image_files
from jdcsuite.judging.metrics import judge, of_input, timed
from jdcsuite.types import Compressor, Pair, Row, UserError

# Columns that a weights file's metadata gives; any may be absent.
ABOUT = ("run", "curve", "method", "lmbda", "seed", "budget", "train_set", "min_ms_ssim", "teacher", "teacher_saw")
SHIPPED = "flagship"  # the weights that come along
QUALITIES = [10.0, 25.0, 40.0, 55.0, 70.0, 85.0]  # at which a codec of any rate is judged, unless they are named
Load = Callable[[str], tuple[object, dict]]  # a word of the command line -> model, and what is said of it


@dataclass(frozen=True)
class Candidate:
    """What is judged. ``about``: the columns that name it. ``denoiser``: what comes before the codec, as
    `baselines.cascade.denoise` takes it; one that several candidates share works once a picture. ``learned``: scenes
    that the weights of either learned from, where those say so. ``settings``: of a codec of any rate."""

    codec: Compressor
    about: Row
    denoiser: object | None = None
    learned: frozenset[str] = frozenset()
    settings: dict[str, float] = field(default_factory=dict)


def rows_of(
    candidates: list[Candidate],
    pictures: Dataset[Named],
    *,
    dataset: str,
    about: Row,
    console: Console,
    device: str = "cpu",
) -> list[Row]:
    """One row a candidate and picture, a candidate after the other. ``about``: columns that are the same for all."""
    rows: list[list[Row]] = [[] for _ in candidates]
    made = track(
        _judged(candidates, pictures, device), f"{len(candidates)} codecs on {dataset}", console=console,
        total=len(pictures) * len(candidates), transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    for number, name, row in made:
        rows[number].append(replace(row, dataset=dataset, image=name).fill(candidates[number].about).fill(about))
    return [row for of_one in rows for row in of_one]


def _judged(candidates: list[Candidate], pictures: Dataset[Named], device: str) -> Iterator[tuple[int, str, Row]]:
    """Picture by picture: (number of the candidate, name of the picture, its row). No more than one picture and what
    each denoiser makes of it is held."""
    denoisers = {id(one.denoiser): one.denoiser for one in candidates if one.denoiser is not None}
    for i in range(len(pictures)):
        name, pair = pictures[i]
        pair = pair.to(device)
        if i == 0:  # of libraries and kernels, so that the first times are like the others'
            _warm_up(denoisers.values(), pair)
        made = {key: timed(partial(denoised, net, pair), pair.noisy) for key, net in denoisers.items()}
        known = of_input(pair)
        for number, one in enumerate(candidates):
            handed, handed_ms = made.get(id(one.denoiser), (None, 0.0))
            row, _ = judge(
                one.codec, pair, denoised=handed, denoise_ms=handed_ms, input_row=known, settings=one.settings
            )
            yield number, name, row


def _warm_up(denoisers: Iterable[object], pair: Pair) -> None:
    corner = replace(pair, noisy=pair.noisy[..., :64, :64], clean=pair.clean[..., :64, :64])
    for denoiser in denoisers:
        denoised(denoiser, corner)


def standard_about(codec: Standard) -> Row:
    """The columns that name a standard codec, which is fed the noisy picture as it is."""
    method = f"noisy + {codec.name}"
    return Row(method=method, curve=method, quality=codec.quality, codec_version=codec.version)


def beside_rows(config: dict, console: Console) -> list[Path]:
    """What `report.standards` and `report.beside` set beside a job's runs, on the same noisy test pictures: a csv file
    a word, made once a protocol."""
    data: Photographs = instantiate(config["data"], _convert_="all")
    data.prepare()
    about = Row(noise_protocol=data.noise.protocol, noise_seed=data.noise_seed, code_version=runs.code_version())
    sigma = "" if config["sigma"] is None else f"-s{config['sigma']:g}"
    shown = {k: config["data"].get(k) for k in ("root", "train", "test", "noise", "levels", "noise_seed", "limit")}
    standards = [f"{n}@{','.join(map(str, qs))}" for n, qs in config["report"]["standards"].items() if qs]
    made = []
    for word in [*standards, *config["report"]["beside"]]:
        try:
            candidates = _candidates(word, once(partial(_load, device="cpu")))
        except UserError as error:  # nothing of the runs is lost by it
            console.print(f"{word} is not set beside the runs: {error}", highlight=False, markup=False)
            continue
        who = [
            [asdict(one.about), one.settings, getattr(one.codec, "version", None) or one.codec.model_id.hex()]
            for one in candidates
        ]
        key = hashlib.sha256(json.dumps([shown, word, who], sort_keys=True, default=str).encode()).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9+]+", "-", word.partition("@")[0].lower())
        path = Path(config["runs"]) / config["name"] / "standards" / f"{name}{sigma}-{key}.csv"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                row
                for dataset in data.test_sets
                for row in rows_of(candidates, data.pictures(dataset), dataset=dataset, about=about, console=console)
            ]
            runs.write_rows(list(map(asdict, rows)), path)
        made.append(path)
    return made


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
    """Rows of codecs on the clean pictures of ``folders`` at each of ``sigmas``, and, where a folder holds pairs
    (`data/pairs`), on its noisy pictures as they are.

    ``codecs``: runs, weights files, standard codecs, or ``DENOISER+CODEC`` with any of them after a denoiser's run,
    nlm or bm3d (or bm3d@5.5, told the noise level). A standard codec is judged at every quality of its ladder
    (`baselines.standards.LADDERS`), or at those that follow an @, as in ``avif@30,50``; so is a codec of any rate,
    as in ``flagship@40,60`` or ``WEIGHTS@40,60``: ``flagship`` alone is the network that comes along.
    """
    judged: list[tuple[str, Row, Dataset[Named]]] = []
    names = [folder.name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two folders of --data are called {twice[0]}, their name in results: judge them apart")
    scenes: dict[str, set[str]] = {}
    for folder in folders:
        pictures = image_files(folder)
        scenes[folder.name] = {scene_and_iso(path)[0] for path in pictures}
        if found := shots(folder, Source.read(folder.name)):
            pairs = PairCache.of_shots(found, cache_dir=None)
            judged.append((folder.name, Row(noise_protocol="real"), PairPictures(pairs, lossless=None)))
            continue
        if not sigmas:
            raise UserError(f"{folder} holds clean pictures: give the noise to add, as in --sigma 10")
        cache = ImageCache.build(pictures)
        for sigma in sigmas:
            noise = GaussianNoise(sigma=sigma, protocol=protocol)
            about_noise = Row(noise_protocol=protocol, noise_seed=noise_seed)
            noisy = Pictures(cache, noise=noise, noise_seed=noise_seed, lossless=None)
            judged.append((folder.name, about_noise, noisy))
    load = once(partial(_load, device=device))
    candidates = [candidate for word in codecs for candidate in _candidates(word, load)]
    _tell_learned(candidates, scenes, console)
    rows = []
    for dataset, about_noise, noisy in judged:
        about = replace(about_noise, code_version=runs.code_version())
        rows += rows_of(candidates, noisy, dataset=dataset, about=about, console=console, device=device)
    return rows


def _tell_learned(candidates: list[Candidate], scenes: dict[str, set[str]], console: Console) -> None:
    """Says what is judged on pictures that it learned from: such rows are no test."""
    for dataset, shown in scenes.items():
        seen = {str(one.about.run): shown & one.learned for one in candidates if shown & one.learned}
        for run, shared in seen.items():
            console.print(
                f"{run} learned from {len(shared)} scenes of {dataset} (as {min(shared)}): its rows there are no test",
                style="yellow", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def _candidates(word: str, load: Load) -> list[Candidate]:
    """A word of the command line -> what it stands for, each quality of a standard codec by itself."""
    name = word.partition("@")[0]
    if name in LADDERS:
        codecs = [Standard(codec=name, quality=quality) for quality in _qualities(word)]
        return [Candidate(codec, standard_about(codec)) for codec in codecs]
    if name == SHIPPED and "+" not in word:
        word = word.replace(SHIPPED, str(weights.shipped()), 1)
    path, at, qualities = word.rpartition("@") if not Path(word).exists() and "@" in word else (word, "", "")
    if not Path(path).exists():
        if "+" in word:
            return _cascades(word, load)
        raise UserError(
            f"{word} is neither a run, a weights file, {SHIPPED} nor a standard codec ({', '.join(LADDERS)})"
        )
    model, about = load(path)
    if not isinstance(model, Codec):
        raise UserError(
            f"{word} holds no codec but a {type(model).__name__}: give a codec's run, or say what codes a denoiser's "
            f"pictures, as in {word}+avif"
        )
    named = Row(**{name: about.get(name) for name in ABOUT}, sigma_train=about.get("sigma"))
    if not model.any_rate:
        if at:
            raise UserError(f"{path} serves one rate: leave @{qualities} out")
        return [Candidate(model, named, learned=_scenes(about))]
    rungs = _qualities(f"flagship@{qualities}") if at else QUALITIES
    return [
        Candidate(model, replace(named, sigma_train=None), learned=_scenes(about), settings={"quality": quality})
        for quality in rungs
    ]


def _scenes(about: dict) -> frozenset[str]:
    return frozenset(about.get("train_scenes") or ())


def _qualities(word: str) -> list[float]:
    """``avif@30,50`` -> 30 and 50; a codec alone -> its ladder."""
    name, at, said = word.partition("@")
    try:
        return list(dict.fromkeys(float(quality) for quality in (said.split(",") if at else LADDERS[name])))
    except ValueError:
        raise UserError(f"{word} names no qualities: give numbers, as in {name}@30,50") from None


def _cascades(word: str, load: Load) -> list[Candidate]:
    """``DENOISER+CODEC`` -> the denoiser before each rung of the codec."""
    parts = word.split("+")
    # a path may hold a + of its own
    splits = [("+".join(parts[:i]), "+".join(parts[i:])) for i in range(1, len(parts))]
    known = [split for split in splits if split[0].partition("@")[0] in UNTAUGHT or Path(split[0]).exists()]
    first, second = known[0] if known else splits[0]
    denoiser, about = load(first)
    if isinstance(denoiser, Codec):
        raise UserError(f"{first} holds a codec, no denoiser: before the + goes a denoiser's run, as +experiment=unet")
    made = []
    for one in _candidates(second, load):
        if one.denoiser is not None:
            raise UserError(f"{word} names two denoisers: give one")
        standard, named = isinstance(one.codec, Standard), one.about
        budgets = dict.fromkeys(filter(None, [about.get("budget"), named.budget]))
        name = one.codec.name if standard else named.method
        own = replace(
            named,
            run=f"{about.get('run')}+{name if standard else named.run}",
            curve=f"{about.get('curve')} + {name if standard else named.curve}",
            method=f"{about.get('method')} + {name}",  # as "noisy + avif" is of a codec alone
            sigma_train=about.get("sigma"),  # the denoiser is what knows the noise
            seed=about.get("seed") if standard else named.seed,
            budget="+".join(budgets),
            train_set="+".join(dict.fromkeys(filter(None, [about.get("train_set"), named.train_set]))),
        )
        learned = _scenes(about) | one.learned
        made.append(Candidate(one.codec, own, denoiser, learned=learned, settings=one.settings))
    return made


def _load(word: str, *, device: str) -> tuple[object, dict]:
    """A denoiser that learned nothing (it estimates the noise of each picture unless it is told), or a trained model,
    and what is said of it."""
    if (made := untaught(word)) is not None:
        named = dict.fromkeys(("run", "curve", "method"), word) | dict.fromkeys(("budget", "sigma", "seed"))
        return made, named
    path = weights.shipped() if word.partition("@")[0] == SHIPPED else weights.path_of(word)
    return weights.load(path, device=device), weights.read(path)[1]
