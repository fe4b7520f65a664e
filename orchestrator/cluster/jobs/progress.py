"""How far a run is, read from its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

STEP_LINE = re.compile(r"^step (\d+)/(\d+) (.*)$", re.MULTILINE)
STOPPED_LINE = re.compile(r"^The run was stopped with a checkpoint after (\d+) steps\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest step that a log tells of.

    Args:
        step: steps done.
        steps: of the whole run.
        figures: the step's losses and rates, as the log has them.
    """

    step: int
    steps: int
    figures: str


def progress_in(log: str) -> Progress | None:
    """Return how far a run is, None when its log does not say."""
    found = STEP_LINE.findall(log)
    return Progress(int(found[-1][0]), int(found[-1][1]), found[-1][2]) if found else None


def stopped_after(log: str) -> int | None:
    """Return after how many steps a run was stopped with a checkpoint, None when its log does not say."""
    found = STOPPED_LINE.findall(log)
    return int(found[-1]) if found else None


def last_lines(log: str, count: int) -> str:
    """Return the last lines of a log."""
    return "".join(log.splitlines(keepends=True)[-count:]) if count else ""
