"""Run folders of a study -> its report: tables, figures and pictures beside the reference codecs, here and in W&B."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from rich.console import Console

from jdcsuite.artifacts import folder as run_folder
from jdcsuite.data.datamodule import DataModule
from jdcsuite.imaging import atomic
from jdcsuite.judging import curves, results
from jdcsuite.judging.references import STANDARDS, reference_rows
from jdcsuite.reports import equal_bytes, report
from jdcsuite.study.launch.execute import locked
from jdcsuite.training import tracker
from jdcsuite.types import UserError


def make(folders: Sequence[Path], console: Console, *, sweep: Sequence[Path]) -> None:
    """Write ``report/`` beside the finished runs ``folders`` of one study, with the reference codecs on the same noisy
    images. ``sweep``: the folders of all jobs, with those that failed. UserError where rows cannot be joined or the
    report cannot be written."""
    configs = [run_folder.read_config(folder) for folder in folders]
    config, study = configs[0], folders[0].parent
    out = study / "report"
    with locked(out, console):
        for each in (out, study / STANDARDS):
            atomic.clean(each)
        distinct = {json.dumps(each["data"], sort_keys=True): each for each in configs}.values()
        beside = dict.fromkeys(path for each in distinct for path in reference_rows(each, console))
        files = report.make([*folders, *beside], out, console)
        if "flagship" in (config["report"]["beside"] or []):
            files |= _at_equal_bytes(config, out, console)
        run = tracker.tracker(
            folder=out, project=config["logger"]["project"], group=config["name"], job_type="report",
            name=f"{config['name']} report", id=_report_id(sweep),
            tags=["report"], mode=config["logger"]["mode"], config={"jobs": [str(folder) for folder in folders]},
        )  # fmt: skip
        pictures = {name: path for name, path in files.items() if path.suffix == ".png"}
        tracker.report_run(tracker=run, curves=curves.points(results.read([files["results"]])), pictures=pictures)
    if command := tracker.sync_command(study):  # with the report's own part
        console.print(f"W&B is offline; upload with: {command}", soft_wrap=True, highlight=False, markup=False)


def _report_id(sweep: Sequence[Path]) -> str:
    """Id of the report's W&B run: the same whenever the same sweep is run in the same folder, whichever of its jobs
    failed. Run folders bear the keys of their jobs."""
    words = [str(sweep[0].parent.resolve()), *sorted(folder.name for folder in sweep)]
    return f"report-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:12]}"


def _at_equal_bytes(config: dict, out: Path, console: Console) -> dict[str, Path]:
    """The first test image by the shipped network and by AVIF, in as many bytes."""
    data: DataModule = instantiate(config["data"], _convert_="all")
    data.prepare()
    path = out / "equal_bytes.png"
    try:
        equal_bytes.draw(data.pictures(data.test_sets[0])[0][1], path)
    except UserError as error:
        console.print(f"no pictures at equal bytes: {error}", highlight=False, markup=False)
        return {}
    console.print(f"at equal bytes: {path}", soft_wrap=True, highlight=False, markup=False)
    return {"equal_bytes": path}
