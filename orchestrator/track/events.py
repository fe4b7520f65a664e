"""What happened to a run besides its steps: recoveries, preemptions, changes of size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from orchestrator.storage.location import Location
from orchestrator.storage.retry import without_secrets

MAX_REASON_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One interruption of the training.

    Args:
        kind: what it was.
        step: the step at which training went on.
        reason: why, in a few words.
        lost_steps: steps that were done and had to be done again.
        downtime_s: seconds between the last step before and the first one after.
        workers: training workers afterwards.
    """

    kind: Literal["recovery", "preemption", "resize"]
    step: int
    reason: str
    lost_steps: int
    downtime_s: float
    workers: int


class EventLog:
    """The events of a run, in a file with one JSON object a line, which is whole or not there.

    Args:
        file: where they are; they may not be there yet.
    """

    def __init__(self, file: Location) -> None:
        self._file = file
        self.events: list[Event] = []
        if file.size() is not None:
            self.events = [Event(**json.loads(line)) for line in file.read().decode().splitlines()]

    def add(self, event: Event) -> None:
        """Write down an event.

        Raises:
            StorageError: it cannot be written.
        """
        self.events.append(event)
        self._file.write("".join(f"{_compact(one)}\n" for one in self.events).encode())


def event_tags(events: Sequence[Event]) -> dict[str, str]:
    """Return the tags that tell of all events of a run: one for each, numbered from 1, and what they add up to."""
    if not events:
        return {}
    numbered = {f"event/{number:04d}": _compact(event) for number, event in enumerate(events, start=1)}
    return numbered | {
        "recoveries": str(sum(event.kind != "resize" for event in events)),
        "lost_steps": str(sum(event.lost_steps for event in events)),
        "downtime_s": f"{sum(event.downtime_s for event in events):.1f}",
    }


def _compact(event: Event) -> str:
    reason = without_secrets(event.reason)[:MAX_REASON_LENGTH]
    return json.dumps(asdict(event) | {"reason": reason}, separators=(",", ":"), ensure_ascii=False)
