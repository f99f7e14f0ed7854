"""Hydra's launcher plugin: hands a sweep's jobs to `jdcsuite.study`. Hydra finds launchers only in this package."""

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
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from jdcsuite.study import launcher

        launcher.launch(
            [list(overrides) for overrides in job_overrides],
            config_name=self.config.hydra.job.config_name,
            sweep=True,
        )
        # Failures are recorded by jdcsuite.study: one reported to Hydra here would skip what comes after a sweep.
        done = []
        for overrides in job_overrides:
            job = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            job.return_value = None
            done.append(job)
        return done
