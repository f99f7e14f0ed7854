"""Overrides of one job or of a sweep -> jobs with the runs that they need, checked, each written to its run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.artifacts import weights
from jdcsuite.data.datamodule import DataModule
from jdcsuite.study import identity, validation
from jdcsuite.study.composition import MODEL, SELF, Changes, Composition, compose, compose_need, resolved
from jdcsuite.training import job as training
from jdcsuite.types import UserError


class Parts:
    """Datamodules, models and criteria that jobs are made of; jobs with equal configurations share one."""

    def __init__(self) -> None:
        self._built: dict[str, object] = {}
        self._prepared: set[int] = set()

    def get(self, job: Job, section: str) -> object:
        name = self.name(job, section)
        if name not in self._built:
            self._built[name] = training.construct(job.config[section])
        return self._built[name]

    @staticmethod
    def name(job: Job, section: str) -> str:
        return json.dumps([section, job.config[section]], sort_keys=True)

    def data(self, job: Job) -> DataModule:
        """With its pictures decoded and checked."""
        data = self.get(job, "data")
        if id(data) not in self._prepared:
            data.prepare()
            self._prepared.add(id(data))
        return data


@dataclass
class Job:
    """One run. ``config``: resolved, with ``curve``. ``needs``: role -> the job that fills it; ``into``: role -> the
    module that its weights start. ``key`` and so the folder are known once the data are (`identify`). ``overrides``: of
    the command that runs it, or the job that needs it."""

    config: dict
    changes: Changes
    needs: dict[str, Job] = field(default_factory=dict)
    into: dict[str, str] = field(default_factory=dict)
    key: str = ""
    overrides: list[str] = field(default_factory=list)

    @property
    def study(self) -> Path:
        return Path(self.config["runs"]) / self.config["name"]

    @cached_property
    def folder(self) -> Path:
        if not self.key:
            raise RuntimeError("a job has no folder before it is identified")
        return self.study / run_folder.name(self.config, self.key)

    @property
    def document(self) -> dict:
        """What config.yaml holds: the whole job."""
        needs = {
            role: {"run": os.path.relpath(need.folder, self.folder.parent), "key": need.key, "into": self.into[role]}
            for role, need in self.needs.items()
        }
        return {**self.config, "key": self.key, "needs": needs, "overrides": list(self.overrides)}


def draft(overrides: list[str], *, config_name: str = "config") -> Job:
    """Compose one job and, through its `needs`, the jobs before it. Nothing is built or read but what the overrides
    name. UserError for configurations that cannot run."""
    composition = compose(overrides, config_name=config_name)
    try:
        validation.check(composition, config_name=config_name)
        job = _job(composition, config_name)
    except RecursionError:
        raise UserError(f"the needs of {composition.experiment} form a circle: end it with experiment: null") from None
    for each in drafts_in_order([job]):
        each.overrides = overrides
    return job


def _job(composition: Composition, config_name: str) -> Job:
    config = composition.config
    needs: dict[str, Job] = {}
    for role in config.needs:
        need = compose_need(composition, role, config_name=config_name)
        if need is not None:
            validation.check_values(need.config)
            needs[role] = _job(need, config_name)
    into = {role: config.needs[role].into for role in needs}
    with open_dict(config):
        if any(config.needs[role].experiment == SELF for role in needs):
            config.init_from = None  # the start of the first rung of the chain
        for role in needs:
            _check_start(config, config.needs[role], needs[role])
        for role in sorted(needs, key=lambda role: into[role].count(".")):
            # the part is built from its own run's configuration, then started from that run's weights
            OmegaConf.update(config, into[role], needs[role].config["model"], force_add=True, merge=False)
    plain = resolved(config)
    if plain["init_from"]:
        weights.path_of(plain["init_from"])
    coder = training.construct(plain["data"]["lossless"]) if plain["data"]["lossless"] else None
    plain["lossless_version"] = coder.version if coder else None
    plain["teachers"] = {name: teacher.id for name, teacher in training.predenoised_teachers(plain["data"]).items()}
    plain["curve"] = identity.curve(plain, composition.changes)
    return Job(plain, composition.changes, needs, into)


def _check_start(config: DictConfig, need: DictConfig, job: Job) -> None:
    """UserError where another method's run would start the whole model, but has another model or is not alone."""
    if need.into != MODEL or need.experiment == SELF:
        return
    if config.init_from:
        raise UserError(f"init_from={config.init_from} and +start both say where the model starts: leave one out")
    if OmegaConf.to_container(config.model, resolve=True) != job.config["model"]:
        raise UserError(f"{config.method} has another model than {need.experiment}, so it cannot start from one")


def identify(jobs: Sequence[Job], parts: Parts) -> None:
    """Give jobs and their needs their keys, after reading their pictures."""
    for job in jobs:
        if not job.key:
            identify(list(job.needs.values()), parts)
            keys = {role: need.key for role, need in job.needs.items()}
            job.key = identity.key(job.config, data=parts.data(job).identity(), needs=keys)


def drafts_in_order(jobs: Sequence[Job]) -> list[Job]:
    """All jobs, each after those that it needs; before keys are known a job may occur more than once."""
    return [each for job in jobs for each in (*drafts_in_order(list(job.needs.values())), job)]


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Every job once, each after those that it needs."""
    ordered: dict[Path, Job] = {}
    for job in drafts_in_order(jobs):
        ordered.setdefault(job.folder, job)
    return list(ordered.values())


def plan(overrides: list[str], *, config_name: str = "config") -> Job:
    """One job with its key."""
    job = draft(overrides, config_name=config_name)
    identify([job], Parts())
    return job


def write(jobs: Sequence[Job]) -> None:
    """Write every job to its run folder. UserError where a folder holds something else."""
    for job in in_order(jobs):
        run_folder.write_config(job.folder, job.document)
