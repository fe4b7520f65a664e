"""Validates a sweep before anything starts, beyond its YAML's schema: configurations, objectives and reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from orchestrator.cluster.findings import Finding, warned
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.errors import Finding as Fault
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import MEASURES, Assignment, ResolvedSweep
from orchestrator.report.formats import short_count
from orchestrator.sweep.rungs import comparison_share
from orchestrator.sweep.sampler import STARTUP_TRIALS, draw_random, grid

MAX_RESOLVED = 200
"""Maximum number of configurations that are resolved; resolving one takes some hundredths of a second."""


ResolvedConfiguration = tuple[Assignment, ResolvedRecipe]
"""A configuration and its recipe."""


def check_sweep(sweep: ResolvedSweep) -> tuple[Finding, ...]:
    """Check what can be checked without reading data; return warnings.

    Args:
        sweep: the sweep.

    Raises:
        RecipeError: the sweep is invalid; all faults are listed with file and line.
    """
    configurations = _configurations(sweep)
    tried, faults = _resolved(sweep, configurations)
    faults += objective_faults(sweep, tried)
    if faults:
        raise RecipeError(faults)
    return tuple(configuration_warnings(sweep, len(configurations)))


def check_reports(sweep: ResolvedSweep, steps: int) -> tuple[Finding, ...]:
    """Check that trials report, and save checkpoints, where the scheduler needs it; return warnings.

    Args:
        sweep: the sweep, as accepted by `check_sweep`.
        steps: of a trial that is trained to the end.

    Raises:
        RecipeError: they do not; all faults are listed with file and line.
    """
    if faults := report_faults(sweep, steps):
        raise RecipeError(faults)
    return tuple(late_comparison_warnings(sweep, steps))


def _configurations(sweep: ResolvedSweep) -> Sequence[Assignment]:
    """Return the configurations that are known in advance: a grid's, random draws, and the random start of TPE."""
    search = sweep.sweep.search
    try:
        if search.method == "grid":
            return grid(sweep)
        known = MAX_RESOLVED if search.method == "random" else STARTUP_TRIALS
        return [draw_random(sweep, number) for number in range(min(search.trials or 0, known))]
    except ConfigError as error:
        raise RecipeError([Fault(sweep.location("constraints"), str(error))]) from error


def _resolved(
    sweep: ResolvedSweep, configurations: Sequence[Assignment]
) -> tuple[list[ResolvedConfiguration], list[Fault]]:
    tried, faults = list[ResolvedConfiguration](), dict[str, Fault]()
    for assignment in configurations[:MAX_RESOLVED]:
        try:
            tried.append((assignment, sweep.recipe(assignment)))
        except RecipeError as error:
            for message in _messages(error):
                configuration = assignment_text(assignment)
                fault = f"space: {configuration} is no recipe: {message} Rule it out with a constraint or when."
                faults.setdefault(message, Fault(sweep.location("space"), fault))
    return tried, list(faults.values())


def _messages(error: RecipeError) -> Iterator[str]:
    return (f"{fault.message.rstrip('.')}." for fault in error.findings)


LATE_SHARE = 0.02
"""Share of a run by which trials may be compared later than the scheduler's keys say without a warning."""


def configuration_warnings(sweep: ResolvedSweep, configurations: int) -> Iterator[Finding]:
    """Yield warnings about search, objectives and scheduler.

    Args:
        sweep: the sweep.
        configurations: of the grid, or those drawn for the check.
    """
    yield from _search_warnings(sweep, configurations)
    yield from _objective_warnings(sweep)
    options, trials = sweep.sweep.scheduler, configurations * sweep.sweep.replicas
    if options.kind in ("asha", "hyperband") and trials <= options.reduction:
        message = f"of {trials} trials, {options.kind} with reduction {options.reduction} stops few"
        yield warned("scheduler", message, "Raise search.trials, or set scheduler.kind to none.")


def late_comparison_warnings(sweep: ResolvedSweep, steps: int) -> Iterator[Finding]:
    """Yield a warning when trials are compared later than the scheduler's keys say.

    Args:
        sweep: the sweep.
        steps: of a trial that is trained to the end.
    """
    if sweep.sweep.scheduler.kind == "none":
        return
    recipe = sweep.recipe({}).recipe
    key, share = comparison_share(sweep.sweep.scheduler)
    at = first_comparison_step(sweep, recipe, steps)
    if at / steps - share > LATE_SHARE:
        message = f"trials are first compared after step {at}, where they are measured, not after {share * steps:.0f}"
        fix = f"Nothing, or let evaluation.every_steps ({recipe.evaluation.every_steps}) divide scheduler.{key}."
        yield warned("scheduler", message, fix)


def _search_warnings(sweep: ResolvedSweep, configurations: int) -> Iterator[Finding]:
    search = sweep.sweep.search
    trials = search.trials or configurations
    if search.method == "grid" and trials > configurations:
        message = f"search.trials is {trials}; the grid has {configurations} configurations"
        yield warned("search", message, "Nothing: each is tried once. Leave search.trials out.")
    elif search.method == "grid" and trials < configurations:
        message = f"search.trials is {trials}: of the grid's {configurations} configurations only the first are tried"
        yield warned("search", message, "Leave search.trials out for the whole grid, or set search.method to random.")
    if search.method == "tpe" and trials <= STARTUP_TRIALS:
        message = f"search.trials is {trials}: tpe draws its first {STARTUP_TRIALS} configurations at random"
        yield warned("search", message, f"Raise search.trials above {STARTUP_TRIALS}, or set search.method to random.")
    if trials * sweep.sweep.replicas == 1:
        yield warned("search", "a single trial is compared with nothing", "Raise search.trials or widen the space.")


def _objective_warnings(sweep: ResolvedSweep) -> Iterator[Finding]:
    keys = [parameter.key for parameter in sweep.parameters]
    measures = [key for key in keys if key.split(".")[0] in MEASURES]
    if measures:
        message = (
            f"trials differ in {', '.join(measures)}, so they see other numbers of samples or are measured otherwise"
        )
        yield warned("objectives", message, "Nothing, if that is what is to be compared.")
    of_workload = [key for key in keys if key.split(".")[0] not in Recipe.model_fields]
    metrics = [objective.metric for objective in sweep.sweep.objectives]
    trained = [metric for metric in metrics if not metric.startswith(EVALUATED)]
    losses = [metric for metric in trained if metric not in TRAINER_METRICS]
    if of_workload and losses:
        message = f"{', '.join(losses)} is a training metric, and {', '.join(of_workload)} may change what it measures"
        yield warned("objectives", message, f"Prefer a metric of held-out samples, {EVALUATED}...")


EVALUATED = "held_out/"
"""Prefix of the names of metrics that only evaluated steps have."""

TRAINER_METRICS = ("gradient_norm", "learning_rate")
"""Metrics of every step that the trainer adds to the workload's."""


def objective_faults(sweep: ResolvedSweep, tried: Sequence[tuple[Assignment, ResolvedRecipe]]) -> list[Fault]:
    """Return what is wrong with the objectives, one fault for each.

    Args:
        sweep: the sweep.
        tried: configurations with their recipes; metrics may depend on which losses are enabled.
    """
    faults = []
    for number, objective in enumerate(sweep.sweep.objectives):
        faulty = (
            (assignment, fault)
            for assignment, recipe in tried
            if (fault := _fault(objective.metric, recipe, sweep.sweep.scheduler.kind))
        )
        if (first := next(faulty, None)) is not None:
            location = sweep.location("objectives", number, "metric")
            faults.append(Fault(location, f"objectives: {first[1]} (With {assignment_text(first[0])}.)"))
    return faults


def is_evaluated(sweep: ResolvedSweep) -> bool:
    """Return whether trials report at evaluations only, because an objective is a metric of held-out samples."""
    return any(objective.metric.startswith(EVALUATED) for objective in sweep.sweep.objectives)


def _fault(metric: str, resolved: ResolvedRecipe, scheduler: str) -> str | None:
    reported = resolved.entry.metrics(resolved.workload)
    steps, some_steps, evaluation = (
        [declared.name for declared in metrics]
        for metrics in (reported.steps, reported.some_steps, reported.evaluation)
    )
    if metric in (*steps, *TRAINER_METRICS):
        return None
    if metric in some_steps:
        return None if scheduler == "none" else _not_every_step(metric, scheduler)
    if metric.removeprefix(EVALUATED) in evaluation and metric.startswith(EVALUATED):
        return _not_evaluated(metric, resolved)
    held_out = (f"{EVALUATED}{name}" for name in evaluation)
    return _unknown_metric(metric, [*steps, *some_steps, *TRAINER_METRICS, *held_out])


def _not_every_step(metric: str, scheduler: str) -> str:
    return (
        f"only steps in a part of the run have {metric}, so {scheduler} cannot compare trials by it all along; "
        "name a metric that every step has, or set scheduler.kind to none."
    )


def _not_evaluated(metric: str, resolved: ResolvedRecipe) -> str | None:
    recipe = resolved.recipe
    if recipe.data.held_out is None:
        return f"{metric} needs held-out samples; name their shards in data.held_out (overrides)."
    if recipe.evaluation.every_steps is None:
        return f"{metric} is not measured while training; set evaluation.every_steps (overrides)."
    if recipe.evaluation.where == "beside":
        return f"{metric} comes after the step that it is of; set evaluation.where to workers (overrides)."
    return None


def _unknown_metric(metric: str, known: Sequence[str]) -> str:
    close = get_close_matches(metric, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
    return f"no step of the run has the metric {metric!r}; {hint}"


REPORTS_PER_TRIAL = 100
"""Reports of a trial when every step has the objectives; up to twice as many where reports must meet a rung."""


def report_faults(sweep: ResolvedSweep, steps: int) -> list[Fault]:
    """Return what makes a scheduler useless: too few reports, or checkpoints at the wrong steps.

    Args:
        sweep: the sweep.
        steps: of a trial that is trained to the end.
    """
    if sweep.sweep.scheduler.kind == "none":
        return []
    recipe = sweep.recipe({}).recipe
    faults = list(_rung_faults(sweep, recipe, steps))
    if not faults and sweep.sweep.scheduler.kind == "pbt":
        faults = list(_exchange_faults(sweep, recipe, steps))
    return faults


def report_steps(sweep: ResolvedSweep, steps: int) -> int:
    """Return the steps between two reports, for metrics that every step has; one report coincides with each rung.

    Args:
        sweep: the sweep.
        steps: of a trial that is trained to the end.
    """
    most = max(1, steps // REPORTS_PER_TRIAL)
    if sweep.sweep.scheduler.kind == "none":
        return most
    first = max(1, _ceil(comparison_share(sweep.sweep.scheduler)[1] * steps))
    return math.ceil(first / math.ceil(first / most))


def first_comparison_step(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> int:
    """Return the step after which trials are first compared: that of the first report at or after the first rung.

    Args:
        sweep: the sweep.
        recipe: of its trials.
        steps: of a trial that is trained to the end.
    """
    every = _measured_every(sweep, recipe)
    return _ceil(comparison_share(sweep.sweep.scheduler)[1] * steps / every) * every


def _ceil(value: float) -> int:
    """Round up, after removing floating-point error such as in 0.1 * 30."""
    return math.ceil(round(value, 6))


def _measured_every(sweep: ResolvedSweep, recipe: Recipe) -> int:
    return (recipe.evaluation.every_steps or 1) if is_evaluated(sweep) else 1


def _rung_faults(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> Iterator[Fault]:
    key, share = comparison_share(sweep.sweep.scheduler)
    every, after = _measured_every(sweep, recipe), round(share * steps, 6)
    if every <= after:
        return
    location, least = sweep.location("scheduler", key), math.ceil(1000 * every / steps) / 1000
    message = f"scheduler.{key}: trials are first compared after {after:.3g} of {steps:,} steps"
    if after < 1:
        yield Fault(location, f"{message}, which is less than one; set it to at least {least:g}.")
        return
    longer = f", or scheduler.{key} to at least {least:g}" if least < 1 else ""
    yield Fault(
        location,
        f"{message}, but the objectives are measured every {every:,} steps: there would be nothing to compare by. "
        f"Set evaluation.every_steps to {int(after):,} or less (overrides){longer}.",
    )


def _exchange_faults(sweep: ResolvedSweep, recipe: Recipe, steps: int) -> Iterator[Fault]:
    exchange, saved = first_comparison_step(sweep, recipe, steps), recipe.checkpoint.every_steps
    if exchange % saved:
        fits = max(step for step in range(1, min(exchange, saved) + 1) if exchange % step == 0)
        better = f"{exchange:,}" if fits == exchange else f"{fits:,} or {exchange:,}"
        yield Fault(
            sweep.base.location(("checkpoint", "every_steps")),
            f"checkpoint.every_steps: pbt exchanges checkpoints every {exchange:,} steps, and the run saves every "
            f"{saved:,}, so what is taken over would be older than what was compared. Set it to {better} (overrides).",
        )


def assignment_text(assignment: Assignment) -> str:
    """Return a configuration in one line, such as `distillation.alpha 0.4, adversarial.steps 2`."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in assignment.items()) or "the recipe as it is"


def value_text(value: Any) -> str:
    """Return a value as one line: numbers with three significant digits, sections as `{key=value key=value}`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return " ".join(str(value).split())


def number_text(number: float) -> str:
    """Return a number of any size with three significant digits, thousands with a suffix: `12.3k`."""
    return short_count(float(f"{number:.3g}")) if 1e3 <= abs(number) < 1e12 else f"{number:.3g}"


def short_keys(keys: Sequence[str], separator: str = ".") -> dict[str, str]:
    """Return the shortest suffixes of dotted keys that are unambiguous."""
    return {key: _short(key, [other for other in keys if other != key], separator) for key in keys}


def _short(key: str, others: Sequence[str], separator: str) -> str:
    words = key.split(separator)
    suffixes = (separator.join(words[start:]) for start in reversed(range(len(words))))
    dotted = [f"{separator}{other}" for other in others]
    return next((end for end in suffixes if not any(other.endswith(f"{separator}{end}") for other in dotted)), key)
