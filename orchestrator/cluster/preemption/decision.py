"""What a watcher does next: pure functions of what it has seen and done."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cluster.preemption.notice import Notice

LONGEST_PAUSE_S = 10.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a watcher is.

    Args:
        notice: the notice that stands.
        drained: the notice with which the node was drained.
        drain_failures: attempts to drain in a row that failed.
        poll_failures: polls in a row that failed.
    """

    notice: Notice | None = None
    drained: Notice | None = None
    drain_failures: int = 0
    poll_failures: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """There is nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain the node.

    Args:
        notice: why, and until when.
    """

    notice: Notice


@dataclass(frozen=True, slots=True)
class Finish:
    """The node is drained, and Ray knows until when."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline passed before the node could be drained."""


Decision = Watch | Drain | Finish | GiveUp


def decide(progress: Progress, now_ms: int) -> Decision:
    """Decide what follows.

    A node is drained once; a second time only when the first notice had no deadline and a later one has. At least one
    attempt is made, however late it is.
    """
    notice, drained = progress.notice, progress.drained
    if drained is not None and drained.deadline_ms is not None:
        return Finish()
    if notice is None or (drained is not None and notice.deadline_ms is None):
        return Watch()
    if progress.drain_failures and notice.deadline_ms is not None and now_ms >= notice.deadline_ms:
        return GiveUp()
    return Drain(notice)


def pause_s(progress: Progress, interval_s: float) -> float:
    """Return how long to wait before the next poll: longer when the source, shorter when Ray did not answer."""
    if progress.drain_failures:
        return float(min(interval_s, LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(progress.drain_failures - 1, 10)))
    grown_s = interval_s * 2 ** min(max(progress.poll_failures - 1, 0), 10)
    return float(min(grown_s, max(interval_s, LONGEST_PAUSE_S)))
