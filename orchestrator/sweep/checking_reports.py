"""Whether trials report often enough for a scheduler, and save often enough for an exchange of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.config.errors import Finding as Fault
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.checking_objectives import is_evaluated
from orchestrator.sweep.rungs import interval

REPORTS = 100
"""Reports of a trial when every step has its figures; up to twice as many where they have to meet a rung."""


def report_faults(sweep: ResolvedSweep, steps: int) -> list[Fault]:
    """Return what keeps a scheduler from its work.

    Args:
        sweep: the sweep.
        steps: of a whole trial.
    """
    if sweep.sweep.scheduler.kind == "none":
        return []
    recipe = sweep.recipe({}).recipe
    faults = list(_rung_faults(sweep, recipe, steps))
    if not faults and sweep.sweep.scheduler.kind == "pbt":
        faults = list(_exchange_faults(sweep, recipe, steps))
    return faults


def report_steps(sweep: ResolvedSweep, steps: int) -> int:
    """Return the steps from report to report, for figures that every step has: few reports, one where trials compare.

    Args:
        sweep: the sweep.
        steps: of a whole trial.
    """
    most = max(1, steps // REPORTS)
    if sweep.sweep.scheduler.kind == "none":
        return most
    first = max(1, _ceil(interval(sweep.sweep.scheduler)[1] * steps))
    return math.ceil(first / math.ceil(first / most))


def compared_at(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> int:
    """Return the first step after which trials are compared: the first report at or after the interval.

    Args:
        sweep: the sweep.
        recipe: of its trials.
        steps: of a whole trial.
    """
    every = _report_steps(sweep, recipe)
    return _ceil(interval(sweep.sweep.scheduler)[1] * steps / every) * every


def _ceil(value: float) -> int:
    """Return the next whole number, that of products such as 0.1 * 30 without the error of floats."""
    return math.ceil(round(value, 6))


def _report_steps(sweep: ResolvedSweep, recipe: Recipe) -> int:
    return (recipe.evaluation.every_steps or 1) if is_evaluated(sweep) else 1


def _rung_faults(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> Iterator[Fault]:
    key, share = interval(sweep.sweep.scheduler)
    every, after = _report_steps(sweep, recipe), round(share * steps, 6)
    if every <= after:
        return
    place, least = sweep.place("scheduler", key), math.ceil(1000 * every / steps) / 1000
    said = f"scheduler.{key}: trials are first compared after {after:.3g} of {steps:,} steps"
    if after < 1:
        yield Fault(place, f"{said}, which is less than one; set it to at least {least:g}.")
        return
    longer = f", or scheduler.{key} to at least {least:g}" if least < 1 else ""
    yield Fault(
        place,
        f"{said}, but the objectives are measured every {every:,} steps: there would be nothing to compare by. "
        f"Set evaluation.every_steps to {int(after):,} or less (overrides){longer}.",
    )


def _exchange_faults(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> Iterator[Fault]:
    exchange, saved = compared_at(sweep, recipe, steps), recipe.checkpoint.every_steps
    if exchange % saved:
        fits = max(step for step in range(1, min(exchange, saved) + 1) if exchange % step == 0)
        better = f"{exchange:,}" if fits == exchange else f"{fits:,} or {exchange:,}"
        yield Fault(
            sweep.base.place(("checkpoint", "every_steps")),
            f"checkpoint.every_steps: pbt exchanges checkpoints every {exchange:,} steps, and the run saves every "
            f"{saved:,}, so what is taken over would be older than what was compared. Set it to {better} (overrides).",
        )
