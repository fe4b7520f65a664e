"""A small sweep, and folders to keep it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_recipes import SWEPT

from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import SweepFile, SweepFolder
from orchestrator.sweep.sweep_logger import TrialRecords

SWEEP = """\
recipe: mine.yaml
objectives: [{metric: loss, mode: min}]
space: {distillation.alpha: "uniform(0, 0.8)"}
search: {method: random, trials: 3}
"""

Make = Callable[..., ResolvedSweep]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function from overrides to a sweep over alpha."""
    (tmp_path / "mine.yaml").write_text(SWEPT)
    (tmp_path / "alpha.yaml").write_text(SWEEP)
    return lambda *overrides: load_sweep(tmp_path / "alpha.yaml", overrides)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Return the folder of a sweep that does not exist yet."""
    return SweepFolder(locate(str(tmp_path / "runs" / "alpha")))


@pytest.fixture
def trials(folder: SweepFolder) -> TrialRecords:
    """Return the record of a sweep without trials."""
    return TrialRecords(folder)


@pytest.fixture
def file() -> SweepFile:
    """Return what a sweep of three trials remembers that runs."""
    return SweepFile(
        name="alpha",
        created="2026-01-01T00:00:00+00:00",
        status="RUNNING",
        tracking_uri="sqlite:///x",
        mlflow_run_id="1",
        trials=3,
        samples=480,
    )
