"""Trained runs and test images -> a figure of one of the papers: its rows, by `jdc evaluate`, and its report.

    python experiments/papers/figure.py fllic_figure_5 runs/awgn --data DATA/kodak24 DATA/cbsd68 -o figure5

`figures.yaml` lists the figures. A codec whose rows `--rows` holds is not measured; those without a trained run, and
external ones that are not installed, are left out and named. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from jdcsuite.artifacts import weights
from jdcsuite.judging import candidates, curves, results
from jdcsuite.types import UserError

import pandas as pd
import yaml

sys.path.append(str(Path(__file__).parents[1]))
import script

FIGURES = Path(__file__).with_name("figures.yaml")


@dataclass(frozen=True)
class Figure:
    """An entry of ``figures.yaml``; ``sigma``: in 8-bit grey levels, empty for folders of noisy and clean images."""

    codecs: list[str]
    sigma: list[float] = field(default_factory=list)
    ms_ssim: tuple[float, float] | None = None
    against: str | None = None


Runs = dict[str, list[tuple[Path, float | None]]]


def trained(folders: list[Path]) -> Runs:
    """Method -> the weights in ``folders`` (studies, runs, or folders of weights files) and the noise level that each
    was trained for (None: real noise, or any)."""
    for top in folders:
        if not top.exists():
            raise UserError(f"there is no folder {top}: give studies, runs or folders of weights")
    runs: Runs = {}
    for path in sorted(file for top in folders for file in top.rglob("*.safetensors")):
        about = weights.read_about(path)
        run = path.parent if path.name == weights.NAME else path
        runs.setdefault(about.get("method") or run.name, []).append((run, about.get("sigma")))
    return runs


def words(codec: str, runs: dict[str, list[tuple[Path, float | None]]], sigma: float | None) -> Iterator[str]:
    """``codec`` for every combination of runs that its methods have. Runs of another noise level are left out, but not
    those of level 0, codecs of clean images, as behind a denoiser. So is the level itself where ``sigma`` is 0: every
    run is judged on clean images."""
    names = [name for _, name, _, _ in Formatter().parse(codec) if name]
    choices = [
        [f"{sigma:g}"]
        if name == "sigma"
        else [str(run) for run, level in runs.get(name, []) if not sigma or level in (None, 0, sigma)]
        for name in names
    ]
    for chosen in itertools.product(*choices):
        yield codec.format(**dict(zip(names, chosen, strict=True)))


def anchor(points: pd.DataFrame, method: str) -> str:
    """The label of a method's curve: of several, as the start of a chain and the chain, that with most points; "" if
    there is none."""
    own = points["label"][points["method"] == method]
    return "" if own.empty else str(own.value_counts().idxmax())


def held(rows: pd.DataFrame, codec: str, sigma: float | None) -> pd.DataFrame:
    """Those of ``rows`` that are of ``codec`` and this noise level."""
    denoiser, plus, last = codec.rpartition("+")
    name = f"{denoiser} + {last.partition('@')[0]}" if plus else codec.partition("@")[0]
    method = name.replace("{sigma}", f"{sigma:g}") if sigma else name
    method = method.replace("{", "").replace("}", "") if plus or name.startswith("{") else f"noisy + {method}"
    level = rows["sigma"].isna() if sigma is None else rows["sigma"] == sigma
    return rows[level & (rows["method"] == method)]


def jdc(*arguments: str) -> int:
    command = [sys.executable, "-c", "import jdcsuite.cli; jdcsuite.cli.main()", *arguments]
    return subprocess.run(command, check=False).returncode


def figures() -> dict[str, Figure]:
    return {name: Figure(**entry) for name, entry in yaml.safe_load(FIGURES.read_text()).items()}


def main(arguments: list[str] | None = None) -> int:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("figure", choices=figures())
    parser.add_argument("runs", nargs="+", type=Path, help="studies, runs or folders of weights")
    parser.add_argument("--data", nargs="+", required=True, help="test folders")
    parser.add_argument("--sigma", nargs="+", type=float, help="noise levels in place of the figure's")
    parser.add_argument("--rows", nargs="+", default=[], type=Path, help="csv files of rows that are at hand")
    parser.add_argument("--jobs", default="1", help="processes")
    parser.add_argument("--out", "-o", required=True, type=Path, help="folder to write to")
    return script.run(draw, parser, arguments)


def draw(options: argparse.Namespace) -> int:
    figure, runs = figures()[options.figure], trained(options.runs)
    options.out.mkdir(parents=True, exist_ok=True)
    data = [word for path in options.data for word in ("--data", path)]
    measured, joined, failed = options.out / "measured.csv", options.out / "results.csv", 0
    at_hand = results.read(options.rows) if options.rows else pd.DataFrame(columns=results.COLUMNS)
    at_hand = at_hand[at_hand["dataset"].isin([Path(path).name for path in options.data])]
    taken = []
    for sigma in options.sigma or figure.sigma or [None]:
        ready = {codec: held(at_hand, codec, sigma) for codec in figure.codecs}
        chosen = {codec: list(words(codec, runs, sigma)) for codec in figure.codecs if ready[codec].empty}
        for codec in (codec for codec, found in chosen.items() if not found):
            print(f"{codec} is left out: no trained run for it in {', '.join(map(str, options.runs))}")
        taken += ready.values()
        every = list(itertools.chain(*chosen.values()))
        missing = candidates.left_out(every)
        for codec, reason in missing.items():
            print(f"{codec} is left out: {reason}")
        if codecs := [codec for codec in every if codec not in missing]:
            level = [] if sigma is None else ["--sigma", f"{sigma:g}"]
            failed |= jdc("evaluate", *codecs, *data, *level, "--jobs", options.jobs, "--out", str(measured))
    taken += [results.read([measured])] if measured.is_file() else []
    if not (taken := [part for part in taken if len(part)]):
        return failed or 1
    rows = pd.concat(taken, ignore_index=True)
    if figure.ms_ssim:
        rows = rows[rows["ms_ssim_noisy"].between(*figure.ms_ssim)]
    results.write(rows, joined)
    against = anchor(curves.points(rows), figure.against) if figure.against else ""
    if figure.against and not against:
        print(f"there is no curve of {figure.against}, with which the figure compares")
    against = ["--against", against] if against else []
    return jdc("report", str(joined), "--out", str(options.out / "report"), *against) or failed


if __name__ == "__main__":
    sys.exit(main())
