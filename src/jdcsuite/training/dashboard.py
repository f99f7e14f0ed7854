"""Runs of a W&B project -> a workspace and a report in it: rate and distortion, training, images.

Both are built from code, so that every project of the suite looks alike. Saving them again replaces them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from jdcsuite.training import tracker
from jdcsuite.types import UserError

NAME = "jdcsuite"  # of the workspace and, with the project, of the report
MAX_RUNS = 500
TRAINING = {"train": ("loss", "bpp", "mse", "lr", "grad_norm"), "val": ("loss", "bpp", "psnr")}


def save(path: str) -> list[str]:
    """Build and save the workspace and the report of a project, ``[ENTITY/]PROJECT`` -> their addresses. UserError
    where wandb-workspaces, a key, the server or the project is missing."""
    _interfaces()
    if reason := tracker.no_route():
        raise UserError(f"W&B cannot be reached ({reason}): run `wandb login` on a machine with a network")
    import wandb

    try:
        api = wandb.Api(timeout=30)
        entity, _, project = path.rpartition("/")
        entity = entity or api.default_entity
        runs = api.runs(f"{entity}/{project}", per_page=MAX_RUNS)
        keys = {key for run, _ in zip(runs, range(MAX_RUNS), strict=False) for key in run.summary.keys()}  # noqa: SIM118
        workspace, report = build(entity, project, keys)
        report.id = next((r.id for r in api.reports(f"{entity}/{project}") if r.display_name == report.title), "")
        return [each.save().url for each in (workspace, report)]
    except Exception as error:  # of the server, of the network, of wandb
        raise UserError(
            f"the dashboard of {path} was not saved ({tracker.line(error)}): check the project's name"
        ) from None


def build(entity: str, project: str, keys: Collection[str]) -> tuple[Any, Any]:
    """The workspace and the report, not saved. ``keys``: of the summaries of the project's runs, which name the test
    sets (test/DATASET/psnr) and the charts of its sweeps (rd/DATASET-sSIGMA)."""
    workspaces, reports = _interfaces()
    sections = {
        "Rate and distortion": [*_charts(reports, keys), *_points(reports, keys)],
        "Training": [
            reports.LinePlot(title=f"{split}/{name}", x="Step", y=[f"{split}/{name}"], log_y=name in ("loss", "mse"))
            for split, names in TRAINING.items()
            for name in names
        ],
        "Images": [reports.MediaBrowser(title="test images", media_keys=_images(keys), num_columns=3)],
    }
    workspace = workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
    )
    workspace._internal_name = NAME  # otherwise a random one, and each saving adds a workspace
    runset = reports.Runset(name="runs", groupby=["config.curve"])  # without a project: of the report's own
    blocks = [
        reports.P("Rates are those of files that were written and decoded. Runs are grouped by their curve."),
        reports.TableOfContents(),
    ]
    for name, panels in sections.items():
        blocks += [reports.H1(name), reports.PanelGrid(runsets=[runset], panels=panels)]
    table = reports.WeavePanelSummaryTable(table_name="report/curves")
    of_sweeps = reports.Runset(name="reports", filters="JobType = 'report'")
    blocks += [reports.H1("RD Table"), reports.PanelGrid(runsets=[of_sweeps], panels=[table])]
    report = reports.Report(entity=entity, project=project, title=f"{NAME}: {project}", blocks=blocks, width="fluid")
    return workspace, report


def _interfaces() -> tuple[Any, Any]:
    """The modules of wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UserError(
            "jdc dashboard needs wandb-workspaces: install it with `python -m pip install 'jdcsuite[dashboard]'`"
        ) from None
    return workspaces, reports


def _charts(reports: Any, keys: Collection[str]) -> Iterator[Any]:
    """The charts that sweeps end with: quality over bits per pixel, a line for each method and standard codec."""
    for table in sorted(key for key in keys if re.fullmatch(r"rd/.+_table", key)):
        yield reports.CustomChart(
            query={"summaryTable": {"tableKey": table}},
            chart_name="wandb/lineseries/v0",
            chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
            chart_strings={"title": table.removeprefix("rd/").removesuffix("_table"), "xname": "bpp"},
        )


def _points(reports: Any, keys: Collection[str]) -> Iterator[Any]:
    """Every run of a project as a point, whichever sweep it is of."""
    for dataset in sorted(match[1] for key in keys if (match := re.fullmatch(r"test/(.+)/bpp", key))):
        for metric, title in tracker.QUALITY.items():
            if f"test/{dataset}/{metric}" in keys:
                x, y = (reports.SummaryMetric(f"test/{dataset}/{name}") for name in ("bpp", metric))
                yield reports.ScatterPlot(title=f"{dataset}: {title} over bpp", x=x, y=y)


def _images(keys: Collection[str]) -> list[str]:
    return sorted(key for key in keys if re.fullmatch(r"test/[^/]+|report/(figure|strip|equal_bytes)", key))
