"""The rungs at which a sweep's scheduler compares trials, and the expected effect of early stopping. Pure."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from statistics import fmean

from orchestrator.config.sweep import SchedulerSection
from workloads.contract import KeyedRandom


def comparison_share(options: SchedulerSection) -> tuple[str, float]:
    """Return the key that sets after which share of a run trials are first compared, and that share."""
    if options.kind == "pbt":
        return "exchange_every", options.exchange_every
    return "first_rung", options.first_rung


def first_rung(options: SchedulerSection, samples: int) -> int:
    """Return the samples after which trials are first compared.

    Args:
        options: the scheduler.
        samples: of a trial that is trained to the end.
    """
    return max(1, round(comparison_share(options)[1] * samples))


def hyperband_units(options: SchedulerSection) -> int:
    """Return the length of a whole run in first rungs, which are HyperBand's unit of time."""
    return max(1, round(1 / options.first_rung))


def rungs(options: SchedulerSection, samples: int) -> tuple[int, ...]:
    """Return the samples after which the scheduler compares trials; the end of a trial is not among them.

    Args:
        options: the scheduler.
        samples: of a trial that is trained to the end.
    """
    first = first_rung(options, samples)
    match options.kind:
        case "none":
            return ()
        case "asha":
            levels = list[int]()
            while first * options.reduction ** len(levels) < samples:
                levels.append(first * options.reduction ** len(levels))
            return tuple(levels)
        case "hyperband":
            return _brackets(options, first, samples)
    return tuple(range(first, samples, first))


def _brackets(options: SchedulerSection, unit: int, samples: int) -> tuple[int, ...]:
    """Return the rungs of all of HyperBand's brackets, which are multiples of the first rung."""
    units = hyperband_units(options)
    deepest = round(math.log(units) / math.log(options.reduction))
    firsts = [int(units * options.reduction**-depth) for depth in range(1, deepest + 1)]
    levels = {
        own * options.reduction**step * unit for depth, own in enumerate(firsts, 1) for step in range(depth) if own
    }
    return tuple(sorted(level for level in levels if level < samples))


SIMULATIONS = 100
"""Random orders of trials over which ASHA's samples are averaged, always the same ones."""


def expected_full_runs(options: SchedulerSection, trials: int) -> float:
    """Return the expected samples of all trials, in whole trials.

    Assumes that trials come in random order and keep their ranks from rung to rung. A search that learns brings better
    trials later, of which fewer are stopped.

    Args:
        options: the scheduler.
        trials: of the sweep.
    """
    match options.kind:
        case "asha":
            return _asha_runs(options.first_rung, options.reduction, trials)
        case "hyperband":
            return _hyperband_runs(hyperband_units(options), options.reduction, trials)
    return float(trials)


def _asha_runs(first_rung: float, reduction: int, trials: int) -> float:
    """Asynchronous successive halving (Li et al. 2020) as Ray Tune does it, in one bracket, by simulation."""
    rungs = asha_rungs(first_rung, reduction)
    orders = (KeyedRandom(("asha", simulation)).numpy().random(trials).tolist() for simulation in range(SIMULATIONS))
    return fmean(_simulate(rungs, reduction, order) for order in orders)


def asha_rungs(first_rung: float, reduction: int) -> list[float]:
    """Return the shares of a run after which ASHA compares trials."""
    rungs = [first_rung]
    while rungs[-1] * reduction < 1 - 1e-9:
        rungs.append(rungs[-1] * reduction)
    return rungs


def _simulate(rungs: Sequence[float], reduction: int, order: Iterable[float]) -> float:
    """Return the whole runs that trials use when each is compared with those that reached a rung before it.

    Args:
        rungs: as shares of a run.
        reduction: a trial is stopped when it is below the (1 - 1/reduction) quantile of them.
        order: quality of the trials, larger is better, in their order.
    """
    used, reached = 0.0, [(rung, list[float]()) for rung in rungs]
    for quality in order:
        end = 1.0
        for rung, qualities in reached:
            stops = bool(qualities) and quality < _quantile(qualities, 1 - 1 / reduction)
            insort(qualities, quality)
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


def _hyperband_runs(units: int, reduction: int, trials: int) -> float:
    """HyperBand (Li et al. 2018) as Ray Tune does it, in units of the first rung.

    Trials fill brackets in turn. A bracket is halved when all of its trials have reached the rung; those that are ahead
    are paused until then.
    """
    total, left = 0.0, trials
    while left > 0:
        for halvings, size in bracket_sizes(units, reduction).items():
            total += _bracket_units(min(size, left), size, reduction, halvings, units) / units
            left -= min(size, left)
    return total


def bracket_sizes(units: int, reduction: int) -> dict[int, int]:
    """Return the size of HyperBand's brackets, in trials, by how often they are halved.

    Args:
        units: length of a whole run in first rungs.
        reduction: one in so many trials survives a halving.
    """
    brackets = round(math.log(units) / math.log(reduction)) + 1
    return {
        halvings: math.ceil(brackets / (halvings + 1) * reduction**halvings)
        for halvings in range(brackets)
        if int(units * reduction**-halvings) > 0
    }


def _bracket_units(trials: int, size: int, reduction: int, halvings: int, units: int) -> float:
    """Return the units that a bracket's trials run; an incomplete bracket keeps as many trials as a full one would."""
    total, left, before, stage = 0.0, trials, 0, int(units * reduction**-halvings)
    for _ in range(halvings):
        total += left * (stage - before)
        size = math.ceil(size / reduction)
        left, before, stage = min(left, size), stage, min(stage * reduction, units)
    return total + left * (units - before)
