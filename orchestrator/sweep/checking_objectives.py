"""Whether every configuration of a sweep will have the figures that are to become large or small."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from orchestrator.config.errors import Finding as Fault
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.sweep.describing import described
from workloads.contract import MetricNames

EVALUATED = "held_out/"
"""How the names of figures begin that only evaluated steps have."""

OF_THE_TRAINER = ("gradient_norm", "learning_rate")
"""Figures of every step that no workload reports."""


def objective_faults(sweep: ResolvedSweep, tried: Sequence[tuple[Assignment, ResolvedRecipe]]) -> list[Fault]:
    """Return what is wrong with the objectives, one fault for each.

    Args:
        sweep: the sweep.
        tried: configurations with their recipes; figures may depend on which objectives are switched on.
    """
    faults = []
    for number, objective in enumerate(sweep.sweep.objectives):
        found = (
            (assignment, fault)
            for assignment, recipe in tried
            if (fault := _fault(objective.metric, recipe, sweep.sweep.scheduler.kind))
        )
        if (first := next(found, None)) is not None:
            place = sweep.place("objectives", number, "metric")
            faults.append(Fault(place, f"objectives: {first[1]} (With {described(first[0])}.)"))
    return faults


def is_evaluated(sweep: ResolvedSweep) -> bool:
    """Return whether trials report at evaluations alone, since an objective is a figure of held-out samples."""
    return any(one.metric.startswith(EVALUATED) for one in sweep.sweep.objectives)


def _fault(metric: str, resolved: ResolvedRecipe, scheduler: str) -> str | None:
    names = resolved.entry.metric_names(resolved.workload)
    if metric in (*names.steps, *OF_THE_TRAINER):
        return None
    if metric in names.some_steps:
        return None if scheduler == "none" else _seldom(metric, scheduler)
    if metric.removeprefix(EVALUATED) in names.evaluation and metric.startswith(EVALUATED):
        return _unmeasured(metric, resolved)
    return _unknown(metric, names)


def _seldom(metric: str, scheduler: str) -> str:
    return (
        f"only steps in a part of the run have {metric}, so {scheduler} cannot compare trials by it all along; "
        "name a figure that every step has, or set scheduler.kind to none."
    )


def _unmeasured(metric: str, resolved: ResolvedRecipe) -> str | None:
    recipe = resolved.recipe
    if recipe.data.held_out is None:
        return f"{metric} needs held-out samples; name their shards in data.held_out (overrides)."
    if recipe.evaluation.every_steps is None:
        return f"{metric} is not measured while training; set evaluation.every_steps (overrides)."
    return None


def _unknown(metric: str, names: MetricNames) -> str:
    evaluation = [f"{EVALUATED}{name}" for name in names.evaluation]
    known = [*names.steps, *names.some_steps, *OF_THE_TRAINER, *evaluation]
    close = get_close_matches(metric, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
    return f"no step of the run has the figure {metric!r}; {hint}"
