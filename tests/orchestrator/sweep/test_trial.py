from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.schedulers import TRIAL_SPEC
from orchestrator.sweep.sweep_logger import TrialRecords
from orchestrator.sweep.trial import SweepContext, SweepTrial
from orchestrator.sweep.tune import SweepSearch


def test_relative_paths_of_a_trial_begin_where_the_sweep_was_started(
    make: Callable[..., ResolvedSweep], folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    context = SweepContext(
        sweep=make(),
        folder=folder.root,
        parent_run_id="run",
        seed=42,
        first_rung=48,
        report_steps=1,
        stop_signal=None,
        prices=None,
        cost_share=1.0,
        overrides={},
        working_folder=str(started),
    )

    class Given(SweepTrial):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, context)

    tunes = SimpleNamespace(trial_fs_path="tune", trial_working_directory=str(tmp_path / "tune"))
    monkeypatch.chdir(tmp_path)
    Given({TRIAL_SPEC: SweepSearch(context.sweep, TrialRecords(folder)).next()}, storage=tunes)  # type: ignore[arg-type]
    assert Path.cwd() == started
