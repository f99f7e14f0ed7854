"""What computed a result: versions of this package and of those it uses, and the hardware."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "lightning", "hydra-core", "compressai", "torchmetrics", "kornia", "numpy", "imagecodecs")


def code_version() -> str:
    """Version of jdcsuite, with the git commit where it runs from a clone (``+``: with uncommitted changes)."""
    own = package_version("jdcsuite")
    commit = _git("rev-parse", "--short=10", "HEAD")
    return f"{own} {commit}{'+' if _git('status', '--porcelain', '--untracked-files=no') else ''}" if commit else own


def uncommitted_changes() -> str:
    """The clone's diff against its commit; "" without changes or without a clone."""
    return _git("diff", "HEAD")


def hardware() -> str:
    """Name of the GPU, else of the processor, and the number of CPU threads."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} CPU threads"


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def described() -> dict[str, object]:
    """All of it, for a run's provenance."""
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "hardware": hardware(),
    }


def _git(*arguments: str) -> str:
    """Output of git in the package's clone; "" where it fails, or where the package is no part of a repository (a wheel
    may be unpacked inside another project's)."""
    here = Path(__file__).resolve().parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10, check=False
        )
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if tracked.returncode == 0 and done.returncode == 0 else ""
