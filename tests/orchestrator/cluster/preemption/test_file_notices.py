from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.cluster.preemption.notices import DEFAULT_REASON, FileNotices, Notice, SourceError

WRITTEN_S = 1_800_000_000
NOON_MS = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)


def notice_of(file: Path, text: str) -> Notice | None:
    file.write_text(text)
    os.utime(file, (WRITTEN_S, WRITTEN_S))
    return FileNotices(file).poll()


def test_a_file_that_is_not_there_is_no_notice(tmp_path: Path) -> None:
    assert FileNotices(tmp_path / "none").poll() is None
    assert FileNotices(tmp_path / "none" / "deeper").poll() is None


def test_an_empty_file_is_a_notice(tmp_path: Path) -> None:
    file = tmp_path / "gone"
    assert notice_of(file, "") == Notice(DEFAULT_REASON, None, f"file {file}")


@pytest.mark.parametrize(
    ("text", "deadline_ms"),
    [
        ('{"deadline_s": 30}', (WRITTEN_S + 30) * 1000),
        ('{"deadline_s": 2.5}', WRITTEN_S * 1000 + 2500),
        ('{"deadline": "2027-01-31T12:00:00Z"}', NOON_MS),
        ('{"deadline": "2027-01-31T14:00:00+02:00"}', NOON_MS),
        ('{"deadline": "2027-01-31T12:00:00"}', NOON_MS),
    ],
)
def test_deadlines_count_from_when_the_file_was_written_or_are_times(
    tmp_path: Path, text: str, deadline_ms: int
) -> None:
    notice = notice_of(tmp_path / "gone", text)
    assert notice is not None
    assert notice.deadline_ms == deadline_ms


@pytest.mark.parametrize(
    "text",
    [
        "leave!",
        "[1]",
        '{"deadline_s": 3',
        '{"deadline_s": "30"}',
        '{"deadline_s": NaN}',
        '{"deadline_s": 1e17}',
        '{"deadline_s": -1e300}',
        '{"deadline": "noon"}',
        "[" * 5000,
    ],
)
def test_what_cannot_be_understood_is_a_notice_without_a_deadline(tmp_path: Path, text: str) -> None:
    notice = notice_of(tmp_path / "gone", text)
    assert notice is not None
    assert notice.deadline_ms is None
    assert "not known" in notice.describe(0)


def test_the_reason_is_one_short_line(tmp_path: Path) -> None:
    notice = notice_of(tmp_path / "gone", '{"reason": "power\\n\\u001b[31m cut ' + "!" * 900 + '"}')
    assert notice is not None
    assert notice.reason.startswith("power [31m cut !")
    assert len(notice.reason) == 200


def test_a_folder_in_its_place_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        FileNotices(tmp_path).poll()
