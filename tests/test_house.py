"""The repository: imports between packages, pinned versions, experiments, notebooks and the wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def tracked(pattern: str) -> list[Path]:
    ignored = {".venv", "runs", ".git", "build", "dist"}
    return [p for p in ROOT.rglob(pattern) if not ignored & set(p.parts) and p.is_file()]


def test_packages_import_only_from_lower_layers() -> None:
    done = subprocess.run([BIN / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_pin_is_exact_and_names_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert len(lines) > 100
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines)
    pinned = dict(line.lower().split("==") for line in lines)
    assert pinned["lightning"] not in ("2.6.2", "2.6.3"), "these two releases steal credentials"


def test_configuration_travels_with_the_package() -> None:
    link = ROOT / "src" / "jdcsuite" / "conf"
    assert link.is_symlink() and str(link.readlink()) == "../../conf"
    assert (link / "config.yaml").is_file()


def test_the_container_image_gets_all_that_the_wheel_is_made_of() -> None:
    """What pyproject.toml names and links in `src` lead to is copied by the Dockerfile, past .dockerignore."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, packages = settings["project"], settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    links = [path.resolve() for path in (ROOT / "src").rglob("*") if path.is_symlink()]
    named = ["pyproject.toml", project["readme"], *project["license-files"], *packages]
    copies = re.findall("^COPY (.*) .*$", (ROOT / "Dockerfile").read_text(), re.M)
    copied = [ROOT / word for words in copies for word in words.split()]
    admitted = [ROOT / line for line in re.findall("^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)]
    assert links and copied and all(path.exists() for path in copied)
    for path in (*links, *(ROOT / name for name in named)):
        assert any(path.is_relative_to(other) for other in copied), path
    assert sorted(copied) == sorted(admitted)


def test_notebooks_hold_no_outputs() -> None:
    notebooks = tracked("*.ipynb")
    assert notebooks
    for path in notebooks:
        code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code), path


def test_experiments_answer_a_question_with_a_command() -> None:
    folders = [p for p in (ROOT / "experiments").iterdir() if p.is_dir() and p.name[0] not in "._"]
    assert folders
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert "Question" in text and "```" in text, folder
        assert (folder / "results.csv").is_file(), folder


@pytest.mark.slow
def test_notebooks_run(tmp_path: Path) -> None:
    """With the results of an experiment."""
    import nbformat
    from nbclient import NotebookClient

    for path in tracked("*.ipynb"):
        notebook = nbformat.read(path, 4)
        os.environ["STUDY"] = str(ROOT / "experiments" / "synthetic_awgn" / "results.csv")
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
        outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
        assert any("image/png" in o.get("data", {}) for o in outputs)


@pytest.mark.slow
def test_wheel_works_in_another_folder(tmp_path: Path) -> None:
    """Built, installed outside the clone, and run with its own configuration and a config folder of the user."""
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel], check=True
    )
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "own.yaml").write_text("# @package _global_\ndefaults: [fllic, _self_]\nmethod: own\n")
    words = ["--config-dir", str(mine.parent), "+experiment=own", "sigma=10", "trainer.max_steps=1", "width=0.04",
             "data.limit=1", "report.standards.avif=null", "report.beside=[]", "name=w"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "jdcsuite", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    where = [sys.executable, "-c", "import jdcsuite; print(jdcsuite.__file__)"]
    where_imported = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert where_imported.startswith(str(tmp_path)), "the wheel is used, not the clone"
    kept = ROOT / "experiments" / "flagship" / "weights" / "flagship.safetensors"
    if kept.is_file():  # the wheel contains the weights, not a link
        assert (tmp_path / "site" / "jdcsuite" / kept.name).read_bytes() == kept.read_bytes()
    (run,) = (tmp_path / "runs" / "w").glob("own-s10-*")
    assert (run / "results.csv").is_file()
