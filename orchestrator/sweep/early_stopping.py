"""How many samples a sweep is expected to see when its scheduler stops trials early: pure arithmetic.

All of it holds for trials whose figures come in random order: neither does the search learn, nor do figures change
their order from rung to rung. A search that learns brings better trials later, of which more go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.spec.sweep import SchedulerSection


def expected_runs(options: SchedulerSection, trials: int) -> float:
    """Return how many whole trials the expected samples of all trials come to.

    Args:
        options: the scheduler.
        trials: of the sweep.
    """
    match options.kind:
        case "asha":
            return _asha(options.first_rung, options.reduction, trials)
        case "hyperband":
            return _hyperband(units_of(options), options.reduction, trials)
    return float(trials)


def _asha(first_rung: float, reduction: int, trials: int) -> float:
    """Asynchronous successive halving (Li et al. 2020) as Ray Tune does it, in one bracket.

    Rungs are at first_rung * reduction^k of a run; between two of them run those that the lower one let pass.
    """
    total, left, before = 0.0, float(trials), 0.0
    for rung in _rungs(first_rung, reduction):
        total += left * (rung - before)
        left, before = _passing(left, reduction), rung
    return total + left * (1 - before)


def _rungs(first_rung: float, reduction: int) -> Iterator[float]:
    rung = first_rung
    while rung < 1 - 1e-9:
        yield rung
        rung *= reduction


def _passing(arriving: float, reduction: int) -> float:
    """Return how many trials a rung is expected to let pass.

    The first passes; one that finds n others passes when it is not below their (1 - 1/reduction) quantile, which lies
    at place (n - 1)(1 - 1/reduction) among them. Its own place is any of n + 1 with equal chances, so it passes with
    the chance (n - place) / (n + 1): more often than one in `reduction`, the more so the fewer there are.
    """
    whole = int(arriving)
    chances = [_chance(found, reduction) for found in range(whole + 1)]
    return sum(chances[:whole]) + (arriving - whole) * chances[whole]


def _chance(found: int, reduction: int) -> float:
    if found == 0:
        return 1.0
    return (found - (found - 1) * (1 - 1 / reduction)) / (found + 1)


def _hyperband(units: int, reduction: int, trials: int) -> float:
    """HyperBand (Li et al. 2018) as Ray Tune does it, which counts in units of the first rung.

    Trials fill brackets in turn, and those of a bracket are under way together.
    """
    total, left = 0.0, trials
    while left > 0:
        for halvings, size in bracket_sizes(units, reduction).items():
            total += _bracket(min(size, left), size, reduction, halvings, units) / units
            left -= min(size, left)
    return total


def units_of(options: SchedulerSection) -> int:
    """Return how many first rungs a whole run is long, which HyperBand counts in."""
    return max(1, round(1 / options.first_rung))


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
