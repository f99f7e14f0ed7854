"""Jobs with a target rate -> the lmbda of the next job of each, until a run's files are near the target.

A method of one rate a network reaches a given rate only by training at several lmbdas. The logarithm of the rate is
nearly linear in that of lmbda, so few are needed. Every run is an ordinary one, which other sweeps share; the same
command goes on from those that are finished.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.judging import results
from jdcsuite.study import plan
from jdcsuite.study.launch import Failure
from jdcsuite.study.plan import Job

WORDS = re.compile(r"\+{0,2}(lmbda|target_bpp)=")
SLOPE = 0.4  # of log bpp over log lmbda, while there is one run; as in ladders of FLLIC and JDC
SLOPES = (0.15, 1.0)  # between two runs, of which short ones may be noisy
FLAT = 0.05  # slope at which the rate is taken not to follow lmbda any more
FARTHEST = math.log(16)  # step of log lmbda beyond the runs that there are
WITHIN = 0.1  # fraction of an interval that is left at both ends, so that it shrinks on both sides


@dataclass
class Search:
    """``overrides``: of its jobs, without lmbda. ``target``: bpp of the files of the first test set. ``tolerance``:
    relative. ``most``: jobs at most. ``starts``: the lmbdas in the command, the middle one of which comes first.
    ``rates``: lmbda -> bpp of the runs that have ended. ``failed``: a job of it failed."""

    overrides: list[str]
    target: float
    tolerance: float
    most: int
    starts: list[float] = field(default_factory=list)
    rates: dict[float, float] = field(default_factory=dict)
    failed: bool = False

    @property
    def closest(self) -> float:
        """The lmbda whose rate is nearest to the target."""
        return min(self.rates, key=lambda lmbda: abs(math.log(self.rates[lmbda] / self.target)))

    @property
    def reached(self) -> bool:
        return bool(self.rates) and abs(self.rates[self.closest] / self.target - 1) <= self.tolerance

    @property
    def next(self) -> float | None:
        """The lmbda of the next job, to three digits; None where the search has ended."""
        if self.failed or self.reached or len(self.rates) >= self.most:
            return None
        if not self.rates:
            return min(self.starts, key=self._from_middle)
        step = self._step()
        lmbda = None if step is None else float(f"{math.exp(step):.3g}")
        return None if lmbda in self.rates else lmbda

    @property
    def shortfall(self) -> str:
        """Why the search failed, "" where it did not, or where its job did."""
        if self.reached or self.failed:
            return ""
        advice = "give rate_search.runs or rate_search.tolerance a higher value"
        if len(self.rates) < self.most and self._step() is None:
            advice = "the rate does not follow lmbda there; a longer training or another width may have it"
        return f"target_bpp was not reached within {self.tolerance:.1%} ({self}): {advice}"

    def draft(self, config_name: str) -> Job:
        """The next job."""
        return plan.draft([*self.overrides, f"lmbda={self.next:g}"], config_name=config_name)

    def note(self, job: Job, test_set: str, failures: Sequence[Failure]) -> None:
        """Take up the rate of a run that has ended, on a test set; the search ends where it failed."""
        if any(failure.folder == job.folder for failure in failures):
            self.failed = True
            return
        rows = results.read([job.folder / run_folder.ROWS])
        self.rates[float(job.config["lmbda"])] = float(rows.loc[rows["dataset"] == test_set, "bpp"].mean())

    def __str__(self) -> str:
        """What the search has come to, as one line."""
        tried = ", ".join(f"lmbda {lmbda:g}: {rate:.4g} bpp" for lmbda, rate in sorted(self.rates.items()))
        return f"{self.target:g} bpp: {tried or 'no run'}"

    def _from_middle(self, lmbda: float) -> float:
        return abs(math.log(lmbda) - median(map(math.log, self.starts)))

    def _step(self) -> float | None:
        """log lmbda at which the rate should be the target; None where no lmbda beyond those of the runs has it."""
        goal = math.log(self.target)
        points = sorted((math.log(lmbda), math.log(rate)) for lmbda, rate in self.rates.items())
        below, above = [p for p in points if p[1] <= goal], [p for p in points if p[1] > goal]
        if below and above:
            (x0, y0), (x1, y1) = max(below), min(above)
            if x0 < x1:
                fraction = (goal - y0) / (y1 - y0)
                return x0 + (x1 - x0) * min(max(fraction, WITHIN), 1 - WITHIN)
            return (x0 + x1) / 2  # the rate falls with lmbda between two runs, which only chance brings about
        (x, y), *other = points[:2] if above else points[:-3:-1]  # the nearest, and the one beyond it
        slope = (other[0][1] - y) / (other[0][0] - x) if other else SLOPE
        if slope < FLAT:
            return None
        step = (goal - y) / min(max(slope, SLOPES[0]), SLOPES[1])
        return x + min(max(step, -FARTHEST), FARTHEST)


def searches(drafts: Sequence[Job]) -> list[Search]:
    """A search for each target rate; jobs that differ only in lmbda, as on a ladder, share one."""
    distinct: dict[tuple[str, ...], Search] = {}
    for job in drafts:
        if (target := job.config["target_bpp"]) is None:
            continue
        words = [word for word in job.overrides if not WORDS.match(word)]
        options = job.config["rate_search"]
        new = Search(words, float(target), options["tolerance"], options["runs"])
        distinct.setdefault((*words, str(float(target))), new).starts.append(float(job.config["lmbda"]))
    return list(distinct.values())
