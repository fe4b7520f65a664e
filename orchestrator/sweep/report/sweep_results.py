"""Reads a sweep's results from its folder: plain values from which the page, the best recipe and messages are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.loading import find_workload
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import SweepFile, SweepFolder, TrialRecord, stored_sweep
from orchestrator.sweep.report.maps import Importance, importances
from orchestrator.sweep.results import (
    Best,
    Configuration,
    Mode,
    TrialSpending,
    comparable,
    compared_at,
    group_by_configuration,
    select_best,
)
from orchestrator.sweep.rungs import rungs
from orchestrator.track.cost import Costs, RunCost, read_starts, total_cost


@dataclass(frozen=True, slots=True)
class SweepResults:
    """The results of a sweep so far.

    Args:
        file: the sweep's state.
        sweep: what is searched.
        trials: records by number and replica.
        configurations: by number.
        best: the best configurations.
        compared_at: samples at which configurations are compared, as not all were trained to the end.
        compared: the configurations that have seen so many.
        importances: of the searched keys, per objective.
        rungs: samples at which the scheduler compares trials.
        spent: cost of each configuration, by number.
        total: cost of the sweep's machines.
    """

    file: SweepFile
    sweep: ResolvedSweep
    trials: tuple[TrialRecord, ...]
    configurations: tuple[Configuration, ...]
    best: Best
    compared_at: int
    compared: tuple[Configuration, ...]
    importances: tuple[tuple[Importance, ...], ...]
    rungs: tuple[int, ...]
    spent: Mapping[int, RunCost]
    total: RunCost

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives."""
        return [objective.metric for objective in self.sweep.sweep.objectives]

    @property
    def modes(self) -> list[Mode]:
        """Whether small or large values are good, for each objective."""
        return [objective.mode for objective in self.sweep.sweep.objectives]

    @property
    def related_keys(self) -> Sequence[tuple[str, str]]:
        """Pairs of recipe keys that act together, as the workload declares them."""
        return find_workload(self.sweep.base.to_dict()["workload"]).related_keys

    @property
    def whole(self) -> tuple[Configuration, ...]:
        """The configurations that were trained to the end with every replica."""
        return tuple(each for each in self.configurations if each.outcome == "whole" and each.scores)

    @property
    def some_less_far(self) -> bool:
        """Whether configurations are compared before the end of their training."""
        return 0 < self.compared_at < self.file.samples

    @property
    def is_running(self) -> bool:
        """Whether the sweep is running."""
        return self.file.status == "RUNNING"


def read_results(folder: SweepFolder) -> SweepResults:
    """Read the results of a sweep so far.

    Raises:
        SweepError: there is no such sweep, or a file of it is damaged.
        RecipeError: this version of Fuseray refuses its recipe.
        CostRecordError: a trial's cost file is damaged.
    """
    file, sweep, trials = folder.read(), stored_sweep(folder), tuple(folder.trials())
    configurations = group_by_configuration(trials, sweep.sweep.replicas, file.status == "RUNNING")
    samples = compared_at(configurations)
    compared = comparable(configurations, samples)
    objectives = sweep.sweep.objectives
    return SweepResults(
        file=file,
        sweep=sweep,
        trials=trials,
        configurations=configurations,
        best=select_best(configurations, [objective.mode for objective in objectives]),
        compared_at=samples,
        compared=compared,
        importances=tuple(
            importances(
                sweep.parameters,
                [(each.assignment, each.at(samples)[number].mean) for each in compared],
                sweep.sweep.search.seed,
            )
            for number in range(len(objectives))
        ),
        rungs=rungs(sweep.sweep.scheduler, file.samples),
        spent=_spent(folder, trials),
        total=Costs(read_starts(folder.costs)).spent(),
    )


def _spent(folder: SweepFolder, trials: Sequence[TrialRecord]) -> dict[int, RunCost]:
    """Return the cost of each configuration, by its number."""
    by_trial, by_number = TrialSpending(folder, strict=True).read(trials), dict[int, list[RunCost]]()
    for trial in trials:
        if trial.name in by_trial:
            by_number.setdefault(trial.number, []).append(by_trial[trial.name])
    return {number: total_cost(spent) for number, spent in by_number.items()}
