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
        from jdcsuite.study import sweep
        from jdcsuite.study.launch import JobsFailed

        failures = sweep.run(
            [list(overrides) for overrides in job_overrides], config_name=self.config.hydra.job.config_name
        )
        if failures:
            raise JobsFailed(failures)
        return [_completed(overrides) for overrides in job_overrides]


def _completed(overrides: Sequence[str]) -> JobReturn:
    job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    job.return_value = None
    return job
