"""Our codecs and CompressAI's mbt2018-mean -> times to code a picture of 768 x 512, and their ratios.

`python experiments/exact_file/speed.py [REPEATS] [THREADS] [wall|cpu]`: whole files in memory, on the CPU, the codecs
in turns in one process after a warm-up; medians, quartiles, minima. ``cpu``: seconds of the processor, which other
programs on the machine lengthen less; with one thread, as a waiting thread counts too. Weights are those that training
starts from; mbt2018-mean's code nearly nothing, so its entropy coder has less to do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jdcsuite.bench.coding import kmac, photograph
from jdcsuite.bench.common import configuration
from jdcsuite.coding.codec import Codec
from jdcsuite.training import job as training

import numpy as np
import torch
from compressai.models import MeanScaleHyperprior
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
import script

SIZE = (512, 768)
QUALITY = 60.0
WIDTH = 0.6  # of FLLIC, where its kMAC/px are about those of mbt2018-mean
Turn = Callable[[], tuple[float, float]]
Clock = Callable[[], float]


def codec(experiment: str, *overrides: str) -> Codec:
    model = training.build(configuration(*overrides, experiment=experiment), {})[1].model.eval()
    model.update()
    return model


def coding(model: Codec | MeanScaleHyperprior, x: Tensor, clock: Clock) -> Turn:
    """One file there and back: ms of each."""
    asked = {"sigma": 10.0} if isinstance(model, Codec) else {}
    asked |= {"quality": QUALITY} if getattr(model, "any_rate", False) else {}

    def turn() -> tuple[float, float]:
        start = clock()
        coded = model.compress(x, **asked)
        middle = clock()
        model.decompress(*((coded["strings"], coded["shape"]) if isinstance(coded, dict) else (coded,)))
        return 1000 * (middle - start), 1000 * (clock() - middle)

    return turn


def outside(model: Codec, turn: Turn, clock: Clock) -> float:
    """Share of compress and decompress together outside the transforms and the prior networks."""
    spent = [0.0]

    def clocked(forward: Callable) -> Callable:
        def call(*given: object) -> object:
            start = clock()
            result = forward(*given)
            spent[0] += 1000 * (clock() - start)
            return result

        return call

    transforms = {name: getattr(model, name) for name in ("analyse", "synthesise")}
    for name, work in transforms.items():
        setattr(model, name, clocked(work))
    prior = [model.get_submodule(name) for name in (*model.prior_networks, "h_a")]
    for part in prior:
        part.forward = clocked(part.forward)
    try:
        both = turn()
        return 1 - spent[0] / sum(both)
    finally:
        for name in transforms:
            delattr(model, name)
        for part in prior:
            del part.forward


@torch.no_grad()
def speed(given: argparse.Namespace) -> None:
    repeats, threads, kind = given.repeats, given.threads, given.kind
    torch.set_num_threads(threads)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[kind]
    x = photograph(SIZE)
    width = f"width={WIDTH}"
    rival = MeanScaleHyperprior(192, 320).eval()
    rival.update(force=True, update_quantiles=True)
    models = {"mbt2018-mean": rival, "flagship": codec("flagship", "width=1"), f"fllic {width}": codec("fllic", width)}
    turns = {name: coding(model, x, clock) for name, model in models.items()}
    taken = [[turn() for turn in turns.values()] for _ in range(repeats + 1)]
    times = dict(zip(turns, np.array(taken[1:]).transpose(1, 0, 2), strict=True))  # the first is the warm-up
    theirs, macs = times["mbt2018-mean"], {name: kmac(model) for name, model in models.items()}
    print(f"{SIZE[1]} x {SIZE[0]}, {threads} threads, {kind} time, {repeats} repeats: compress / decompress")
    for name, model in models.items():
        ratios = times[name] / theirs
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=0)
        print(
            f"{name}, {macs[name]:.0f} kMAC/px: {told(np.median(times[name], 0), '.0f')} ms, "
            f"fastest {told(times[name].min(0), '.0f')} ms"
        )
        if model is not rival:
            print(f"  of its time: {told(middle, '.2f')}, quartiles {told(low, '.2f')} .. {told(high, '.2f')}")
            print(f"  fastest of each: {told(times[name].min(0) / theirs.min(0), '.2f')}")
            print(f"  at equal multiply-adds: {told(middle * macs['mbt2018-mean'] / macs[name], '.2f')}")
            print(f"  outside the networks, of both together: {outside(model, turns[name], clock):.1%}")


def told(values: np.ndarray, form: str) -> str:
    return " / ".join(format(value, form) for value in values)


def main(words: list[str] | None = None) -> None:
    parser = script.parser_of(__file__, __doc__)
    parser.add_argument("repeats", type=int, nargs="?", default=9)
    parser.add_argument("threads", type=int, nargs="?", default=2)
    parser.add_argument("kind", choices=("wall", "cpu"), nargs="?", default="wall")
    script.run(speed, parser, words)


if __name__ == "__main__":
    main()
