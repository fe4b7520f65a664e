"""Samples configurations: each is a pure function of its number, the seed and the results of earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.errors import ConfigError
from orchestrator.config.search_space import Choice, Domain, Range
from orchestrator.config.sweep import Assignment, ResolvedSweep
from workloads.contract import KeyedRandom

MAX_DRAWS = 1000
"""Draws that may violate a constraint before the space counts as empty."""


DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
"""Optuna's names of the modes."""

MAX_PERTURBATIONS = 20
"""Attempts to perturb a configuration within the constraints."""

STARTUP_TRIALS = 10
"""TPE's `n_startup_trials`, configurations that are drawn at random: Optuna's default."""


@dataclass(frozen=True, slots=True)
class ObservedTrial:
    """A configuration that was tried or is running.

    Args:
        number: of the configuration, from 0.
        assignment: its values.
        values: of the objectives, means over its replicas; empty while it runs or when it failed.
        stopped_at: samples seen when it was stopped early; None when it was not.
    """

    number: int
    assignment: Assignment
    values: tuple[float, ...] = ()
    stopped_at: int | None = None


def grid(sweep: ResolvedSweep) -> tuple[Assignment, ...]:
    """Return every combination within the constraints, each once, the last parameter varying fastest.

    Raises:
        ConfigError: there is none.
    """
    points = sweep.sweep.search.grid_points
    axes = [[(each.key, value) for value in _grid_values(each.domain, points)] for each in sweep.parameters]
    assignments: dict[str, Assignment] = {}
    for combination in itertools.product(*axes):
        assignment = sweep.active(dict(combination))
        if sweep.allowed(assignment):
            assignments.setdefault(repr(assignment), assignment)
    if not assignments:
        raise ConfigError(_empty_space(sweep))
    return tuple(assignments.values())


def configuration_count(sweep: ResolvedSweep) -> int:
    """Return how many configurations a sweep tries.

    Raises:
        ConfigError: its grid is empty.
    """
    search = sweep.sweep.search
    if search.method != "grid":
        return search.trials or 0
    size = len(grid(sweep))
    return size if search.trials is None else min(search.trials, size)


def draw_random(sweep: ResolvedSweep, number: int) -> Assignment:
    """Return the configuration of a number, its values drawn independently at random.

    Raises:
        ConfigError: the constraints leave nothing.
    """
    for assignment in itertools.islice(_draws(sweep, number), MAX_DRAWS):
        if sweep.allowed(assignment):
            return assignment
    raise ConfigError(_empty_space(sweep))


def propose_tpe(sweep: ResolvedSweep, number: int, observed: Sequence[ObservedTrial]) -> Assignment:
    """Return the configuration of a number as Optuna's TPE proposes it from the results of earlier ones.

    The study is rebuilt on every call, so that there is no state to lose. TPE is the tree-structured Parzen estimator
    (Bergstra et al. 2011; for several objectives Ozaki et al. 2022), multivariate, and with the constant liar, which
    treats running trials as bad ones.

    Raises:
        ConfigError: the constraints leave nothing.
    """
    study = _study(sweep, number, observed)
    for _ in range(MAX_DRAWS):
        trial = study.ask()
        values: dict[str, Any] = {}
        for each in sweep.parameters:
            if each.when is None or each.key in sweep.active(values | {each.key: each.domain.quantile(0.0)}):
                values[each.key] = _suggest(trial, each.key, each.domain)
        if sweep.allowed(values):
            return values
    raise ConfigError(_empty_space(sweep))


def perturbed(sweep: ResolvedSweep, assignment: Assignment, trial: str) -> Assignment:
    """Return a perturbed configuration, for a trial that takes over a checkpoint (PBT, Jaderberg et al. 2017).

    Every number is multiplied by 0.8 or 1.2, within its range; of a list, the value or a neighbour of it is taken. A
    result that violates the constraints is discarded, and after some attempts the configuration is returned unchanged.

    Args:
        sweep: the sweep.
        assignment: values of the trial that the checkpoint is from.
        trial: name of the trial that takes it over; others are perturbed differently.
    """
    key = KeyedRandom((sweep.sweep.search.seed, "exchange", trial, repr(sorted(assignment.items()))))
    for attempt in range(MAX_PERTURBATIONS):
        draws = {each.key: float(key.child(attempt, each.key).numpy().random()) for each in sweep.parameters}
        values = {
            each.key: _perturb_value(each.domain, assignment[each.key], draws[each.key])
            for each in sweep.parameters
            if each.key in assignment
        }
        active = sweep.active(values)
        if active.keys() == assignment.keys() and sweep.allowed(active):
            return active
    return assignment


def _perturb_value(domain: Domain, value: Any, share: float) -> Any:
    if isinstance(domain, Choice):
        index = domain.values.index(value) + int(share * 3) - 1
        return domain.values[min(max(index, 0), len(domain.values) - 1)]
    moved = min(max(value * (0.8 if share < 0.5 else 1.2), domain.low), domain.high)
    return round(moved) if domain.whole else moved


def _grid_values(domain: Domain, points: int) -> Sequence[Any]:
    if isinstance(domain, Choice):
        return domain.values
    if domain.whole and domain.high - domain.low < points:
        return range(int(domain.low), int(domain.high) + 1)
    shares = [number / (points - 1) for number in range(points)]
    if domain.whole:
        return [round(domain.low + share * (domain.high - domain.low)) for share in shares]
    return [domain.quantile(share) for share in shares]


def _draws(sweep: ResolvedSweep, number: int) -> Iterator[Assignment]:
    key = KeyedRandom((sweep.sweep.search.seed, "configuration", number))
    for attempt in itertools.count():
        draws = key.child(attempt)
        shares = {each.key: float(draws.child(each.key).numpy().random()) for each in sweep.parameters}
        yield sweep.active({each.key: each.domain.quantile(shares[each.key]) for each in sweep.parameters})


def _study(sweep: ResolvedSweep, number: int, observed: Sequence[ObservedTrial]) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = sweep.sweep.objectives
    seed = KeyedRandom((sweep.sweep.search.seed, "estimator", number)).seed() % 2**32
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
    )
    directions = [DIRECTIONS[objective.mode] for objective in objectives]
    study = optuna.create_study(sampler=sampler, directions=directions)
    domains = {each.key: each.domain for each in sweep.parameters}
    for trial in observed:
        study.add_trial(_frozen_trial(trial, domains))
    return study


def _frozen_trial(observed: ObservedTrial, domains: Mapping[str, Domain]) -> Any:
    import optuna

    known = {key: value for key, value in observed.assignment.items() if key in domains}
    return optuna.trial.create_trial(
        **_trial_state(observed),
        params={key: as_optuna(value, domains[key]) for key, value in known.items()},
        distributions={key: distribution(domains[key]) for key in known},
    )


def _trial_state(observed: ObservedTrial) -> dict[str, Any]:
    """Return a trial's state and values in Optuna; one that was stopped early ranks by its samples, then its value."""
    from optuna.trial import TrialState

    if not observed.values:
        return {"state": TrialState.RUNNING}
    if observed.stopped_at is not None:
        return {"state": TrialState.PRUNED, "intermediate_values": {observed.stopped_at: observed.values[0]}}
    return {"state": TrialState.COMPLETE, "values": list(observed.values)}


def distribution(domain: Domain) -> Any:
    """Return a domain as Optuna's distribution; a choice by the indices of its values."""
    import optuna

    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(domain.values)))
    if domain.whole:
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high))
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.logarithmic)


def as_optuna(value: Any, domain: Domain) -> Any:
    """Return a value as Optuna's parameter value: of a choice, its index."""
    return domain.values.index(value) if isinstance(domain, Choice) else value


def _suggest(trial: Any, key: str, domain: Domain) -> Any:
    if isinstance(domain, Range) and domain.whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high))
    if isinstance(domain, Range):
        return trial.suggest_float(key, domain.low, domain.high, log=domain.logarithmic)
    return domain.values[trial.suggest_categorical(key, range(len(domain.values)))]


def _empty_space(sweep: ResolvedSweep) -> str:
    return f"constraints: no configuration meets all of {', '.join(sweep.sweep.constraints)}; the space is empty."
