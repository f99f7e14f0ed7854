"""The workspace and the report of a W&B project, built and not saved: no test has a W&B server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from jdcsuite.training import dashboard, tracker
from jdcsuite.types import UserError

KEYS = {
    "train/loss", "test/kodak24/bpp", "test/kodak24/psnr", "test/kodak24/ms_ssim", "test/kodak24_kodim01",
    "test/cc15/bpp", "test/cc15/psnr", "rd/kodak24-s10_table", "rd/kodak24-s10-ms_ssim_table", "report/figure",
    "report/curves",
}  # fmt: skip


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a key, and no other host than this one."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def contents(model: object) -> str:
    return model.spec.model_dump_json(by_alias=True, exclude_none=True)


def test_workspace_and_report_show_the_project_s_test_sets_and_charts() -> None:
    pytest.importorskip("wandb_workspaces")
    workspace, report = dashboard.build("me", "suite", KEYS)
    for text in (contents(workspace._to_model()), contents(report._to_model())):
        assert '"tableKey"' in text and "rd/kodak24-s10_table" in text and "rd/kodak24-s10-ms_ssim_table" in text
        for dataset, metric in (("kodak24", "psnr"), ("kodak24", "ms_ssim"), ("cc15", "psnr")):
            assert f"test/{dataset}/{metric}" in text
        assert "test/cc15/ms_ssim" not in text, "no run has it"
        assert "test/kodak24_kodim01" in text and "report/figure" in text and "train/lr" in text
    grids = [block for block in json.loads(contents(report._to_model()))["blocks"] if block["type"] == "panel-grid"]
    assert len(grids) == 4
    (runs,) = grids[0]["metadata"]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "curve.value"}], "one colour a curve"
    assert "report/curves" in json.dumps(grids[3]) and "report" in json.dumps(grids[3]["metadata"]["runSets"])


def test_a_repeated_dashboard_replaces_the_first() -> None:
    pytest.importorskip("wandb_workspaces")
    names = {dashboard.build("me", "suite", KEYS)[0]._to_model().name for _ in range(2)}
    titles = {dashboard.build("me", "suite", KEYS)[1].title for _ in range(2)}
    assert names == {"jdcsuite"} and titles == {"jdcsuite: suite"}


def test_without_the_extra_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"^jdc dashboard needs wandb-workspaces: install it .*jdcsuite\[dashboard\]"):
        dashboard.save("me/suite")


def test_without_a_key_one_sentence_says_what_to_do() -> None:
    pytest.importorskip("wandb_workspaces")
    with pytest.raises(UserError, match=r"^W&B cannot be reached \(no key is configured\): run `wandb login`"):
        dashboard.save("me/suite")
    tracker._reset()
