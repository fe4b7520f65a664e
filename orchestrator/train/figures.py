"""What is shown and tracked of a step, worked out from what was measured: the same now and from the metric log."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from orchestrator.stream.micro_batch import Skipped
from orchestrator.track.analysis import StepTimes, TimeSpent, busy_seconds
from orchestrator.track.cost import Costs
from orchestrator.track.metric_log import StepLine
from orchestrator.track.run_writer import Points


class SkippedCounts:
    """How many samples were skipped up to a position of the run's order, by reason."""

    def __init__(self, skipped: Iterable[Skipped] = ()) -> None:
        self._positions: dict[str, list[int]] = defaultdict(list)
        for skip in skipped:
            self.add(skip)

    def add(self, skip: Skipped) -> None:
        """Count a sample; each is to be counted once."""
        insort(self._positions[skip.reason], skip.position)

    def before(self, position: int) -> dict[str, int]:
        """Return the counts of samples before a position, of the reasons that have any."""
        counts = {reason: bisect_left(positions, position) for reason, positions in self._positions.items()}
        return {reason: count for reason, count in sorted(counts.items()) if count}


class Figures:
    """Works out the figures of steps, which are to come in the order in which they were done.

    Args:
        created: when the run was first started, as ISO 8601.
        samples_per_step: the recipe's batch.
        skipped: the run's skipped samples; may grow.
        costs: returns what the run has used, as far as that is known.
    """

    def __init__(
        self, created: str, samples_per_step: int, skipped: SkippedCounts, costs: Callable[[], Costs] = Costs
    ) -> None:
        self._start_s = datetime.fromisoformat(created).timestamp()
        self._samples_per_step = samples_per_step
        self._skipped = skipped
        self._costs = costs
        self._times = StepTimes()

    def of(self, line: StepLine) -> Points:
        """Return the metrics of a step."""
        busy_s = busy_seconds(line.seconds)
        self._times.enter(line.step, busy_s)
        skipped = self._skipped.before((line.step + 1) * self._samples_per_step)
        values = {
            **line.metrics,
            "samples_per_s": line.samples / max(busy_s, 1e-9),
            "data_wait_share": line.seconds.get("data_wait", 0.0) / max(busy_s, 1e-9),
            "goodput": self.spent(line.time_ms / 1000).goodput,
            "skipped_samples": float(sum(skipped.values())),
            **{f"skipped/{reason.replace(' ', '_')}": float(count) for reason, count in skipped.items()},
            **{f"seconds/{part}": value for part, value in line.seconds.items()},
            **self._costs().metrics(line.time_ms),
        }
        return Points(line, values)

    def of_all(self, lines: Iterable[StepLine]) -> Iterator[Points]:
        """Yield the metrics of steps."""
        return map(self.of, lines)

    def spent(self, now_s: float) -> TimeSpent:
        """Return where the run's time went.

        Args:
            now_s: the time in seconds since 1970.
        """
        return self._times.spent(now_s - self._start_s)
