"""The loop, with time that only its own pauses move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from metadata_server import Metadata

from orchestrator.cluster.preemption.cloud import ACTION, AwsNotices
from orchestrator.cluster.preemption.drain import DrainError
from orchestrator.cluster.preemption.notices import FileNotices, Notice, NoticeSource, SourceError
from orchestrator.cluster.preemption.watcher import Clock, Watcher

OPEN = Notice("leave", None, "test")
DATED = Notice("leave", 20_000, "test")


class Enough(Exception):
    """The time of a test is over."""


class Time:
    """Moves when somebody sleeps, and no further than a test wants."""

    def __init__(self, until_s: float = 60.0) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []
        self._until_s = until_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        if self.now_s >= self._until_s:
            raise Enough

    def clock(self) -> Clock:
        return Clock(lambda: int(self.now_s * 1000), self.sleep)


class Script:
    """A source that says one thing after another, the last one for ever."""

    name = "test"
    interval_s = 2.0

    def __init__(self, *says: Notice | SourceError | None) -> None:
        self._says: Iterator[Notice | SourceError | None] = iter(says)
        self._last: Notice | SourceError | None = None

    def poll(self) -> Notice | None:
        self._last = next(self._says, self._last)
        if isinstance(self._last, SourceError):
            raise self._last
        return self._last


class Ray:
    """Takes drains; the first ones fail."""

    def __init__(self, *failures: str) -> None:
        self.drained: list[Notice] = []
        self.attempts = 0
        self._failures: Iterator[str] = iter(failures)

    def drain(self, notice: Notice) -> str:
        self.attempts += 1
        if (failure := next(self._failures, None)) is not None:
            raise DrainError(failure)
        self.drained.append(notice)
        return "drained"


def watch(source: NoticeSource, ray: Ray, time: Time, interval_s: float | None = None) -> list[str]:
    """Watch until it is over; return what was said."""
    lines: list[str] = []
    Watcher(source, ray.drain, lines.append, interval_s, time.clock()).run()
    return lines


def say_until_enough(source: NoticeSource, ray: Ray, time: Time) -> list[str]:
    lines: list[str] = []
    with pytest.raises(Enough):
        Watcher(source, ray.drain, lines.append, None, time.clock()).run()
    return lines


def test_a_notice_drains_once_and_ends_the_watch() -> None:
    ray, time = Ray(), Time()
    lines = watch(Script(None, None, DATED), ray, time)
    assert lines == ["notice: test: leave at 00:00:20Z, in 16 s", "drained"]
    assert ray.drained == [DATED]
    assert time.pauses == [2.0, 2.0]


def test_the_interval_can_be_chosen() -> None:
    time = Time()
    watch(Script(None, DATED), Ray(), time, interval_s=7.0)
    assert time.pauses == [7.0]


def test_a_notice_without_a_deadline_drains_and_waits_for_one() -> None:
    ray = Ray()
    lines = watch(Script(OPEN, OPEN, OPEN, DATED), ray, Time())
    assert ray.drained == [OPEN, DATED]
    assert [line.split(":")[0] for line in lines] == ["notice", "drained", "notice", "drained"]


def test_a_standing_notice_without_a_deadline_is_said_and_drained_once() -> None:
    ray = Ray()
    assert len(say_until_enough(Script(OPEN), ray, Time())) == 2
    assert ray.drained == [OPEN]


def test_ray_is_asked_until_it_answers_and_the_same_trouble_is_said_once() -> None:
    ray, time = Ray("no answer", "no answer", "no answer", "refused", "refused"), Time()
    lines = watch(Script(DATED), ray, time)
    assert [line for line in lines if "warning" in line] == [
        "warning: no answer It is tried again until the deadline.",
        "warning: refused It is tried again until the deadline.",
    ]
    assert ray.drained == [DATED]
    assert time.pauses == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_after_the_deadline_it_gives_up_and_says_why() -> None:
    ray, time = Ray(*["no answer."] * 100), Time()
    with pytest.raises(DrainError, match=r"^the deadline passed before the node could be drained: no answer\.$"):
        watch(Script(DATED), ray, time)
    assert 20.0 <= time.now_s <= 22.0


def test_a_notice_that_is_late_already_gets_its_attempt() -> None:
    ray, time = Ray(), Time()
    time.now_s = 50.0
    assert "which is past" in watch(Script(DATED), ray, time)[0]
    assert ray.drained == [DATED]


def test_a_notice_is_remembered_while_its_source_is_silent() -> None:
    ray = Ray("no answer")
    watch(Script(DATED, SourceError("gone.")), ray, Time())
    assert ray.drained == [DATED]


def test_a_notice_that_is_taken_back_in_time_drains_nothing() -> None:
    ray = Ray("no answer")
    say_until_enough(Script(DATED, None), ray, Time())
    assert ray.attempts == 1


def test_a_silent_source_is_reported_once_and_asked_less_often() -> None:
    ray, time = Ray(), Time(until_s=600)
    silent: Sequence[SourceError] = [SourceError("no answer.")] * 5
    lines = watch(Script(*silent, None, *silent, DATED), ray, time)
    assert lines[:4] == [
        "warning: no answer. It is asked again until it answers.",
        "test answers again after 5 failed polls",
        "warning: no answer. It is asked again until it answers.",
        "test answers again after 5 failed polls",
    ]
    assert time.pauses == [2.0, 4.0, 8.0, 10.0, 10.0, 2.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert ray.drained == [DATED]


def test_with_the_real_sources(metadata: Metadata, tmp_path: Path) -> None:
    metadata.items[ACTION] = (200, '{"action": "stop", "time": "1970-01-01T00:00:20Z"}')
    (tmp_path / "gone").write_text('{"deadline": "1970-01-01T00:00:20Z"}')
    for source in (AwsNotices(metadata.url), FileNotices(tmp_path / "gone")):
        ray = Ray()
        watch(source, ray, Time())
        assert [notice.deadline_ms for notice in ray.drained] == [20_000]
