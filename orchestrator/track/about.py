"""What a run was done with, as tags: machines, versions, the commit of the user's code. Nothing secret."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fuseray", "ray", "torch", "mlflow")
COMMIT_TAG = "mlflow.source.git.commit"
GIT_PATIENCE_S = 5


def system_tags(hosts: int, workers: int, folder: Path) -> dict[str, str]:
    """Return the tags.

    Args:
        hosts: machines of the cluster.
        workers: training workers.
        folder: where the user works; its commit is told when it belongs to a git repository.
    """
    tags = {"hosts": str(hosts), "workers": str(workers)}
    tags |= {f"version/{package}": found for package in PACKAGES if (found := _version(package))}
    commit = _commit(folder)
    return tags | ({COMMIT_TAG: commit} if commit else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
