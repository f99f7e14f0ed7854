"""Encoding and decoding times of FLLIC, Restormer and LC-FDNet, as FLLIC's Table I: one row for each to `times.csv`.

    python experiments/complexity/times.py [METHOD[=SIDE] ...]

Published widths with initial weights, which take as long as trained ones. A photograph of SIDE x SIDE pixels with
noise of sigma 10, after a warm-up on 64 x 64. ``wall_ms``: on a GPU the time that counts. ``cpu_ms``: processor time of
one thread, which on a shared CPU does not depend on what else runs.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jdcsuite.artifacts import environment
from jdcsuite.bench.coding import photograph
from jdcsuite.bench.common import configuration, now
from jdcsuite.coding.codec import Codec
from jdcsuite.training import job as training
from jdcsuite.types import UserError

import torch

sys.path.append(str(Path(__file__).parents[1]))
import script

OUT = Path(__file__).with_name("times.csv")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(name: str, verb: str, side: int, work: Callable[[], object]) -> object:
    wall, cpu = now(DEVICE), time.process_time()
    result = work()
    cpu, wall = time.process_time() - cpu, now(DEVICE) - wall
    row = {
        "method": name, "verb": verb, "side": side, "wall_ms": round(1000 * wall), "cpu_ms": round(1000 * cpu),
        "machine": environment.hardware(), "torch": torch.__version__,
    }  # fmt: skip
    first = not OUT.exists()
    with OUT.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if first:
            writer.writeheader()
        writer.writerow(row)
    print(f"{name} {verb} {side}: {row['wall_ms']} ms, processor {row['cpu_ms']} ms", flush=True)
    return result


def measure(name: str, side: int) -> None:
    torch.manual_seed(0)
    config = configuration("width=1", "budget=paper", experiment=name)
    model = training.construct(config["model"]).eval().to(DEVICE)
    warm, x = photograph((64, 64)).to(DEVICE), photograph((side, side)).to(DEVICE)
    if not isinstance(model, Codec):
        model.denoise(warm)
        timed(name, "denoise", side, lambda: model.denoise(x))
        return
    model.update()
    model.decompress(model.compress(warm))
    data = timed(name, "encode", side, lambda: model.compress(x))
    timed(name, "decode", side, lambda: model.decompress(data))


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("methods", nargs="*", default=["fllic", "restormer", "lcfdnet"], metavar="METHOD[=SIDE]",
                        help="(fllic restormer lcfdnet, at 512)")  # fmt: skip
    script.run(times, parser, words)


def times(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for word in given.methods:
        method, _, pixels = word.partition("=")
        side = pixels or "512"
        if not side.isdecimal() or int(side) < 64:
            raise UserError(f"{word} is not a method and a side: give METHOD=SIDE, 64 pixels or more, as in fllic=512")
        measure(method, int(side))


if __name__ == "__main__":
    main()
