"""Hydra's overrides -> jobs with what they need, run in order; then the report.

A job is one point: one method at one noise level and one rung. Its `needs` are jobs of their own, run once a key
before it. All jobs are composed and checked before the first starts, a failed one does not stop the others, and the
exit status says whether any failed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from jdcsuite.artifacts import runs, weights
from jdcsuite.data.datamodule import Photographs
from jdcsuite.judging import report, results
from jdcsuite.training import job as training
from jdcsuite.training import tracker
from jdcsuite.types import UserError

# A need is composed from the words that were given for the job, but for those about the job's own method.
OWN = ("+experiment", "+sweep", "+start", "init_from", "rerun", "rate_scale", "min_ms_ssim", "needs", "card", "task")
# A need that is the same method at another rung is composed from all of them, but this.
SELF, SELF_OWN = "self", ("rerun",)
OWN_SECTIONS = ("criterion", "+criterion", "needs.", "+needs.", "report.", "task=")
# A need that starts the whole model is that model: what was said of it holds there too.
WHOLE, OWN_MODEL = "model", ("model", "+model")

_failures: list[str] = []


@dataclass
class Job:
    """One run. ``needs``: role -> the job that fills it."""

    config: dict
    overrides: list[str]
    key: str
    folder: Path
    needs: dict[str, Job] = field(default_factory=dict)


def exit_status() -> int:
    return 1 if _failures else 0


def plan(overrides: list[str], *, config_name: str = "config") -> Job:
    """Composes one job and, through its `needs`, those before it; nothing is run. UserError on a bad configuration."""
    config = compose(config_name, overrides)
    check(config, overrides)
    needs: dict[str, Job] = {}
    for role, need in config.needs.items():
        if need.experiment is None:
            continue
        extra = _words({k: v for k, v in need.items() if k not in ("experiment", "into")})
        replaced = {e.split("=")[0] for e in extra}
        passed = [o for o in _passed(overrides, need) if o.split("=")[0] not in replaced]
        needs[role] = plan([*passed, *extra], config_name=config_name)
    with open_dict(config):
        if any(config.needs[role].experiment == SELF for role in needs):
            config.init_from = None  # the rungs above have begun there
        for role, job in needs.items():
            _check_start(config, config.needs[role], job)
        for role, job in runs.whole_first(needs, config.needs):
            # the part is built from its own run's configuration, then filled with that run's weights
            OmegaConf.update(config, config.needs[role].into, job.config["model"], force_add=True, merge=False)
    resolved = runs.plain(config)
    lossless = resolved["data"]["lossless"]
    resolved["lossless_version"] = instantiate(lossless).version if lossless else None
    resolved["teachers"] = {name: teacher.id for name, teacher in runs.teachers(resolved["data"]).items()}
    key = runs.key(resolved, {role: job.key for role, job in needs.items()})
    return Job(resolved, overrides, key, runs.folder(resolved, key), needs)


def _words(said: Mapping, *, before: str = "") -> list[str]:
    """A (nested) mapping as words of a command line."""
    words = []
    for name, value in said.items():
        if isinstance(value, Mapping):
            words += _words(value, before=f"{before}{name}.")
        else:
            words.append(f"{before}{name}={'null' if value is None else value}")
    return words


def _passed(overrides: list[str], need: DictConfig) -> list[str]:
    """The words from which a need is composed."""
    if need.experiment == SELF:
        return [o for o in overrides if o.split("=")[0] not in SELF_OWN]
    sections = OWN_SECTIONS if need.into == WHOLE else OWN_SECTIONS + OWN_MODEL
    passed = [o for o in overrides if o.split("=")[0] not in OWN and not o.startswith(sections)]
    return [f"+experiment={need.experiment}", *passed]


def _check_start(config: DictConfig, need: DictConfig, job: Job) -> None:
    """UserError where another method's run would start the whole model, and is not of that model or not alone."""
    if need.into != WHOLE or need.experiment == SELF:
        return
    if config.init_from:
        raise UserError(f"init_from={config.init_from} and +start both say where the model starts: leave one out")
    if OmegaConf.to_container(config.model, resolve=True) != job.config["model"]:
        raise UserError(f"{config.method} has another model than {need.experiment}, so it cannot start from one")


def check(config: DictConfig, overrides: list[str]) -> None:
    if not config.get("method"):
        raise UserError("no experiment was named: say +experiment=fllic (or another in conf/experiment)")
    if config.sigma is not None and not (_number(config.sigma) and config.sigma >= 0):
        raise UserError(f"sigma={config.sigma} is not a noise level: give grey levels of 0 or more, as in sigma=10")
    if config.lmbda is not None and not (_number(config.lmbda) and config.lmbda > 0):
        raise UserError(f"lmbda={config.lmbda} is not usable: give a number above 0")
    if not (isinstance(config.seed, int) and config.seed >= 0):
        raise UserError(f"seed={config.seed} is not usable: give a whole number of 0 or more")
    for name, path in {"data.root": config.data.root, "init_from": config.init_from}.items():
        if path is not None and not isinstance(path, str):
            raise UserError(f"{name}={path} is no path: give one, a number as ./{path}")
    _check_folders(config, overrides)
    if config.target not in ("codec", "lossless", "distortion"):
        raise UserError(f"target={config.target} is unknown: choose codec, lossless or distortion")
    if not (isinstance(config.trainer.max_steps, int) and config.trainer.max_steps >= 1):
        raise UserError(f"trainer.max_steps={config.trainer.max_steps} is not usable: give 1 or more")


def _check_folders(config: DictConfig, overrides: list[str]) -> None:
    """UserError where folders are named that nothing would be read from."""
    root = config.data.root
    said = {name for name, _, value in (o.partition("=") for o in overrides) if value not in ("", "null", "[]")}
    for name in ("data.train", "data.test", "data.clean"):
        if name in said and root is None:
            raise UserError(f"{name} names what lies in data.root: give data.root=FOLDER too")
        if name in said and "clean" in config.data and (Path(root).expanduser() / "noisy").is_dir():
            raise UserError(
                f"{root} is one set of pairs itself (noisy/ and clean/): leave {name} out, or give the "
                "folder above it as data.root"
            )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def try_out(order: list[Job]) -> None:
    """Builds every distinct model, criterion and datamodule once, then reads all pictures: nothing is trained yet."""
    smallest: dict[str, int] = {}  # what is said of a part -> side of the smallest crop that it takes
    data: dict[str, Photographs] = {}
    needed: dict[str, int] = {}
    for job in order:
        training.check_device(job.config["trainer"])
        said = {part: _said(job, part) for part in ("model", "criterion", "data")}
        for part, words in said.items():
            if words not in smallest:
                built = training.construct(job.config[part])
                smallest[words] = getattr(built, "smallest", 1)
                if part == "data":
                    data[words] = built
        side = smallest[said["criterion"]]
        if min(job.config["data"]["crop"], job.config["data"]["val_crop"]) < side:
            raise UserError(
                f"MS-SSIM, in criterion.distance or min_ms_ssim, needs crops of {side} pixels or more: set data.crop "
                "and data.val_crop"
            )
        needed[said["data"]] = max(side, needed.get(said["data"], 1))
        if job.config["init_from"]:
            weights.path_of(job.config["init_from"])
    for words, side in needed.items():  # what takes long comes last
        data[words].prepare()
        data[words].require_val(side)
    for job in order:
        tested = set(data[_said(job, "data")].test_scenes)
        for need in job.needs.values():
            if shared := sorted(tested.intersection(data[_said(need, "data")].train_scenes or ())):
                raise UserError(
                    f"{need.folder.name}, which {job.folder.name} needs, would learn from {len(shared)} scenes of "
                    f"data.test (as {shared[0]}): leave them out of one of the two"
                )


def _said(job: Job, part: str) -> str:
    """What a part is built from, as one string: jobs that share it have it once."""
    return json.dumps([part, job.config[part]], sort_keys=True)


def launch(jobs_overrides: list[list[str]], *, config_name: str, sweep: bool) -> None:
    """Plans all jobs, runs them and what they need, and writes the report of the sweep."""
    console = Console()
    jobs = [plan(overrides, config_name=config_name) for overrides in jobs_overrides]
    order = _order(jobs)
    devices = max(job.config["trainer"]["devices"] for job in order)
    if sweep and devices > 1:
        raise UserError("trainer.devices above 1 does not go with -m yet: run the rungs one by one, without -m")
    main = _is_main_process()
    if main and not _in_process_group():
        _announce(jobs, order, console)
        try_out(order)
    if devices > 1 and not _in_process_group():
        return _failures.extend(["process group"] * (_torchrun(devices) != 0))
    failed: dict[Path, str] = {}
    # A worker that dies of the same signal would look like a failed job, and the next one would start.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for number, job in enumerate(order, 1):
        if main:
            console.print(f"[bold][{number}/{len(order)}][/] {job.folder}", highlight=False, soft_wrap=True)
        _run_guarded(job, failed, console)
        if main and job.folder in failed:
            console.print(f"  failed: {failed[job.folder]}", markup=False, highlight=False, soft_wrap=True)
    if main:
        _report([job for job in jobs if job.folder not in failed], console)
    complaints = Console(stderr=True)
    for folder, reason in failed.items():
        said = f"failed: {folder}: {reason}"
        complaints.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
        _failures.append(str(folder))


def _order(jobs: list[Job]) -> list[Job]:
    """Every job once, each after what it needs."""
    ordered: dict[Path, Job] = {}

    def visit(job: Job) -> None:
        for need in job.needs.values():
            visit(need)
        ordered.setdefault(job.folder, job)

    for job in jobs:
        visit(job)
    return list(ordered.values())


def _run_guarded(job: Job, failed: dict[Path, str], console: Console) -> None:
    missing = [need for need in job.needs.values() if need.folder in failed]
    if missing:
        failed[job.folder] = f"it needs {missing[0].folder.name}, which failed"
        return
    try:
        run_job(job, console)
    except UserError as error:
        failed[job.folder] = _told(error, job)
    except Exception as error:
        if job.config["debug"]:
            raise
        failed[job.folder] = f"{type(error).__name__}: {_told(error, job)}"


def run_job(job: Job, console: Console) -> None:
    """Runs one job in its folder unless it is finished; resumes it where it was interrupted."""
    needs = {role: need.folder for role, need in job.needs.items()}
    main = _is_main_process()
    with _lock(job.folder, main, console):
        if runs.finished(job.folder, job.key) and not job.config["rerun"]:
            if main:
                console.print("  finished before: not run again (rerun=true does)")
            return
        if main:
            if job.config["rerun"] or _stale(job.folder, needs):
                runs.clear(job.folder)
            runs.open_folder(job.folder, job.config, job.key, needs)
        curve = runs.curve(job.config, job.overrides)
        training.run(job.config, job.folder, needs=needs, curve=curve, console=console)


def _stale(folder: Path, needs: dict[str, Path]) -> bool:
    """Whether a run was begun or finished with other weights of its needs."""
    state = runs.read_state(folder)
    return state is not None and any(
        state["needs"].get(role, {}).get("weights") != runs.weights_hash(run) for role, run in needs.items()
    )


@contextmanager
def _lock(folder: Path, main: bool, console: Console):
    """One process group a run folder: rank 0 holds the lock, another launch waits for it."""
    if not main:
        yield
        return
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / folder.name)
    if lock.is_locked or not _free(lock):
        console.print("  another process runs this job: waiting for it")
    with lock:
        yield


def _free(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True


def _in_process_group() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _torchrun(devices: int) -> int:
    """This very command in a process group of its own. Lightning's own subprocesses cannot be it: they replay the
    arguments with Hydra's appended, and die."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    return subprocess.run([*command, "-m", "jdcsuite", *sys.argv[1:]], check=False).returncode


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _announce(jobs: list[Job], order: list[Job], console: Console) -> None:
    config = jobs[0].config
    if config["budget"] == "demo":
        console.print(results.DEMO, style="yellow")
    if config["data"]["root"] is None:
        console.print("Pictures: the photographs inside scikit-image (data.root=FOLDER takes yours).")
    extra = f" and {len(order) - len(jobs)} that they need" if len(order) > len(jobs) else ""
    console.print(
        f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}{extra}, in {Path(config['runs']) / config['name']}",
        soft_wrap=True,
    )


def _told(error: BaseException, job: Job) -> str:
    """One line for the person; the traceback goes to the run's log."""
    if job.folder.is_dir():
        (job.folder / "error.log").write_text("".join(traceback.format_exception(error)))
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, UserError) else f"{first} (traceback in {job.folder / 'error.log'})"


def _report(jobs: list[Job], console: Console) -> None:
    """Results, figure and strip of a launch's finished jobs, with the standard codecs on the same noisy pictures."""
    from jdcsuite.judging.references import reference_rows

    if not jobs:
        return
    config = jobs[0].config
    out = Path(config["runs"]) / config["name"] / "report"
    sources = [job.folder for job in jobs]
    made = report.make([*sources, *reference_rows(config, console)], out, console)
    if "flagship" in config["report"]["beside"]:
        made |= _at_equal_bytes(config, out, console)
    if command := tracker.sync_command(Path(config["runs"]) / config["name"]):
        console.print(
            f"W&B is offline; upload with: {command if len(command) < 200 else command[:200] + ' ...'}",
            soft_wrap=True,
        )
    sweep = tracker.tracker(
        folder=out, project=config["logger"]["project"], group=config["name"], job_type="report",
        name=f"{config['name']} report", id="report-" + "-".join(sorted(job.key for job in jobs))[:80],
        tags=["report"], mode=config["logger"]["mode"], config={"jobs": [str(job.folder) for job in jobs]},
    )  # fmt: skip
    pictures = {name: path for name, path in made.items() if path.suffix == ".png"}
    tracker.report_run(tracker=sweep, curves=results.curves(results.read([made["results"]])), pictures=pictures)


def _at_equal_bytes(config: dict, out: Path, console: Console) -> dict[str, Path]:
    """The first test picture by the network that comes along and by AVIF, in as many bytes."""
    from jdcsuite.judging import equal_bytes

    data: Photographs = instantiate(config["data"], _convert_="all")
    data.prepare()
    path = out / "equal_bytes.png"
    try:
        equal_bytes.draw(data.pictures(data.test_sets[0])[0][1], path)
    except UserError as error:
        console.print(f"no pictures at equal bytes: {error}", highlight=False, markup=False)
        return {}
    console.print(f"at equal bytes: {path}", soft_wrap=True, highlight=False, markup=False)
    return {"equal_bytes": path}
