"""Shapes and types are checked in every test; caches and W&B stay in temporary folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything loads torch
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ["HYDRA_FULL_ERROR"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

install_import_hook("jdcsuite", "typecheck.checked")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded pictures of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["JDCSUITE_CACHE"] = str(folder)
    return folder
