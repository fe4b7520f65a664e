"""What a sweep will do, worked out before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.checking import check_reports
from orchestrator.sweep.checking_reports import report_steps
from orchestrator.sweep.folder import SweepError, SweepFolder
from orchestrator.sweep.proposals import configurations
from orchestrator.track.cost import read_starts
from orchestrator.track.metric_log import now_ms
from orchestrator.track.tracker import flatten
from orchestrator.train.plan import Plan, make_plan

FREE_TO_CHANGE = ("budget.", "concurrency", "search.trials")
"""Keys of a sweep that may be other ones when it is continued."""

ALIVE_S = 30.0
"""A driver writes down more often than this that it is there."""


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
        return report_steps(self.sweep, self.base.steps)


def make_sweep_plan(sweep: ResolvedSweep) -> SweepPlan:
    """Look at the data that a sweep's recipe names.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        SpecError: a trial asks for more than the machine has, or starts from an unfit checkpoint.
        RecipeError: trials would not report often enough for the scheduler.
    """
    base = make_plan(sweep.recipe({}))
    check_reports(sweep, base.steps)
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
            f"fuseray sweep --resume {folder.root.uri}, or start another with name=OTHER."
        )


def check_left(folder: SweepFolder, clock_ms: Callable[[], int] = now_ms) -> None:
    """Refuse to continue a sweep whose driver is still there.

    Args:
        folder: the sweep's folder.
        clock_ms: the time in milliseconds since 1970.

    Raises:
        SweepError: it seems to be.
    """
    if folder.read().status != "RUNNING":
        return
    seen_s = (clock_ms() - max((start.end_ms for start in read_starts(folder.costs)), default=0)) / 1000
    if seen_s < ALIVE_S:
        raise SweepError(
            f"{folder.root.uri}: the sweep's driver was there {max(seen_s, 0):.0f} s ago, and two would disturb each "
            f"other. Stop it first; if it was killed, try again in {ALIVE_S:.0f} s."
        )


def changed_keys(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Return the keys of a sweep, and of its recipe, that may not change when it is continued and did."""
    old, new = _fixed(before), _fixed(now)
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _fixed(sweep: ResolvedSweep) -> dict[str, Any]:
    spec = flatten(sweep.sweep.model_dump(mode="json", exclude={"recipe", "overrides"}))
    kept = {key: value for key, value in spec.items() if not key.startswith(FREE_TO_CHANGE)}
    return kept | flatten({"recipe": sweep.recipe({}).values()})
