"""Planned jobs -> a UserError for what would fail, before anything is trained: every distinct model, criterion and
datamodule is built, models and criteria take one step, and all pictures are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from jdcsuite.study.launch import slurm
from jdcsuite.study.plan import Job, Parts, drafts_in_order
from jdcsuite.training import contract
from jdcsuite.training import job as training
from jdcsuite.types import UserError


def construct(jobs: Sequence[Job], parts: Parts) -> None:
    """Build what the drafts of jobs configure, and take one step and code one random image with each distinct model and
    criterion; no picture is read."""
    tried = set()
    for job in drafts_in_order(jobs):
        launcher, trainer = job.config["launcher"], job.config["trainer"]
        if launcher["kind"] == "slurm":
            slurm.check()
        else:
            training.check_device(trainer)
        for section in ("model", "criterion", "data"):
            parts.get(job, section)
        side = smallest_crop(job, parts)
        if min(job.config["data"]["crop"], job.config["data"]["val_crop"]) < side:
            raise UserError(
                f"MS-SSIM, in criterion.distance or min_ms_ssim, needs crops of {side} pixels or more: set data.crop "
                "and data.val_crop"
            )
        rungs = {name: value for name, value in job.config["criterion"].items() if name != "lmbda"}
        kind = json.dumps([job.config["model"], rungs, job.config["task"]["_target_"]], sort_keys=True)
        if kind not in tried:
            tried.add(kind)
            model, criterion = parts.get(job, "model"), parts.get(job, "criterion")
            task = training.construct(job.config["task"], model=model, criterion=criterion)
            known, sigma = parts.get(job, "data").gives_levels, job.config["sigma"]
            check = partial(
                contract.check, task, lossless=bool(job.config["data"]["lossless"]),
                devices=trainer["devices"] * launcher.get("nodes", 1),
            )  # fmt: skip
            try:
                check(sigma=float(sigma) if known and sigma is not None else None)
            except UserError:
                if known:
                    raise
                check()  # raises what has another cause
                raise UserError(
                    f"{job.config['method']} needs the noise level of its images, which recorded pairs do not have: "
                    "train it on clean images with sigma=10"
                ) from None


def smallest_crop(job: Job, parts: Parts) -> int:
    """Side in pixels of the smallest crop that the criterion takes."""
    return getattr(parts.get(job, "criterion"), "smallest", 1)


def check_data(jobs: Sequence[Job], parts: Parts) -> None:
    """UserError where validation pictures are too small, or a needed run would learn from scenes that are tested."""
    for job in drafts_in_order(jobs):
        data = parts.data(job)
        data.require_val(smallest_crop(job, parts))
        tested = set(data.test_scenes)
        for need in job.needs.values():
            if shared := sorted(tested.intersection(parts.data(need).train_scenes or ())):
                raise UserError(
                    f"{need.folder.name}, which {job.folder.name} needs, would learn from {len(shared)} scenes of "
                    f"data.test (as {shared[0]}): leave them out of one of the two"
                )
