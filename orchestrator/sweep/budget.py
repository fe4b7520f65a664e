"""Says when a sweep has used what it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.config.sweep import SweepBudgetSection
from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.spending import TrialSpending
from orchestrator.sweep.trials import Trials
from orchestrator.track.cost import Spent


def used_up(budget: SweepBudgetSection, spent: Spent, gpu_hours: Callable[[], float]) -> str:
    """Return the key of the budget that is used up, and how far; empty while nothing is.

    Args:
        budget: the sweep's section.
        spent: by the machines of the sweep, in all its starts.
        gpu_hours: of all trials; asked when there is a budget of them.
    """
    return next(_reached(budget, spent, gpu_hours), "")


def _reached(budget: SweepBudgetSection, spent: Spent, gpu_hours: Callable[[], float]) -> Iterator[str]:
    if budget.hours is not None and spent.hours >= budget.hours:
        yield f"budget.hours: the sweep has taken {spent.hours:.3g} of {budget.hours:g} hours"
    if budget.usd is not None and spent.usd >= budget.usd:
        yield f"budget.usd: the sweep has cost {spent.usd:.2f} of {budget.usd:g} USD"
    if budget.gpu_hours is not None and (used := gpu_hours()) >= budget.gpu_hours:
        yield f"budget.gpu_hours: the trials have taken {used:.3g} of {budget.gpu_hours:g} GPU-hours"


class GpuHours:
    """Adds up the GPU-hours of trials: the wall time of each, times its workers.

    Args:
        folder: the sweep's folder.
        trials: the record of its trials.
        gpus: of a trial; an elastic one counts with its most workers.
    """

    def __init__(self, folder: SweepFolder, trials: Trials, gpus: int) -> None:
        self._spending = TrialSpending(folder)
        self._trials = trials
        self._gpus = gpus

    def __call__(self) -> float:
        """Return the GPU-hours up to now."""
        return self._gpus * sum(spent.hours for spent in self._spending.read(self._trials.all()).values())
