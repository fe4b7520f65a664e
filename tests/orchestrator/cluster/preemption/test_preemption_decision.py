from __future__ import annotations

import pytest

from orchestrator.cluster.preemption.notices import Notice
from orchestrator.cluster.preemption.watcher import (
    LONGEST_PAUSE_S,
    Decision,
    Drain,
    Finish,
    GiveUp,
    Progress,
    Watch,
    decide,
    pause_s,
)

OPEN = Notice("leave", None, "test")
DATED = Notice("leave", 10_000, "test")


@pytest.mark.parametrize(
    ("progress", "now_ms", "decision"),
    [
        (Progress(), 0, Watch()),
        (Progress(notice=DATED), 0, Drain(DATED)),
        (Progress(notice=OPEN), 0, Drain(OPEN)),
        (Progress(notice=DATED), 99_000, Drain(DATED)),
        (Progress(notice=DATED, drain_failures=1), 9_999, Drain(DATED)),
        (Progress(notice=DATED, drain_failures=1), 10_000, GiveUp()),
        (Progress(notice=OPEN, drain_failures=9), 99_000, Drain(OPEN)),
        (Progress(notice=DATED, drained=DATED), 0, Finish()),
        (Progress(notice=None, drained=DATED), 0, Finish()),
        (Progress(notice=OPEN, drained=OPEN), 0, Watch()),
        (Progress(notice=None, drained=OPEN), 0, Watch()),
        (Progress(notice=DATED, drained=OPEN), 0, Drain(DATED)),
        (Progress(notice=None, drain_failures=3), 0, Watch()),
    ],
)
def test_what_follows(progress: Progress, now_ms: int, decision: Decision) -> None:
    assert decide(progress, now_ms) == decision


def test_pauses_grow_while_the_source_is_silent_and_stay_bounded() -> None:
    pauses = [pause_s(Progress(poll_failures=count), 1.0) for count in (0, 1, 2, 3, 4, 5, 10_000)]
    assert pauses == [1.0, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert pause_s(Progress(poll_failures=10_000), 30.0) == 30.0


def test_ray_is_asked_again_sooner_than_the_source() -> None:
    pauses = [pause_s(Progress(notice=DATED, drain_failures=count), 60.0) for count in (1, 2, 3, 4, 5, 10_000)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert pause_s(Progress(notice=DATED, drain_failures=5), 1.0) == 1.0
