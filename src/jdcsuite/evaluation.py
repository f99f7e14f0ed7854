"""Codecs (learned or standard) + test pictures with their fixed noise -> rows of results, on real bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.data import Dataset

from jdcsuite import runs, weights
from jdcsuite.baselines.cascade import Cascade
from jdcsuite.baselines.denoisers import UNTAUGHT
from jdcsuite.baselines.standards import LADDERS, Standard
from jdcsuite.data.cache import ImageCache
from jdcsuite.data.datamodule import Named, Photographs, Pictures
from jdcsuite.data.images import files
from jdcsuite.data.noise import GaussianNoise
from jdcsuite.data.pairmodule import PairPictures
from jdcsuite.data.pairs import Source, shots
from jdcsuite.data.quality import PairCache
from jdcsuite.entropy.lossless import Lossless
from jdcsuite.metrics import judge
from jdcsuite.models.codec import Codec
from jdcsuite.types import Compressor, UserError


def rows_of(
    codec: Compressor,
    pictures: Dataset[Named],
    *,
    dataset: str,
    about: dict[str, object],
    console: Console,
    device: str = "cpu",
) -> list[dict[str, object]]:
    """One row a picture. ``about``: the columns that are the same for all of them."""
    label = f"{about['method']} {about.get('quality') or about.get('lmbda') or ''} on {dataset}"
    numbers: Iterable[int] = track(
        range(len(pictures)), label, console=console, transient=True, disable=not console.is_terminal
    )
    rows = []
    for i in numbers:
        name, pair = pictures[i]
        row, _ = judge(codec, pair.to(device))
        rows.append({**about, "dataset": dataset, "image": name, **row})
    return rows


def standard_about(codec: Standard) -> dict[str, object]:
    """The columns that name a standard codec, which is fed the noisy picture as it is."""
    method = f"noisy + {codec.name}"
    return {"method": method, "curve": method, "quality": f"{codec.quality:g}", "codec_version": codec.version}


def standards_rows(config: dict, console: Console) -> list[Path]:
    """The configured standard codecs on a job's noisy test pictures: csv files, made once a protocol."""
    data: Photographs = instantiate(config["data"], _convert_="all")
    data.prepare()
    about_noise = {
        "noise_protocol": data.noise.protocol,
        "noise_seed": data.noise_seed,
        "code_version": runs.code_version(),
    }
    sigma = "" if config["sigma"] is None else f"-s{config['sigma']:g}"
    made = []
    for name, qualities in config["report"]["standards"].items():
        if not qualities:
            continue
        codecs = [Standard(codec=name, quality=float(q)) for q in qualities]
        said = {
            k: v
            for k, v in config["data"].items()
            if k in ("root", "train", "test", "noise", "levels", "noise_seed", "limit")
        }
        said |= {"codec": name, "qualities": list(qualities), "version": codecs[0].version}
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
        path = Path(config["runs"]) / config["name"] / "standards" / f"{name}{sigma}-{key}.csv"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = []
            for codec in codecs:
                about = standard_about(codec) | about_noise
                for dataset in data.test_sets:
                    rows += rows_of(codec, data.pictures(dataset), dataset=dataset, about=about, console=console)
            runs.write_rows(rows, path)
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
) -> list[dict[str, object]]:
    """Rows of codecs on the clean pictures of ``folders`` at each of ``sigmas``, and, where a folder holds pairs
    (`data/pairs`), on its noisy pictures as they are.

    ``codecs``: runs, weights files, standard codecs, or ``DENOISER+CODEC`` with any of them after a denoiser's run, nlm
    or bm3d. A standard codec is judged at every quality of its ladder (`baselines.standards.LADDERS`).
    """
    judged: list[tuple[str, dict[str, object], Callable[..., Dataset[Named]]]] = []
    for folder in folders:
        pictures = files(folder)
        if found := shots(folder, Source.read(folder.name)):
            pairs = PairCache.of_shots(found, cache_dir=None)
            judged.append((folder.name, {"noise_protocol": "real"}, partial(PairPictures, pairs)))
            continue
        if not sigmas:
            raise UserError(f"{folder} holds clean pictures: give the noise to add, as in --sigma 10")
        cache = ImageCache.build(pictures)
        for sigma in sigmas:
            noise = GaussianNoise(sigma=sigma, protocol=protocol)
            about_noise = {"noise_protocol": protocol, "noise_seed": noise_seed}
            judged.append((folder.name, about_noise, partial(Pictures, cache, noise=noise, noise_seed=noise_seed)))
    named = [(codec, about) for word in codecs for codec, about in _codecs(word, device)]
    rows = []
    for dataset, about_noise, noisy in judged:
        for codec, about in named:
            about = about | about_noise | {"code_version": runs.code_version()}
            seen = noisy(lossless=_lossless(codec))
            rows += rows_of(codec, seen, dataset=dataset, about=about, console=console, device=device)
    return rows


def _codecs(word: str, device: str) -> list[tuple[Compressor, dict[str, object]]]:
    """A word of the command line -> codecs with the columns that name them."""
    if word in LADDERS:
        ladder = [Standard(codec=word, quality=float(quality)) for quality in LADDERS[word]]
        return [(codec, standard_about(codec)) for codec in ladder]
    if not Path(word).exists():
        if "+" in word:
            return _cascades(word, device)
        raise UserError(f"{word} is neither a run, a weights file nor a standard codec ({', '.join(LADDERS)})")
    model, about = _trained(word, device)
    if not isinstance(model, Codec):
        raise UserError(
            f"{word} holds no codec but a {type(model).__name__}: give a codec's run, or say what codes a denoiser's "
            f"pictures, as in {word}+avif"
        )
    named = {name: about[name] for name in ("run", "curve", "method", "lmbda", "seed", "budget")}
    return [(model, {**named, "sigma_train": about["sigma"]})]


def _cascades(word: str, device: str) -> list[tuple[Compressor, dict[str, object]]]:
    """``DENOISER+CODEC`` -> the denoiser before each rung of the codec, with the columns that name them."""
    parts = word.split("+")
    # a path may hold a + of its own
    splits = [("+".join(parts[:i]), "+".join(parts[i:])) for i in range(1, len(parts))]
    known = [split for split in splits if split[0] in UNTAUGHT or Path(split[0]).exists()]
    first, second = known[0] if known else splits[0]
    denoiser, about = _untaught(first) if first in UNTAUGHT else _trained(first, device)
    if isinstance(denoiser, Codec):
        raise UserError(f"{first} holds a codec, no denoiser: before the + goes a denoiser's run, as +experiment=unet")
    made = []
    for codec, named in _codecs(second, device):
        standard = isinstance(codec, Standard)
        budgets = dict.fromkeys(filter(None, [about["budget"], named.get("budget")]))
        name = codec.name if standard else named["method"]
        own = {
            "run": f"{about['run']}+{name if standard else named['run']}",
            "curve": f"denoise + {name} ({about['curve']} + {name if standard else named['curve']})",
            "method": f"denoise + {name}",
            "sigma_train": about["sigma"],  # the denoiser is what knows the noise
            "seed": named.get("seed", about["seed"]),
            "budget": "+".join(map(str, budgets)),
        }
        made.append((Cascade(denoiser=denoiser, codec=codec), {**named, **own}))
    return made


def _untaught(word: str) -> tuple[object, dict]:
    """A denoiser that learned nothing and estimates the noise of each picture."""
    return UNTAUGHT[word](), {"run": word, "curve": word, "budget": None, "sigma": None, "seed": None}


def _trained(word: str, device: str) -> tuple[nn.Module, dict]:
    path = weights.path_of(word)
    return weights.load(path, device=device), weights.read(path)[1]


def _lossless(codec: Compressor) -> Lossless | None:
    return getattr(getattr(codec, "guide", None), "lossless", None)
