from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from preloaded import fuseray

from orchestrator.cli import doctor
from orchestrator.cluster.findings import Finding, failed, passed, warned

FINE, ODD, BAD = passed("disk", "big"), warned("cpus", "few", "Buy more."), failed("torch", "[red] gone", "Install it.")


def _run(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "_findings", lambda **services: findings)
    result = CliRunner().invoke(doctor.command, arguments)
    return result.exit_code, result.stdout


def test_this_machine_as_json_with_ray_started(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    services = ["--storage", "shards", "--storage", "nowhere://x", "--tracking", "sqlite:///none.db"]
    ran = fuseray("doctor", "--json", "--start-ray", *services, folder=tmp_path)
    report = json.loads(ran.stdout)
    findings = {finding["name"]: finding for finding in report["findings"] if finding["name"] != "storage"}
    assert findings["python"]["level"] == "pass"
    assert findings["workloads"]["level"] == "pass"
    assert findings["ray starts"]["level"] == "pass", findings["ray starts"]
    assert findings["mlflow"]["level"] == "warning"
    assert {"packages", "torch", "torchvision", "timm", "gpu", "ray", "shared memory", "disk"} <= findings.keys()
    assert [item["level"] for item in report["findings"] if item["name"] == "storage"] == ["pass", "error"]
    assert all(bool(item["fix"]) == (item["level"] != "pass") for item in report["findings"])
    assert report["ok"] is False
    assert ran.returncode == 1
    assert not list(tmp_path.glob("*.db"))


def test_plain_lines_and_success(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = _run(monkeypatch, [FINE, ODD])
    assert code == 0
    assert shown.splitlines() == [
        "ok       disk: big",
        "warning  cpus: few",
        "         fix: Buy more.",
        "This machine can train: 2 checks passed, 1 with a warning.",
    ]


def test_an_error_fails_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = _run(monkeypatch, [FINE, BAD])
    assert code == 1
    assert "ERROR    torch: [red] gone" in shown
    assert shown.splitlines()[-1] == "1 of 2 checks must be fixed before training can work."


def test_json_of_a_sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = _run(monkeypatch, [FINE], "--json")
    assert code == 0
    assert json.loads(shown) == {
        "ok": True,
        "findings": [{"name": "disk", "level": "pass", "found": "big", "fix": ""}],
    }


def test_table_keeps_brackets_and_names_every_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    _, shown = _run(monkeypatch, [FINE, ODD, BAD])
    assert "[red] gone" in shown
    assert "Buy more." in shown
    assert "\x1b[" in shown


def test_ray_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("no port is free\nmore")

    monkeypatch.setattr(doctor, "_run_a_task", refuse)
    finding = doctor._start_ray()
    assert finding.level == "error"
    assert finding.found == "RuntimeError: no port is free"
    assert "session_latest" in finding.fix
