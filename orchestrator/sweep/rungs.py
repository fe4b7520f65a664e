"""When a sweep's scheduler compares its trials: pure, all by the section of the sweep's YAML."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from statistics import fmean

from orchestrator.config.sweep import SchedulerSection
from workloads.contract import KeyedRandom


def comparison_share(options: SchedulerSection) -> tuple[str, float]:
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
    return max(1, round(comparison_share(options)[1] * samples))


def hyperband_units(options: SchedulerSection) -> int:
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
    units = hyperband_units(options)
    deepest = round(math.log(units) / math.log(options.reduction))
    firsts = [int(units * options.reduction**-depth) for depth in range(1, deepest + 1)]
    found = {
        own * options.reduction**step * unit for depth, own in enumerate(firsts, 1) for step in range(depth) if own
    }
    return tuple(sorted(one for one in found if one < samples))


# How many samples a sweep is expected to see when its scheduler stops trials early: pure.
#
# It holds for trials that come in random order and stay as good as they are from rung to rung. A search that learns
# brings better trials later, of which more go on.


PLAYS = 100
"""Random orders of trials over which ASHA's use is averaged, always the same ones."""


def expected_full_runs(options: SchedulerSection, trials: int) -> float:
    """Return how many whole trials the expected samples of all trials come to.

    Args:
        options: the scheduler.
        trials: of the sweep.
    """
    match options.kind:
        case "asha":
            return _asha(options.first_rung, options.reduction, trials)
        case "hyperband":
            return _hyperband(hyperband_units(options), options.reduction, trials)
    return float(trials)


def _asha(first_rung: float, reduction: int, trials: int) -> float:
    """Asynchronous successive halving (Li et al. 2020) as Ray Tune does it, in one bracket: the mean of many plays."""
    rungs = asha_rungs(first_rung, reduction)
    orders = (KeyedRandom(("asha", play)).numpy().random(trials).tolist() for play in range(PLAYS))
    return fmean(_played(rungs, reduction, order) for order in orders)


def asha_rungs(first_rung: float, reduction: int) -> list[float]:
    """Return after which shares of a run ASHA compares trials."""
    rungs = [first_rung]
    while rungs[-1] * reduction < 1 - 1e-9:
        rungs.append(rungs[-1] * reduction)
    return rungs


def _played(rungs: Sequence[float], reduction: int, order: Iterable[float]) -> float:
    """Return the whole runs that trials use when each is compared with those that came to a rung before it.

    Args:
        rungs: as shares of a run.
        reduction: a trial is stopped when it is below the (1 - 1/reduction) quantile of them.
        order: how good the trials are, in their order.
    """
    used, boards = 0.0, [(rung, list[float]()) for rung in rungs]
    for worth in order:
        end = 1.0
        for rung, board in boards:
            stops = bool(board) and worth < _quantile(board, 1 - 1 / reduction)
            insort(board, worth)
            if stops:
                end = rung
                break
        used += end
    return used


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile with linear interpolation, as numpy does."""
    below, part = divmod(share * (len(ordered) - 1), 1)
    low = ordered[int(below)]
    return low + part * (ordered[min(int(below) + 1, len(ordered) - 1)] - low)


def _hyperband(units: int, reduction: int, trials: int) -> float:
    """HyperBand (Li et al. 2018) as Ray Tune does it, which counts in units of the first rung.

    Trials fill brackets in turn. A bracket is halved when all of its trials have come as far as that; those that are
    ahead are paused until then.
    """
    total, left = 0.0, trials
    while left > 0:
        for halvings, size in bracket_sizes(units, reduction).items():
            total += _bracket(min(size, left), size, reduction, halvings, units) / units
            left -= min(size, left)
    return total


def bracket_sizes(units: int, reduction: int) -> dict[int, int]:
    """Return how many trials HyperBand puts into a bracket, by how often it is halved.

    Args:
        units: of the first rung in a whole run.
        reduction: of so many trials one goes on.
    """
    brackets = round(math.log(units) / math.log(reduction)) + 1
    return {
        halvings: math.ceil(brackets / (halvings + 1) * reduction**halvings)
        for halvings in range(brackets)
        if int(units * reduction**-halvings) > 0
    }


def _bracket(trials: int, size: int, reduction: int, halvings: int, units: int) -> float:
    """Return the units that a bracket's trials run; one that was not filled keeps as many as a full one would."""
    total, left, before, stage = 0.0, trials, 0, int(units * reduction**-halvings)
    for _ in range(halvings):
        total += left * (stage - before)
        size = math.ceil(size / reduction)
        left, before, stage = min(left, size), stage, min(stage * reduction, units)
    return total + left * (units - before)
