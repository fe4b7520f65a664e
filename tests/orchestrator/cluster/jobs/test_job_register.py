"""The register of jobs."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.jobs.history import JobRecord, JobRegister, register_folder

ENTRY = JobRecord(
    job="mine-1",
    cluster_file="/clusters/lab.yaml",
    cluster="lab",
    run="mine",
    run_folder="s3://b/runs/mine",
    recipe="/mine.yaml",
    submitted="2026-01-01T00:00:00+00:00",
)


def test_jobs_are_remembered_newest_first_for_their_user_alone(tmp_path: Path) -> None:
    register = JobRegister(tmp_path / "state" / "jobs")
    assert register.entries() == []
    newer = replace(ENTRY, job="mine-2", submitted="2026-01-02T00:00:00+00:00")
    register.add(ENTRY)
    register.add(newer)
    assert register.entries() == [newer, ENTRY]
    assert stat.S_IMODE((tmp_path / "state" / "jobs").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state" / "jobs").iterdir()} == {0o600}
    register.remove("mine-2")
    register.remove("mine-2")
    assert JobRegister(tmp_path / "state" / "jobs").entries() == [ENTRY]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    register = JobRegister(tmp_path)
    register.add(ENTRY)
    (tmp_path / "mine-1.json").write_text("{")
    with pytest.raises(ClusterError, match=r"mine-1\.json: is damaged .* delete it"):
        register.entries()


def test_where_the_register_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert register_folder() == tmp_path / "fuseray" / "jobs"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert register_folder() == Path.home() / ".local" / "state" / "fuseray" / "jobs"
