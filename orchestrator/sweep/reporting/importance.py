"""How much of an objective's variation each searched key accounts for, by Optuna's fANOVA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.search_space import Parameter
from orchestrator.config.sweep import Assignment
from orchestrator.sweep.proposals import as_optuna, distribution
from workloads.contract import KeyedRandom

LEAST = 8
"""Configurations below which a forest says nothing: in trials with a known answer it is right from about here on."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance of a key.

    Args:
        key: dotted.
        share: of the variation, in [0, 1]; None when there is too little to tell.
        configurations: that it was taken from: those in which the key is searched.
        always: whether it is searched in all of them.
    """

    key: str
    share: float | None
    configurations: int
    always: bool


def importances(
    parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int
) -> tuple[Importance, ...]:
    """Return the importance of every key, the largest first.

    A key that is searched only under a condition is measured among the configurations in which it is; its share is one
    of what varies among those. Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance".

    Args:
        parameters: what is searched.
        tried: configurations and the objective's value, which is finite.
        seed: key of the forest's draws.
    """
    found = [_importance(one, parameters, tried, seed) for one in parameters]
    return tuple(sorted(found, key=lambda one: -1.0 if one.share is None else one.share, reverse=True))


def _importance(
    parameter: Parameter, parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int
) -> Importance:
    those = [one for one in tried if parameter.key in one[0]]
    shared = [one for one in parameters if all(one.key in assignment for assignment, _ in those)]
    always = len(those) == len(tried)
    varies = len({repr(assignment[parameter.key]) for assignment, _ in those}) > 1
    if len(those) < LEAST or not varies or len({value for _, value in those}) < 2:
        return Importance(parameter.key, None, len(those), always)
    return Importance(parameter.key, _shares(shared, those, seed).get(parameter.key), len(those), always)


def _shares(parameters: Sequence[Parameter], tried: Sequence[tuple[Assignment, float]], seed: int) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for assignment, value in tried:
        study.add_trial(_trial(parameters, assignment, value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=KeyedRandom((seed, "importance")).seed() % 2**32)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def _trial(parameters: Sequence[Parameter], assignment: Assignment, value: float) -> Any:
    import optuna

    return optuna.trial.create_trial(
        value=value,
        params={one.key: as_optuna(assignment[one.key], one.domain) for one in parameters},
        distributions={one.key: distribution(one.domain) for one in parameters},
    )
