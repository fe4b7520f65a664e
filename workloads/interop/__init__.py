"""Import of other projects' weights and checkpoints, export of trained models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.albef.model import AlbefInference


def load_exported(folder: str | Path) -> AlbefInference:
    """Return the model in an exported folder, on the CPU and in evaluation mode.

    Raises:
        WorkloadError: when a file is missing or does not fit the others.
    """
    from workloads.interop.export import load_exported as load

    return load(folder)
