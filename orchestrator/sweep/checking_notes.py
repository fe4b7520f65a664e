"""What the author of a sweep should know although nothing is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import MEASURES, ResolvedSweep
from orchestrator.sweep.checking_objectives import EVALUATED, OF_THE_TRAINER
from orchestrator.sweep.checking_reports import compared_at
from orchestrator.sweep.proposals import STARTUP
from orchestrator.sweep.rungs import interval

LATE = 0.02
"""Share of a run by which trials may be compared later than was asked for without a word."""


def notes(sweep: ResolvedSweep, found: int) -> Iterator[Finding]:
    """Yield warnings.

    Args:
        sweep: the sweep.
        found: configurations of the grid, or that were drawn to look at them.
    """
    yield from _search(sweep, found)
    yield from _measure(sweep)
    options, trials = sweep.sweep.scheduler, found * sweep.sweep.replicas
    if options.kind in ("asha", "hyperband") and trials <= options.reduction:
        said = f"of {trials} trials, {options.kind} with reduction {options.reduction} stops few"
        yield warned("scheduler", said, "Raise search.trials, or set scheduler.kind to none.")


def late(sweep: ResolvedSweep, steps: int) -> Iterator[Finding]:
    """Yield that trials are compared later than was asked for.

    Args:
        sweep: the sweep.
        steps: of a whole trial.
    """
    if sweep.sweep.scheduler.kind == "none":
        return
    recipe = sweep.recipe({}).recipe
    key, share = interval(sweep.sweep.scheduler)
    at = compared_at(sweep, recipe, steps)
    if at / steps - share > LATE:
        said = f"trials are first compared after step {at}, where they are measured, not after {share * steps:.0f}"
        fix = f"Nothing, or let evaluation.every_steps ({recipe.evaluation.every_steps}) divide scheduler.{key}."
        yield warned("scheduler", said, fix)


def _search(sweep: ResolvedSweep, found: int) -> Iterator[Finding]:
    search = sweep.sweep.search
    trials = search.trials or found
    if search.method == "grid" and trials > found:
        said = f"search.trials is {trials}; the grid has {found} configurations"
        yield warned("search", said, "Nothing: each is tried once. Leave search.trials out.")
    elif search.method == "grid" and trials < found:
        said = f"search.trials is {trials}: of the grid's {found} configurations only the first are tried"
        yield warned("search", said, "Leave search.trials out for the whole grid, or set search.method to random.")
    if search.method == "tpe" and trials <= STARTUP:
        said = f"search.trials is {trials}: tpe draws its first {STARTUP} configurations at random"
        yield warned("search", said, f"Raise search.trials above {STARTUP}, or set search.method to random.")
    if trials * sweep.sweep.replicas == 1:
        yield warned("search", "a single trial is compared with nothing", "Raise search.trials or widen the space.")


def _measure(sweep: ResolvedSweep) -> Iterator[Finding]:
    keys = [one.key for one in sweep.parameters]
    measures = [key for key in keys if key.split(".")[0] in MEASURES]
    if measures:
        said = f"trials differ in {', '.join(measures)}, so they see other numbers of samples or are measured otherwise"
        yield warned("objectives", said, "Nothing, if that is what is to be compared.")
    science = [key for key in keys if key.split(".")[0] not in Recipe.model_fields]
    trained = [one.metric for one in sweep.sweep.objectives if not one.metric.startswith(EVALUATED)]
    losses = [metric for metric in trained if metric not in OF_THE_TRAINER]
    if science and losses:
        said = f"{', '.join(losses)} is a figure of training, and {', '.join(science)} may change what it measures"
        yield warned("objectives", said, f"Prefer a figure of held-out samples, {EVALUATED}...")
