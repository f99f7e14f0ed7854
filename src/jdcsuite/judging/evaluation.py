"""Codecs (learned or standard) and test images with fixed noise -> rows of results, from files that are decoded.

Rows go to a file image by image (`rows_file`). Images are shared out over processes; only the parent writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import torch
from rich.console import Console

from jdcsuite import checks
from jdcsuite.baselines.cascade import denoised
from jdcsuite.files import pool
from jdcsuite.imaging.folders import printable, scan
from jdcsuite.imaging.pixels import to_bytes
from jdcsuite.judging import candidates, image_sets, rows_file
from jdcsuite.judging.candidates import Candidate
from jdcsuite.judging.image_sets import ImageSet
from jdcsuite.judging.metrics import compressed, judge, of_input, timed
from jdcsuite.judging.progress import Progress
from jdcsuite.judging.rows_file import RowsFile
from jdcsuite.types import Pair, Row, UserError

DIED = "its process died, most likely out of memory"
CORNER = 64  # pixels: side of the image that codecs are warmed up with


@dataclass(frozen=True)
class Item:
    """One image of one test set, and the numbers of the candidates that are to be judged on it."""

    test_set: int
    image: int
    candidates: tuple[int, ...]


@dataclass
class Evaluator:
    """Item -> its rows. Pickled without its codecs, which each process loads once. ``words``: see `candidates`."""

    words: tuple[str, ...]
    test_sets: Sequence[ImageSet]
    device: str = "cpu"
    _codecs: _Codecs | None = field(default=None, repr=False)

    @property
    def codecs(self) -> _Codecs:
        if self._codecs is None:
            self._codecs = _Codecs(candidates.parse(list(self.words), device=self.device))
        return self._codecs

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_codecs": None}

    def __call__(self, item: Item) -> list[Row]:
        """One row for each candidate of ``item``, with a column ``error`` in place of results where it failed."""
        if self._codecs is None:  # in a worker, where each item brings an evaluator of its own
            self._codecs = _codecs_of_worker(self.words, self.device)
        test_set = self.test_sets[item.test_set]
        try:
            _, pair = test_set.images[item.image]
            pair = pair.to(self.device)
            input_row = of_input(pair)
        except Exception as error:
            return self.failed(item, _reason(error))
        coder, rows = _Coder(self._codecs, pair, input_row), []
        for number in item.candidates:
            try:
                row = coder.row(number)
            except Exception as error:  # of a codec, or out of memory: the other codecs are judged
                row = replace(input_row, error=_reason(error))
            rows.append(row)
        return self._named(item, rows)

    def failed(self, item: Item, reason: str) -> list[Row]:
        return self._named(item, [Row(error=reason)] * len(item.candidates))

    def _named(self, item: Item, rows: list[Row]) -> list[Row]:
        image = self.test_sets[item.test_set].row_of(item.image)
        return [
            replace(row.fill(self.codecs.judged[number].row), dataset=image.dataset, image=image.image).fill(image)
            for number, row in zip(item.candidates, rows, strict=True)
        ]


class _Codecs:
    """Candidates, and which of them have been warmed up in this process."""

    def __init__(self, judged: list[Candidate]) -> None:
        self.judged = judged
        self.warm: set[int] = set()  # ids of denoisers and candidates


@cache
def _codecs_of_worker(words: tuple[str, ...], device: str) -> _Codecs:
    return _Codecs(candidates.parse(list(words), device=device))


class _Coder:
    """One image, which each denoiser processes once for all codecs behind it."""

    def __init__(self, codecs: _Codecs, pair: Pair, input_row: Row) -> None:
        self.codecs, self.pair, self.input_row = codecs, pair, input_row
        self.clean = to_bytes(pair.clean[0])
        self.outputs: dict[int, tuple[Pair, float]] = {}

    def row(self, number: int) -> Row:
        candidate = self.codecs.judged[number]
        self._warm_up(candidate)
        output, ms = None, 0.0
        if candidate.denoiser is not None:
            if id(candidate.denoiser) not in self.outputs:
                work = partial(denoised, candidate.denoiser, self.pair)
                self.outputs[id(candidate.denoiser)] = timed(work, self.pair.noisy)
            output, ms = self.outputs[id(candidate.denoiser)]
        row, _ = judge(
            candidate.codec, self.pair, denoised=output, denoise_ms=ms, input_row=self.input_row,
            clean=self.clean, settings=candidate.settings,
        )  # fmt: skip
        return row

    @torch.no_grad()
    def _warm_up(self, candidate: Candidate) -> None:
        """Load libraries and kernels, so that the first measured time is like the others."""
        corner = (..., slice(CORNER), slice(CORNER))
        pair = replace(self.pair, noisy=self.pair.noisy[corner], clean=self.pair.clean[corner])
        codec, denoiser = candidate.codec, candidate.denoiser
        works = {id(candidate): lambda: codec.decompress(compressed(codec, pair, candidate.settings))}
        if denoiser is not None:
            works[id(denoiser)] = lambda: denoised(denoiser, pair)
        for identity, work in works.items():
            if identity not in self.codecs.warm:
                self.codecs.warm.add(identity)
                with suppress(Exception):  # what fails on the image itself is reported
                    work()


def evaluate(
    words: list[str],
    *,
    out: Path,
    folders: list[Path],
    sigmas: list[float],
    noise_seed: int,
    protocol: str,
    device: str,
    console: Console,
    jobs: int = 1,
    force: bool = False,
) -> list[Row]:
    """Write the rows of codecs (see `candidates`) on all images of ``folders`` to the csv file ``out`` -> failed rows.

    Rows that ``out`` holds already are kept, unless ``force`` is given, and only missing ones are measured. A folder of
    clean images is judged at each of ``sigmas`` (grey levels), with noise of ``noise_seed`` by ``protocol`` (clip8 or
    float); a folder of pairs (see `data.layouts`) with the noise that its images have; for a run folder, its own test
    images and noise. ``jobs``: number of processes.
    """
    checks.device(device)
    test_sets = [
        test
        for folder in image_sets.distinct(folders)
        for test in image_sets.of_folder(folder, sigmas, noise_seed, protocol)
    ]
    if sigmas and (recorded := [test for test in test_sets if test.row.noise_protocol == "real"]):
        text = f"{recorded[0].dataset} holds noisy images, which are judged with their own noise"
        if len(recorded) == len(test_sets):
            raise UserError(f"{text}: leave out --sigma")
        _print(console, f"{text}, without that of --sigma", style="yellow")
    evaluator = Evaluator(tuple(dict.fromkeys(words)), test_sets, device)
    _warn_of_training_images(evaluator.codecs.judged, test_sets, console)
    with rows_file.opened(out, force=force) as file:
        failed = write_rows(evaluator, file, jobs=jobs, console=console)
    for folder in folders:
        if not image_sets.is_run(folder) and (summary := scan(folder).summary(images_only=True)):
            _print(console, f"{printable(str(folder))}: {summary}", style="yellow")
    return failed


def write_rows(evaluator: Evaluator, file: RowsFile, *, console: Console, jobs: int = 1) -> list[Row]:
    """Measure what ``file`` lacks and write it there, at the end in the order of codecs and images -> failed rows."""
    judged, test_sets = evaluator.codecs.judged, evaluator.test_sets
    missing: list[Item] = []
    places: dict[tuple, tuple[int, int, int]] = {}  # identity of a row -> test set, candidate, image
    for s, test_set in enumerate(test_sets):
        for i in range(len(test_set.images)):
            wanted = [replace(test_set.row_of(i), **_quality(c)).fill(c.row) for c in judged]
            places |= {rows_file.identity(row): (s, n, i) for n, row in enumerate(wanted)}
            if numbers := tuple(n for n, row in enumerate(wanted) if not file.has(row)):
                missing.append(Item(s, i, numbers))
    total = sum(len(item.candidates) for item in missing)
    whole = len(judged) * sum(len(test_set.images) for test_set in test_sets)
    if total < whole:
        _print(console, f"{whole - total} of {whole} rows are in {file.path} already")
    sets = ", ".join(dict.fromkeys(test_set.dataset for test_set in test_sets))
    failed: list[Row] = []
    died: list[Item] = []
    with Progress(f"{len(judged)} codecs on {sets}", total=total, console=console) as progress:

        def measure(items: list[Item], again: list[Item] | None) -> None:
            for rows in pool.run(items, evaluator, jobs=jobs, died=lambda item: item):
                if isinstance(rows, Item) and again is not None:
                    again.append(rows)
                    continue
                rows = evaluator.failed(rows, DIED) if isinstance(rows, Item) else rows
                for row in rows:
                    file.append(row)
                failed.extend(row for row in rows if row.error)
                progress.advance(len(rows))

        measure(missing, died)
        # again, codec by codec, since one of them took down those beside it
        measure([replace(item, candidates=(number,)) for item in died for number in item.candidates], None)
    file.rewrite(lambda key: places.get(key, (len(test_sets), 0, 0)))
    return failed


def _print(console: Console, text: str, *, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _quality(candidate: Candidate) -> dict[str, float]:
    """The column of this name as the row of an any-rate codec will have it, in the tenths of its file."""
    quality = candidate.settings.get("quality")
    return {} if quality is None else {"quality": round(10 * quality) / 10}


def _reason(error: Exception) -> str:
    """One line; of an error that no user can cause, with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _warn_of_training_images(judged: list[Candidate], test_sets: list[ImageSet], console: Console) -> None:
    """Report weights that were trained on scenes of a test set."""
    shared = {
        (str(candidate.row.run), test_set.dataset): test_set.scenes & candidate.train_scenes
        for test_set in test_sets
        for candidate in judged
    }
    for (run, dataset), scenes in shared.items():
        if scenes:
            text = f"{run} was trained on {len(scenes)} scenes of {dataset} (as {min(scenes)}): these rows are no test"
            _print(console, text, style="yellow")
