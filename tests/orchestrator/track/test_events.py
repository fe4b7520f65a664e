"""Events and what a run was done with, as tags."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator.storage.location import locate
from orchestrator.track.metric_log import Event, EventLog, event_tags
from orchestrator.track.tracker import COMMIT_TAG, system_tags

LOST = Event("recovery", 40, "worker 1 was killed", lost_steps=3, downtime_s=8.26, workers=2)
WARNED = Event("preemption", 60, "node leaves", lost_steps=0, downtime_s=4.0, workers=1)
GROWN = Event("resize", 80, "a node came", lost_steps=0, downtime_s=1.0, workers=2)


def test_events_are_numbered_on_after_a_resume(tmp_path: Path) -> None:
    file = locate(str(tmp_path / "events.jsonl"))
    EventLog(file).add(LOST)
    EventLog(file).add(WARNED)
    resumed = EventLog(file)
    resumed.add(GROWN)
    assert resumed.events == EventLog(file).events == [LOST, WARNED, GROWN]
    tags = event_tags(resumed.events)
    assert json.loads(tags["event/0001"])["reason"] == "worker 1 was killed"
    assert json.loads(tags["event/0003"])["kind"] == "resize"
    assert {name: tags[name] for name in ("recoveries", "lost_steps", "downtime_s")} == {
        "recoveries": "2",
        "lost_steps": "3",
        "downtime_s": "13.3",
    }


def test_an_undisturbed_run_has_no_such_tags() -> None:
    assert event_tags([]) == {}


def test_reasons_are_cut_and_hold_no_secrets(tmp_path: Path) -> None:
    log = EventLog(locate(str(tmp_path / "events.jsonl")))
    log.add(Event("recovery", 1, "s3://me:hunter2@bucket is away " + "x" * 9000, 0, 0.0, 1))
    tag = event_tags(log.events)["event/0001"]
    assert len(tag) < 2000
    assert "hunter2" not in tag + (tmp_path / "events.jsonl").read_text()


def test_the_machines_the_versions_and_the_commit_are_told(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    tags = system_tags(2, 4, tmp_path)
    assert tags["hosts"] == "2"
    assert tags["workers"] == "4"
    assert tags["version/torch"] == version("torch")
    assert tags[COMMIT_TAG] == git("rev-parse", "HEAD").strip()


def test_a_folder_without_commits_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert COMMIT_TAG not in system_tags(1, 1, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert COMMIT_TAG not in system_tags(1, 1, tmp_path)
