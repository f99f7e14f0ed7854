"""Words of the command line -> what is judged: codecs at one operating point each, some with a denoiser before them.

A word is a run folder, a weights file, ``flagship`` (the weights in the package), a standard codec, or
``DENOISER+CODEC`` with any of these after a denoiser: a run folder, a weights file, or a name that
`baselines.denoisers.named` knows (``bm3d@5.5``: with this noise level). Standard codecs and any-rate codecs are judged
at a ladder of qualities, or those after an @, as in ``avif@30,50`` or ``RUN@40,60``; of JPEG XL, distances
(``jpegxl@2``, ``jpegxl@d2``) or qualities (``jpegxl@q90``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from jdcsuite.artifacts import weights
from jdcsuite.baselines import denoisers
from jdcsuite.baselines.external import EXTERNAL
from jdcsuite.baselines.standards import LADDERS, ladder, standard
from jdcsuite.coding.codec import Codec
from jdcsuite.types import Compressor, NotInstalled, Row, UserError

# Columns that the metadata of a weights file gives; any of them may be absent.
METADATA = ("run", "curve", "method", "lmbda", "seed", "budget", "train_set", "min_ms_ssim", "teacher", "teacher_saw")
SHIPPED = "flagship"
ALIASES = {"jxl": "jpegxl", "jp2": "jpeg2000", "j2k": "jpeg2000", "jpg": "jpeg"}
QUALITIES = [10.0, 25.0, 40.0, 55.0, 70.0, 85.0]  # default ladder of any-rate codecs


@dataclass(frozen=True)
class Candidate:
    """A codec at one operating point. ``row``: the columns that identify it. ``denoiser``: applied before the codec by
    `baselines.cascade`; candidates may share one. ``train_scenes``: of the weights of both, where they are
    recorded. ``settings``: encoder settings of an any-rate codec."""

    codec: Compressor
    row: Row
    denoiser: object | None = None
    train_scenes: frozenset[str] = frozenset()
    settings: dict[str, float] = field(default_factory=dict)


class Loaded(NamedTuple):
    """A trained model, or a denoiser without training, with the columns and training scenes that its metadata gives."""

    model: object
    row: Row
    train_scenes: frozenset[str] = frozenset()


def parse(words: list[str], *, device: str = "cpu") -> list[Candidate]:
    """The candidates of all words, in order; a model that several words name is loaded once. What is not installed
    is left out (`left_out`). UserError: no other words."""
    load, missing = cache(partial(_load, device=device)), left_out(words)
    if missing and set(words) == missing.keys():
        raise UserError(f"no codec is left: {'; '.join(dict.fromkeys(missing.values()))}")
    return [candidate for word in words if word not in missing for candidate in _parse(word, load)]


def left_out(words: list[str]) -> dict[str, str]:
    """The words with an external codec, or BM3D, that is not installed here, and what is missing."""
    missing = {}
    for word in words:
        denoiser, _, codec = word.rpartition("+")
        name = codec.partition("@")[0]
        try:
            if name in EXTERNAL and not Path(word).exists():
                standard(name, EXTERNAL[name].ladder[0])
            if denoiser.partition("@")[0] == denoisers.BM3D.name:
                denoisers.named(denoiser)
        except NotInstalled as error:
            missing[word] = str(error)
    return missing


def _parse(word: str, load: Callable[[str], Loaded]) -> list[Candidate]:
    name = word.partition("@")[0]
    codec, dash, mode = name.partition("-")
    if codec in ALIASES and ladder(full_name := ALIASES[codec] + dash + mode) is not None:
        return _parse(word.replace(name, full_name, 1), load)
    if (qualities := ladder(name)) is not None:
        return [_standard(name, quality) for quality in _qualities(word, qualities)]
    if name == SHIPPED and "+" not in word:
        return _learned(word, name, load)
    path = word if Path(word).exists() else word.rpartition("@")[0]
    if path and Path(path).exists():
        return _learned(word, path, load)
    if "+" in word:
        return _cascade(word, load)
    raise UserError(
        f"{word} is neither a run, a weights file, {SHIPPED} nor a standard codec ({', '.join([*LADDERS, *EXTERNAL])})"
    )


def _qualities(word: str, defaults: list[float]) -> list[float]:
    """``avif@30,50`` -> 30 and 50; without an @, ``defaults``."""
    name, at, listed = word.rpartition("@")
    try:
        return list(dict.fromkeys(_quality(name, quality) for quality in listed.split(","))) if at else defaults
    except ValueError:
        example = "jpegxl@2, jpegxl@d2 or jpegxl@q90" if name.startswith("jpegxl") else f"{name}@30,50"
        raise UserError(f"{word} names no qualities: give numbers, as in {example}") from None


def _quality(name: str, written: str) -> float:
    """A quality as ``Standard`` takes it, from one that may say that it is a distance, d2, or a quality, q90."""
    if not name.startswith("jpegxl"):
        return float(written.removeprefix("q"))
    return distance(float(written[1:])) if written.startswith("q") else float(written.removeprefix("d"))


def distance(quality: float) -> float:
    """Butteraugli distance of a JPEG XL quality of 0 to 100, by the mapping of libjxl's own cjxl. ValueError: other."""
    if not 0 <= quality <= 100:
        raise ValueError(quality)
    if quality >= 30:
        return round(0.1 + 0.09 * (100 - quality), 4)
    return round(53 / 3000 * quality**2 - 23 / 20 * quality + 25, 4)


def _standard(name: str, quality: float) -> Candidate:
    codec = standard(name, quality)
    method = f"noisy + {codec.name}"
    return Candidate(codec, Row(method=method, curve=method, quality=codec.quality, codec_version=codec.version))


def _learned(word: str, path: str, load: Callable[[str], Loaded]) -> list[Candidate]:
    """``word``: ``path`` or ``path@QUALITY,...``."""
    model, row, train_scenes = load(path)
    if not isinstance(model, Codec):
        raise UserError(
            f"{word} is a {type(model).__name__}, not a codec: give a codec's run, or name the codec that follows a "
            f"denoiser, as in {word}+avif"
        )
    if model.any_rate:
        row, qualities = replace(row, sigma_train=None), _qualities(word, QUALITIES) if word != path else QUALITIES
        return [Candidate(model, row, None, train_scenes, {"quality": quality}) for quality in qualities]
    if word != path:
        raise UserError(f"{path} serves one rate: leave out {word.removeprefix(path)}")
    return [Candidate(model, row, None, train_scenes)]


def _cascade(word: str, load: Callable[[str], Loaded]) -> list[Candidate]:
    """``DENOISER+CODEC`` -> the denoiser before each operating point of the codec."""
    parts = word.split("+")  # a path may contain a + too
    splits = [("+".join(parts[:i]), "+".join(parts[i:])) for i in range(1, len(parts))]
    is_denoiser = [denoisers.is_named(split[0]) or Path(split[0]).exists() for split in splits]
    first, second = splits[is_denoiser.index(True) if any(is_denoiser) else 0]
    denoiser, row, train_scenes = load(first)
    if isinstance(denoiser, Codec):
        raise UserError(f"{first} is a codec, not a denoiser: put a run of +experiment=unet before the +")
    candidates = _parse(second, load)
    if any(candidate.denoiser is not None for candidate in candidates):
        raise UserError(f"{word} names two denoisers: give one")
    return [
        replace(
            candidate,
            denoiser=denoiser,
            row=_cascade_row(row, candidate),
            train_scenes=train_scenes | candidate.train_scenes,
        )
        for candidate in candidates
    ]


def _cascade_row(denoiser: Row, candidate: Candidate) -> Row:
    codec = candidate.row
    if not isinstance(candidate.codec, Codec):
        name = candidate.codec.name
        codec = replace(codec, run=name, curve=name, method=name, seed=denoiser.seed)
    return replace(
        codec,
        run=f"{denoiser.run}+{codec.run}",
        curve=f"{denoiser.curve} + {codec.curve}",
        method=f"{denoiser.method} + {codec.method}",
        weights_id="+".join(filter(None, [denoiser.weights_id, codec.weights_id])) or None,
        sigma_train=denoiser.sigma_train,
        budget="+".join(dict.fromkeys(filter(None, [denoiser.budget, codec.budget]))),
        train_set="+".join(dict.fromkeys(filter(None, [denoiser.train_set, codec.train_set]))),
    )


def weights_id(model: object) -> str | None:
    """The column of this name; None where the model is not a codec."""
    return model.model_id.hex()[:8] if isinstance(model, Codec) else None


def _load(word: str, *, device: str) -> Loaded:
    """``word``: a run folder, a weights file, nlm or bm3d. Without a name in its metadata, a model has its file's."""
    if (denoiser := denoisers.named(word)) is not None:
        return Loaded(denoiser, Row(run=word, curve=word, method=word))
    path = weights.shipped() if word.partition("@")[0] == SHIPPED else weights.path_of(word)
    model, metadata = weights.load(path, device=device), weights.read_about(path)
    run = metadata.get("run") or (path.parent.name if Path(word).is_dir() else path.stem)
    method = metadata.get("method") or run
    row = Row(**{name: metadata.get(name) for name in METADATA}, sigma_train=metadata.get("sigma"))
    identity = weights_id(model) or str(weights.content_hash(path))[:8]
    row = replace(row, run=run, method=method, curve=row.curve or method, weights_id=identity)
    return Loaded(model, row, frozenset(metadata.get("train_scenes") or ()))
