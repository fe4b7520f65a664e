"""What a sweep has found out, from its folder: plain values from which the page, the recipe and messages are made."""

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
    choose,
    comparable,
    compared_at,
    configurations,
)
from orchestrator.sweep.rungs import rungs
from orchestrator.track.cost import Costs, Spent, added, read_starts


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a sweep.

    Args:
        file: what the sweep remembers about itself.
        sweep: what was searched.
        trials: by number and replica.
        configurations: by number.
        best: what came out best.
        compared_at: samples at which configurations are compared that were not all trained to the end.
        compared: the configurations that came so far.
        importances: of the searched keys, per objective.
        rungs: samples at which the scheduler compares trials.
        spent: what was used, by number of configuration.
        total: what the sweep's machines have come to.
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
    spent: Mapping[int, Spent]
    total: Spent

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives."""
        return [one.metric for one in self.sweep.sweep.objectives]

    @property
    def modes(self) -> list[Mode]:
        """What is good of each objective."""
        return [one.mode for one in self.sweep.sweep.objectives]

    @property
    def related_keys(self) -> Sequence[tuple[str, str]]:
        """Pairs of recipe keys that act together, as the workload says."""
        return find_workload(self.sweep.base.plain()["workload"]).related_keys

    @property
    def whole(self) -> tuple[Configuration, ...]:
        """The configurations that were trained to the end with every replica."""
        return tuple(one for one in self.configurations if one.outcome == "whole" and one.scores)

    @property
    def some_less_far(self) -> bool:
        """Whether configurations have to be compared before the end of their training."""
        return 0 < self.compared_at < self.file.samples

    @property
    def is_running(self) -> bool:
        """Whether the sweep goes on."""
        return self.file.status == "RUNNING"


def gather(folder: SweepFolder) -> Findings:
    """Return what a sweep has found out so far.

    Raises:
        SweepError: there is no such sweep, or a file of it is damaged.
        RecipeError: this version of Fuseray refuses its recipe.
        CostFileError: the record of a trial's machines is damaged.
    """
    file, sweep, trials = folder.read(), stored_sweep(folder), tuple(folder.trials())
    found = configurations(trials, sweep.sweep.replicas, file.status == "RUNNING")
    at = compared_at(found)
    compared = comparable(found, at)
    objectives = sweep.sweep.objectives
    return Findings(
        file=file,
        sweep=sweep,
        trials=trials,
        configurations=found,
        best=choose(found, [one.mode for one in objectives]),
        compared_at=at,
        compared=compared,
        importances=tuple(
            importances(
                sweep.parameters,
                [(one.assignment, one.at(at)[number].mean) for one in compared],
                sweep.sweep.search.seed,
            )
            for number in range(len(objectives))
        ),
        rungs=rungs(sweep.sweep.scheduler, file.samples),
        spent=_spent(folder, trials),
        total=Costs(read_starts(folder.costs)).spent(),
    )


def _spent(folder: SweepFolder, trials: Sequence[TrialRecord]) -> dict[int, Spent]:
    """Return what the trials of each configuration have used."""
    by_trial, found = TrialSpending(folder, strict=True).read(trials), dict[int, list[Spent]]()
    for trial in trials:
        if trial.name in by_trial:
            found.setdefault(trial.number, []).append(by_trial[trial.name])
    return {number: added(those) for number, those in found.items()}
