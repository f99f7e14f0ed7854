"""The jobs of a study in rounds: first those whose lmbda is given; in every round, the next of each search for one."""

from __future__ import annotations

from collections.abc import Sequence

from jdcsuite.study import rate_search, trial
from jdcsuite.study.launch import Failure
from jdcsuite.study.plan import Job, Parts, draft, identify


class Rounds:
    """``first``: the first job as it was asked for. ``count``: jobs and searches. ``jobs``: of all rounds so far."""

    def __init__(self, jobs_overrides: Sequence[list[str]], *, config_name: str) -> None:
        drafts = [draft(overrides, config_name=config_name) for overrides in jobs_overrides]
        self.first, self.config_name, self.parts = drafts[0], config_name, Parts()
        self.searches = rate_search.searches(drafts)
        self.jobs: list[Job] = []
        self._waiting = [job for job in drafts if job.config["target_bpp"] is None]
        self._searched: list[tuple[rate_search.Search, Job]] = []
        self.count = len(self._waiting) + len(self.searches)

    def next(self) -> list[Job]:
        """The jobs of the next round, tried out and with their folders; none when all have ended. UserError for what is
        wrong with any of them."""
        self._searched = [(search, search.draft(self.config_name)) for search in self.open]
        jobs = [*self._waiting, *(job for _, job in self._searched)]
        self._waiting = []
        if jobs:
            trial.construct(jobs, self.parts)
            identify(jobs, self.parts)  # reads all pictures, which takes longest
            trial.check_data(jobs, self.parts)
        self.jobs += jobs
        return jobs

    @property
    def open(self) -> list[rate_search.Search]:
        """The searches that need another job."""
        return [search for search in self.searches if search.next is not None]

    def note(self, failures: Sequence[Failure]) -> list[rate_search.Search]:
        """Take up the rates of the jobs of this round, which have ended; the searches that they belong to."""
        for search, job in self._searched:
            search.note(job, self.parts.data(job).test_sets[0], failures)
        return [search for search, _ in self._searched]
