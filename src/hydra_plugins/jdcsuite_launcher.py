"""Hydra's launcher plugin: hands the jobs of a sweep to `jdcsuite.study`. Hydra finds launchers only here."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="jdcsuite",
    node={"_target_": f"{__name__}.JdcsuiteLauncher"},
    provider="jdcsuite",
)


class JdcsuiteLauncher(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.task_function = config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from jdcsuite.study import composition, sweep
        from jdcsuite.study.launch import JobsFailed

        jobs, config_name = [list(overrides) for overrides in job_overrides], self.config.hydra.job.config_name
        if not any(word.startswith("lmbda=") for word in self.config.hydra.overrides.task):
            jobs = composition.with_own_ladders(jobs, config_name=config_name)
        failures = sweep.run(jobs, config_name=config_name)
        if failures:
            raise JobsFailed(failures)
        return [_completed(overrides) for overrides in job_overrides]


def _completed(overrides: Sequence[str]) -> JobReturn:
    job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    job.return_value = None
    return job
