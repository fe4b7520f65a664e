"""The numbers of samples at which a sweep's scheduler compares its trials."""

from __future__ import annotations

import math

from orchestrator.spec.sweep import SchedulerSection


def rungs(scheduler: SchedulerSection, samples: int) -> tuple[int, ...]:
    """Return the samples after which trials are compared, by the schedule; the end of a trial is none of them.

    Args:
        scheduler: of the sweep.
        samples: that a whole trial sees.
    """
    match scheduler.kind:
        case "none":
            return ()
        case "asha":
            first, found = max(1, round(scheduler.first_rung * samples)), list[int]()
            while first * scheduler.reduction ** len(found) < samples:
                found.append(first * scheduler.reduction ** len(found))
            return tuple(found)
        case "hyperband":
            return _brackets(scheduler, samples)
    every = max(1, round(scheduler.exchange_every * samples))
    return tuple(range(every, samples, every))


def _brackets(scheduler: SchedulerSection, samples: int) -> tuple[int, ...]:
    """Return the rungs of all of HyperBand's brackets, which are whole numbers of the first rung."""
    unit, units = max(1, round(scheduler.first_rung * samples)), max(1, round(1 / scheduler.first_rung))
    deepest = round(math.log(units) / math.log(scheduler.reduction))
    firsts = [int(units * scheduler.reduction**-depth) for depth in range(1, deepest + 1)]
    found = {
        first * scheduler.reduction**step * unit
        for depth, first in enumerate(firsts, 1)
        for step in range(depth)
        if first
    }
    return tuple(sorted(one for one in found if one < samples))
