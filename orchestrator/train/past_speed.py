"""How fast a run has been so far, from its own metric log."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from orchestrator.config.recipe import ScaleSection
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.analysis import busy_seconds
from orchestrator.track.metric_log import EventLog, read_metric_log

NEWEST_STEPS = 200


@dataclass(frozen=True, slots=True)
class PastSpeed:
    """How fast a run was of late.

    Args:
        next_step: the next step to do.
        samples_per_s: median over its newest steps, without checkpoints and evaluations; None when it has none.
        workers: training workers that did them; None when nobody can tell.
    """

    next_step: int
    samples_per_s: float | None
    workers: int | None


def past_speed(run: RunFolder, scale: ScaleSection) -> PastSpeed:
    """Read what a run's log says about its speed.

    Args:
        run: the run.
        scale: as it is to go on; without events in the log a fixed number of workers is taken to be that of the past.

    Raises:
        StorageError: the log cannot be read.
        MetricLogError: it is damaged.
    """
    newest = deque(read_metric_log(run.metrics), NEWEST_STEPS)
    rates = [line.samples / busy for line in newest if (busy := busy_seconds(line.seconds)) > 0]
    events = EventLog(run.events).events
    fixed = scale.fewest_workers if scale.fewest_workers == scale.most_workers else None
    workers = events[-1].workers if events else fixed
    return PastSpeed(run.newest_step(), median(rates) if rates else None, workers)
