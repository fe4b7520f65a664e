"""When a sweep's scheduler compares its trials: pure, all by the section of the sweep's YAML."""

from __future__ import annotations

import math

from orchestrator.config.sweep import SchedulerSection


def interval(options: SchedulerSection) -> tuple[str, float]:
    """Return the key that says after which share of a run trials are first compared, and that share."""
    if options.kind == "pbt":
        return "exchange_every", options.exchange_every
    return "first_rung", options.first_rung


def first_rung(options: SchedulerSection, samples: int) -> int:
    """Return the samples after which trials are first compared.

    Args:
        options: the scheduler.
        samples: that a whole trial sees.
    """
    return max(1, round(interval(options)[1] * samples))


def units_of(options: SchedulerSection) -> int:
    """Return how many first rungs a whole run is long, which HyperBand counts in."""
    return max(1, round(1 / options.first_rung))


def rungs(options: SchedulerSection, samples: int) -> tuple[int, ...]:
    """Return the samples after which trials are compared, by the schedule; the end of a trial is none of them.

    Args:
        options: the scheduler.
        samples: that a whole trial sees.
    """
    first = first_rung(options, samples)
    match options.kind:
        case "none":
            return ()
        case "asha":
            found = list[int]()
            while first * options.reduction ** len(found) < samples:
                found.append(first * options.reduction ** len(found))
            return tuple(found)
        case "hyperband":
            return _brackets(options, first, samples)
    return tuple(range(first, samples, first))


def _brackets(options: SchedulerSection, unit: int, samples: int) -> tuple[int, ...]:
    """Return the rungs of all of HyperBand's brackets, which are whole numbers of the first rung."""
    units = units_of(options)
    deepest = round(math.log(units) / math.log(options.reduction))
    firsts = [int(units * options.reduction**-depth) for depth in range(1, deepest + 1)]
    found = {
        own * options.reduction**step * unit for depth, own in enumerate(firsts, 1) for step in range(depth) if own
    }
    return tuple(sorted(one for one in found if one < samples))
