"""Numbered random cases -> what they end in, each within bounds of time and memory: the loop of both fuzzers."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

SECONDS = 2.0  # of processor time that no case may take

# Draws one case -> its kind, and the work that says how it ends; an AssertionError of the work fails the case.
Draw = Callable[[np.random.Generator], tuple[str, Callable[[], str]]]


@dataclass(frozen=True)
class Result:
    """``counts``: of (kind, end). ``slowest``: seconds and number of a case. ``grown``: the peak, in MiB."""

    counts: Counter[tuple[str, str]]
    slowest: tuple[float, int]
    grown: float


def run(draw: Draw, cases: range, *, seed: int, mebibytes: float, verbose: bool = False) -> Result:
    """Run all cases. AssertionError: the first wrong one, with its number and seed, which make it again.

    ``mebibytes``: by which the peak memory of the process may grow.
    """
    before, slowest, counts, grown = peak_bytes(), (0.0, -1), Counter(), 0.0
    for number in cases:
        kind, work = draw(np.random.default_rng([seed, number]))
        start = time.process_time()
        try:
            counts[kind, work()] += 1
        except BaseException as error:
            raise AssertionError(f"case {number} of seed {seed} ({kind}): {type(error).__name__}: {error}") from error
        took, grown = time.process_time() - start, (peak_bytes() - before) / 2**20
        slowest = max(slowest, (took, number))
        assert took < SECONDS, f"case {number} of seed {seed} ({kind}) took {took:.2f} s"
        assert grown < mebibytes, f"case {number} of seed {seed} ({kind}): {grown:.0f} MiB"
        if verbose and (number + 1) % 1000 == 0:
            print(f"{number + 1} cases, slowest {1000 * slowest[0]:.0f} ms, {grown:.0f} MiB", flush=True)
    return Result(counts, slowest, grown)


def peak_bytes() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def parser(description: str) -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cases", nargs="?", type=int, default=20_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", type=int, help="one case, by its number")
    return arguments


def report(name: str, fuzz: Callable[..., Result], args: argparse.Namespace) -> None:
    """Run the cases that the command line asks for, and print what they ended in."""
    torch.set_num_threads(1)
    cases = range(args.cases) if args.only is None else range(args.only, args.only + 1)
    result = fuzz(cases, seed=args.seed, verbose=True)
    for (kind, end), count in sorted(result.counts.items()):
        print(f"{kind:20} {end:8} {count:6}")
    took, number = result.slowest
    print(f"slowest: {1000 * took:.0f} ms (case {number}); {result.grown:.0f} MiB more than before at most")
    print(f"{len(cases)} cases of {name}, all passed (seed {args.seed})")
