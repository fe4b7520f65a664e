"""The line between the driver and the workers: records come up, the wish to stop goes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.stream.micro_batch import Skipped
from orchestrator.track.metric_log import StepLine


@dataclass(frozen=True, slots=True)
class Record:
    """What happened at a step.

    Args:
        step: the step.
        metrics: named figures.
        seconds: time of worker 0 per part.
        samples: usable samples of the step.
        skipped: bad samples that the sending worker met.
        notes: messages for people.
        time_ms: when the step was done, in milliseconds since 1970.
    """

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    time_ms: int = 0

    def line(self) -> StepLine:
        """Return what the metric log holds of it."""
        return StepLine(self.step, self.time_ms, self.metrics, self.seconds, self.samples)


class Channel:
    """Runs as a Ray actor beside the driver."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._stop = False

    def publish(self, record: Record) -> bool:
        """Take a record from a worker; return whether the driver wants to stop."""
        self._records.append(record)
        return self._stop

    def drain(self) -> list[Record]:
        """Return the records that came in since the last call."""
        records, self._records = self._records, []
        return records

    def request_stop(self) -> None:
        """Ask the workers to stop with a checkpoint."""
        self._stop = True
