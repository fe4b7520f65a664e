from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import Made, build_sweep

from orchestrator.sweep.folder import SweepFolder


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., SweepFolder]:
    """Write a sweep's folder; see `Made` for what it takes."""

    def make(**how: Any) -> SweepFolder:
        return build_sweep(tmp_path, Made(**how))

    return make
