"""What a sweep will do, worked out before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.sweep_loading import ResolvedSweep
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import SweepError, SweepFolder
from orchestrator.sweep.search import configurations
from orchestrator.train.plan import Plan, make_plan

REPORTS = 20
"""Reports of a trial whose objectives every step has."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep together with the data that it found.

    Args:
        sweep: the sweep.
        base: the plan of the recipe that all trials share.
        folder: where the sweep will be written.
    """

    sweep: ResolvedSweep
    base: Plan
    folder: SweepFolder

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return configurations(self.sweep) * self.sweep.sweep.replicas

    @property
    def report_steps(self) -> int:
        """Steps from report to report, of figures that every step has."""
        return max(1, self.base.steps // REPORTS)


def make_sweep_plan(sweep: ResolvedSweep) -> SweepPlan:
    """Look at the data that a sweep's recipe names.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        SpecError: a trial asks for more than the machine has, or starts from an unfit checkpoint.
    """
    base = make_plan(sweep.recipe({}))
    recipe = base.recipe
    folder = SweepFolder(locate(f"{recipe.storage.uri}/{sweep.sweep.name}", recipe.storage.endpoint))
    return SweepPlan(sweep, base, folder)


def check_new(folder: SweepFolder) -> None:
    """Refuse a folder that is taken.

    Raises:
        SweepError: a sweep or a run of this name exists.
    """
    if folder.exists() or RunFolder(folder.root).exists():
        raise SweepError(
            f"{folder.root.uri}: a sweep or a run of this name exists. Continue a sweep with "
            f"fuseray sweep --resume {folder.root.name}, or start another with name=OTHER."
        )
