"""Runs tracked without waiting for real: pauses pass at once, and what the user is told is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow.tracking import MlflowClient

from orchestrator.track.metric_log import StepLine
from orchestrator.track.run_writer import Points
from orchestrator.track.tracker import OutboxOptions

NOON_MS = 1_750_000_000_000


@dataclass(frozen=True, slots=True)
class Store:
    """A tracking store.

    Args:
        uri: its tracking URI.
        artifacts: where the files of new experiments go; None: where the store puts them.
        secrets: what must never be seen.
    """

    uri: str
    artifacts: str | None = None
    secrets: tuple[str, ...] = ()


@dataclass
class Pauses:
    """A clock that only moves while an outbox pauses.

    Args:
        then: called at every pause, in the outbox's thread.
    """

    then: Callable[[], object] = lambda: None
    now_s: float = 0.0
    taken_s: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.taken_s.append(seconds)
        self.now_s += seconds
        self.then()

    def outboxes(self, timeout_s: float = 60.0) -> OutboxOptions:
        """Return outboxes that pause like this."""
        return OutboxOptions(linger_s=0.0, pause=self, clock=lambda: self.now_s, timeout_s=timeout_s)


def line(step: int, samples: int = 16, **metrics: float) -> StepLine:
    """Return what was measured at a step."""
    return StepLine(step, NOON_MS + step, metrics or {"loss": 1.0 / (step + 1)}, {"step": 0.5}, samples)


def points(step: int, **values: float) -> Points:
    """Return what MLflow gets of a step."""
    found = line(step, **values)
    return Points(found, found.metrics)


def logged(uri: str, run_id: str) -> Counter[tuple[str, int]]:
    """Return how often every metric of a run is in MLflow at every step."""
    client = MlflowClient(uri)
    names = client.get_run(run_id).data.metrics
    return Counter((name, point.step) for name in names for point in client.get_metric_history(run_id, name))


def once(steps: range, *names: str) -> Counter[tuple[str, int]]:
    """Return what `logged` returns when every metric is there once at every step."""
    return Counter((name, step) for name in names for step in steps)
