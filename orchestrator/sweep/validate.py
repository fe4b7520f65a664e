"""What is checked of a sweep before anything starts, beyond what its YAML alone can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.errors import Finding as Fault
from orchestrator.config.errors import RecipeError, SpecError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import MEASURES, Assignment, ResolvedSweep
from orchestrator.sweep.rungs import interval
from orchestrator.sweep.sampler import STARTUP, drawn, grid

MOST = 200
"""Configurations that are tried; resolving a recipe takes some hundredths of a second."""


Tried = tuple[Assignment, ResolvedRecipe]
"""A configuration with its recipe."""


def check_sweep(sweep: ResolvedSweep) -> tuple[Finding, ...]:
    """Check what can be checked without looking at data; return what else the author should know.

    Args:
        sweep: the sweep.

    Raises:
        RecipeError: it cannot do what it says; all faults are listed with file and line.
    """
    configurations = _configurations(sweep)
    tried, faults = _resolved(sweep, configurations)
    faults += objective_faults(sweep, tried)
    if faults:
        raise RecipeError(faults)
    return tuple(notes(sweep, len(configurations)))


def check_reports(sweep: ResolvedSweep, steps: int) -> tuple[Finding, ...]:
    """Check that trials report, and save, where the scheduler needs it; return what else the author should know.

    Args:
        sweep: the sweep, as `check_sweep` lets it pass.
        steps: of a whole trial.

    Raises:
        RecipeError: they do not; all faults are listed with file and line.
    """
    if faults := report_faults(sweep, steps):
        raise RecipeError(faults)
    return tuple(late(sweep, steps))


def _configurations(sweep: ResolvedSweep) -> Sequence[Assignment]:
    """Return what will be tried: all of a grid, the draws; of an estimator's proposals those that nothing precedes."""
    search = sweep.sweep.search
    try:
        if search.method == "grid":
            return grid(sweep)
        known = MOST if search.method == "random" else STARTUP
        return [drawn(sweep, number) for number in range(min(search.trials or 0, known))]
    except SpecError as error:
        raise RecipeError([Fault(sweep.place("constraints"), str(error))]) from error


def _resolved(sweep: ResolvedSweep, configurations: Sequence[Assignment]) -> tuple[list[Tried], list[Fault]]:
    tried, faults = list[Tried](), dict[str, Fault]()
    for assignment in configurations[:MOST]:
        try:
            tried.append((assignment, sweep.recipe(assignment)))
        except RecipeError as error:
            for message in _messages(error):
                fault = f"space: {described(assignment)} is no recipe: {message} Rule it out with a constraint or when."
                faults.setdefault(message, Fault(sweep.place("space"), fault))
    return tried, list(faults.values())


def _messages(error: RecipeError) -> Iterator[str]:
    return (f"{one.message.rstrip('.')}." for one in error.findings)


# What the author of a sweep should know although nothing is wrong with it.


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


# Whether every configuration of a sweep will have the figures that are to become large or small.


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
    reported = resolved.entry.metrics(resolved.workload)
    steps, some_steps, evaluation = (
        [one.name for one in metrics] for metrics in (reported.steps, reported.some_steps, reported.evaluation)
    )
    if metric in (*steps, *OF_THE_TRAINER):
        return None
    if metric in some_steps:
        return None if scheduler == "none" else _seldom(metric, scheduler)
    if metric.removeprefix(EVALUATED) in evaluation and metric.startswith(EVALUATED):
        return _unmeasured(metric, resolved)
    return _unknown(metric, [*steps, *some_steps, *OF_THE_TRAINER, *(f"{EVALUATED}{name}" for name in evaluation)])


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


def _unknown(metric: str, known: Sequence[str]) -> str:
    close = get_close_matches(metric, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
    return f"no step of the run has the figure {metric!r}; {hint}"


# Whether trials report often enough for a scheduler, and save often enough for an exchange of checkpoints.


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


# Configurations in words.


def described(assignment: Assignment) -> str:
    """Return a configuration in one line, such as `distillation.alpha 0.4, adversarial.steps 2`."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in assignment.items()) or "the recipe as it is"


def value_text(value: Any) -> str:
    """Return a value for people: numbers to three digits, whole sections as `key=value`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={value_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(value_text, value)) + "]"
    return str(value)


def short_keys(keys: Sequence[str], separator: str = ".") -> dict[str, str]:
    """Return the last words of keys, as many as it takes to tell them apart."""
    return {key: _short(key, [other for other in keys if other != key], separator) for key in keys}


def _short(key: str, others: Sequence[str], separator: str) -> str:
    words = key.split(separator)
    endings = (separator.join(words[start:]) for start in reversed(range(len(words))))
    taken = [f"{separator}{other}" for other in others]
    return next((end for end in endings if not any(one.endswith(f"{separator}{end}") for one in taken)), key)
