"""Which configuration comes next: pure functions of its number, the seed and what earlier ones came to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.errors import ConfigError
from orchestrator.config.search_space import Choice, Domain, Range
from orchestrator.config.sweep import Assignment, ResolvedSweep
from workloads.contract import KeyedRandom

DRAWS = 1000
"""Draws that are thrown away for breaking a constraint before the space is called empty."""


DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
"""Optuna's words."""

EXPLORATIONS = 20
"""Attempts at a neighbour that the constraints allow."""

STARTUP = 10
"""Configurations that are drawn at random before the estimator has anything to learn from, as Optuna's default."""


@dataclass(frozen=True, slots=True)
class Told:
    """A configuration that was tried, or is being tried.

    Args:
        number: of the configuration, from 0.
        assignment: its values.
        values: of the objectives, means over its replicas; empty while it runs or when it failed.
        stopped_at: samples that it had seen when it was stopped early; None for a whole trial.
    """

    number: int
    assignment: Assignment
    values: tuple[float, ...] = ()
    stopped_at: int | None = None


def grid(sweep: ResolvedSweep) -> tuple[Assignment, ...]:
    """Return every combination that is allowed, each once, the last parameter changing fastest.

    Raises:
        ConfigError: none is.
    """
    points = sweep.sweep.search.grid_points
    axes = [[(one.key, value) for value in _points(one.domain, points)] for one in sweep.parameters]
    found: dict[str, Assignment] = {}
    for combination in itertools.product(*axes):
        assignment = sweep.active(dict(combination))
        if sweep.allowed(assignment):
            found.setdefault(repr(assignment), assignment)
    if not found:
        raise ConfigError(_nothing_left(sweep))
    return tuple(found.values())


def configurations(sweep: ResolvedSweep) -> int:
    """Return how many configurations a sweep tries.

    Raises:
        ConfigError: its grid is empty.
    """
    search = sweep.sweep.search
    if search.method != "grid":
        return search.trials or 0
    there = len(grid(sweep))
    return there if search.trials is None else min(search.trials, there)


def drawn(sweep: ResolvedSweep, number: int) -> Assignment:
    """Return the configuration of a number, each value drawn on its own.

    Raises:
        ConfigError: the constraints leave nothing.
    """
    for assignment in itertools.islice(_draws(sweep, number), DRAWS):
        if sweep.allowed(assignment):
            return assignment
    raise ConfigError(_nothing_left(sweep))


def estimated(sweep: ResolvedSweep, number: int, told: Sequence[Told]) -> Assignment:
    """Return the configuration of a number as Optuna's samplers propose it from what earlier ones came to.

    The study is built anew from what is known, so that there is no state to lose. It is the tree-structured Parzen
    estimator (Bergstra et al. 2011; for several objectives Ozaki et al. 2022), multivariate and with other running
    trials taken for bad ones.

    Raises:
        ConfigError: the constraints leave nothing.
    """
    study = _study(sweep, number, told)
    for _ in range(DRAWS):
        trial = study.ask()
        values: dict[str, Any] = {}
        for one in sweep.parameters:
            if one.when is None or one.key in sweep.active(values | {one.key: one.domain.quantile(0.0)}):
                values[one.key] = _suggest(trial, one.key, one.domain)
        if sweep.allowed(values):
            return values
    raise ConfigError(_nothing_left(sweep))


def explored(sweep: ResolvedSweep, assignment: Assignment, trial: str) -> Assignment:
    """Return a configuration near another one, for trials that take over a checkpoint (Jaderberg et al. 2017, PBT).

    Every number is made larger or smaller by a fifth, within its range; of a list, a neighbour is taken or the same.
    A configuration that the constraints forbid is thrown away, and after some attempts the old one is kept.

    Args:
        sweep: the sweep.
        assignment: values of the trial that the checkpoint is from.
        trial: who takes it over; others go elsewhere.
    """
    key = KeyedRandom((sweep.sweep.search.seed, "exchange", trial, repr(sorted(assignment.items()))))
    for attempt in range(EXPLORATIONS):
        draws = {one.key: float(key.child(attempt, one.key).numpy().random()) for one in sweep.parameters}
        near = {
            one.key: _near(one.domain, assignment[one.key], draws[one.key])
            for one in sweep.parameters
            if one.key in assignment
        }
        found = sweep.active(near)
        if found.keys() == assignment.keys() and sweep.allowed(found):
            return found
    return assignment


def _near(domain: Domain, value: Any, share: float) -> Any:
    if isinstance(domain, Choice):
        place = domain.values.index(value) + int(share * 3) - 1
        return domain.values[min(max(place, 0), len(domain.values) - 1)]
    moved = min(max(value * (0.8 if share < 0.5 else 1.2), domain.low), domain.high)
    return round(moved) if domain.whole else moved


def _points(domain: Domain, points: int) -> Sequence[Any]:
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
        shares = {one.key: float(draws.child(one.key).numpy().random()) for one in sweep.parameters}
        yield sweep.active({one.key: one.domain.quantile(shares[one.key]) for one in sweep.parameters})


def _study(sweep: ResolvedSweep, number: int, told: Sequence[Told]) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = sweep.sweep.objectives
    seed = KeyedRandom((sweep.sweep.search.seed, "estimator", number)).seed() % 2**32
    sampler = optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP
    )
    directions = [DIRECTIONS[one.mode] for one in objectives]
    study = optuna.create_study(sampler=sampler, directions=directions)
    domains = {one.key: one.domain for one in sweep.parameters}
    for one in told:
        study.add_trial(_frozen(one, domains))
    return study


def _frozen(told: Told, domains: Mapping[str, Domain]) -> Any:
    import optuna

    known = {key: value for key, value in told.assignment.items() if key in domains}
    return optuna.trial.create_trial(
        **_outcome(told),
        params={key: as_optuna(value, domains[key]) for key, value in known.items()},
        distributions={key: distribution(domains[key]) for key in known},
    )


def _outcome(told: Told) -> dict[str, Any]:
    """Return a trial's state and values; one that was stopped early ranks by how far it came, then by its value."""
    from optuna.trial import TrialState

    if not told.values:
        return {"state": TrialState.RUNNING}
    if told.stopped_at is not None:
        return {"state": TrialState.PRUNED, "intermediate_values": {told.stopped_at: told.values[0]}}
    return {"state": TrialState.COMPLETE, "values": list(told.values)}


def distribution(domain: Domain) -> Any:
    """Return a domain as Optuna has it; a choice by the numbers of its values."""
    import optuna

    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(range(len(domain.values)))
    if domain.whole:
        return optuna.distributions.IntDistribution(int(domain.low), int(domain.high))
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.logarithmic)


def as_optuna(value: Any, domain: Domain) -> Any:
    """Return a value as Optuna has it."""
    return domain.values.index(value) if isinstance(domain, Choice) else value


def _suggest(trial: Any, key: str, domain: Domain) -> Any:
    if isinstance(domain, Range) and domain.whole:
        return trial.suggest_int(key, int(domain.low), int(domain.high))
    if isinstance(domain, Range):
        return trial.suggest_float(key, domain.low, domain.high, log=domain.logarithmic)
    return domain.values[trial.suggest_categorical(key, range(len(domain.values)))]


def _nothing_left(sweep: ResolvedSweep) -> str:
    return f"constraints: no configuration meets all of {', '.join(sweep.sweep.constraints)}; the space is empty."
