"""Folders of this user: the XDG variables' where they are set, else the specification's defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.storage.local_files import cache_home, state_home


@pytest.mark.parametrize(
    ("folder", "variable", "default"),
    [(cache_home, "XDG_CACHE_HOME", ".cache"), (state_home, "XDG_STATE_HOME", ".local/state")],
)
def test_the_variable_decides_if_it_is_absolute(
    folder: Callable[[], Path], variable: str, default: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    assert folder() == tmp_path / default / "fuseray"
    monkeypatch.setenv(variable, "relative")
    assert folder() == tmp_path / default / "fuseray"
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    assert folder() == tmp_path / "mine" / "fuseray"
    assert not folder().exists()
