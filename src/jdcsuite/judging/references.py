"""A job's configuration -> csv files of the codecs that its report shows beside the runs, on the same test images.

`report.standards` (codec -> qualities) and `report.beside` (words as of `jdc evaluate`) name them. A file is made once
for each codec and set of noisy test images, whichever job or launch needs it first.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from jdcsuite.data.datamodule import DataModule
from jdcsuite.judging import image_sets, rows_file
from jdcsuite.judging.candidates import Candidate
from jdcsuite.judging.evaluation import Evaluator, write_rows
from jdcsuite.types import UserError

STANDARDS = "standards"  # folder of a study


def reference_rows(config: dict, console: Console) -> list[Path]:
    """The csv files of a job's reference codecs, made where they are missing. A codec that cannot be judged here is
    reported and left out, since the runs' own results do not depend on it."""
    data, test_sets = image_sets.of_job(config)
    standards = [f"{name}@{','.join(map(str, q))}" for name, q in (config["report"]["standards"] or {}).items() if q]
    paths = []
    for word in [*standards, *(config["report"]["beside"] or [])]:
        evaluator = Evaluator((word,), test_sets)
        try:
            path = _path(config, data, word, evaluator.codecs.judged)
        except UserError as error:
            console.print(f"{word} is left out of the report: {error}", highlight=False, markup=False)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # of several launches, one makes the file and the others wait
            if not path.is_file():
                part = path.with_suffix(".part")  # a killed launch leaves its rows there for the next one
                with rows_file.opened(part) as file:
                    failed = write_rows(evaluator, file, console=console)
                for row in failed:
                    console.print(f"{word} on {row.image}: {row.error}", highlight=False, markup=False, soft_wrap=True)
                if failed:  # the next launch tries them again
                    paths.append(part)
                    continue
                part.replace(path)
        paths.append(path)
    return paths


def _path(config: dict, data: DataModule, word: str, judged: list[Candidate]) -> Path:
    """A file whose name says the codec, the noise level, and a hash of the test images, their noise, and the versions
    of codecs or weights."""
    identity = [
        {name: value for name, value in asdict(one.row).items() if value is not None}
        | {"settings": one.settings, "version": getattr(one.codec, "version", None) or one.codec.model_id.hex()}
        for one in judged
    ]
    noise = {name: config["data"].get(name) for name in ("noise", "levels", "noise_seed", "limit")}
    protocol = [data.test_identity(), data.test_sets, noise, word, identity]
    key = hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:8]
    name = re.sub(r"[^a-z0-9+]+", "-", word.partition("@")[0].lower())
    sigma = "" if config["sigma"] is None else f"-s{config['sigma']:g}"
    return Path(config["runs"]) / config["name"] / STANDARDS / f"{name}{sigma}-{key}.csv"
