"""Shapes and types are checked in every test; caches and W&B stay in temporary folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything loads torch
os.environ.setdefault("WANDB_MODE", "disabled")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers are what uses the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HYDRA_FULL_ERROR"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

# Every module but those that numba compiles: a checked function it cannot. Packages would stand for all in them.
SOURCE = Path(__file__).parents[1] / "src"
modules = (
    path for path in (SOURCE / "jdcsuite").rglob("*.py") if path.stem not in ("__init__", "rans", "jpeg", "fidelity")
)
paths = [path.relative_to(SOURCE) for path in modules]
install_import_hook([".".join(path.with_suffix("").parts) for path in paths], "typecheck.checked")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded pictures of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["JDCSUITE_CACHE"] = str(folder)
    return folder
