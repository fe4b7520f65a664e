from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.cluster import Cluster, NodeGroup


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process a state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def make_cluster(tmp_path: Path) -> Callable[..., Cluster]:
    """Return what makes clusters of any kind."""

    def make(kind: Any, settings: Mapping[str, Any], name: str = "lab") -> Cluster:
        head = NodeGroup(name="head", machine=None, market="owned", fewest=1, most=1, cpus=None, gpus=0, head=True)
        return Cluster(kind=kind, name=name, file=tmp_path / "lab.yaml", groups=(head,), settings=settings)

    return make
