"""The phases of a run in which a step does different work, such as one with adversarial passes."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.contract import Clock, KeyedRandom, Workload

LOOKS = 100
STEPS = 10_000
EPOCHS = 100
"""Steps and epochs of the run that is imagined: long enough for ramps over epochs to be over after a hundredth."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run.

    Args:
        clock: a moment in it.
        share: of the run's steps.
    """

    clock: Clock
    share: float


def phases(workload: Workload) -> list[Phase]:
    """Return the phases of a run; moments whose steps report metrics of the same names belong to one.

    The moment is the last one, when whatever grows over a run has grown.

    Args:
        workload: built already.
    """
    found: dict[tuple[str, ...], list[Clock]] = {}
    for look in range(1, LOOKS + 1):
        clock = moment(look / LOOKS)
        found.setdefault(tuple(sorted(workload.empty_result(clock).metrics)), []).append(clock)
    return [Phase(clocks[-1], len(clocks) / LOOKS) for clocks in found.values()]


def moment(share: float) -> Clock:
    """Return the clock of the last step in the first part of a run."""
    step = round(share * STEPS) - 1
    return Clock(step, STEPS, step, STEPS // EPOCHS, KeyedRandom((0, "footprint", step)))
