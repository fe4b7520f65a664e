"""What the trials of a sweep have used, each with all of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.config.errors import FuserayError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.track.cost import Costs, Spent, added, read_starts

READERS = 8


class TrialSpending:
    """Reads what trials have used, again and again; what can no longer change is read once.

    Args:
        folder: the sweep's folder.
        strict: whether a damaged record is an error; otherwise its trial is left out.
    """

    def __init__(self, folder: SweepFolder, strict: bool = False) -> None:
        self._folder = folder
        self._strict = strict
        self._ended: dict[str, Spent] = {}

    def read(self, trials: Sequence[TrialRecord]) -> dict[str, Spent]:
        """Return what trials have used, by name; without those of which nobody can tell.

        Raises:
            CostFileError: the record of a trial's machines is damaged, and that is an error.
            StorageError: storage cannot be reached.
        """
        runs = self._folder.runs()
        left = [one for one in trials if one.name not in self._ended and one.name in runs]
        with ThreadPoolExecutor(READERS, thread_name_prefix="costs") as readers:
            found = list(readers.map(lambda one: self._spent(runs[one.name]), left))
        known = {one.name: spent for one, spent in zip(left, found, strict=True) if spent is not None}
        self._ended |= {one.name: known[one.name] for one in left if one.is_over and one.name in known}
        return self._ended | known

    def _spent(self, runs: Sequence[RunFolder]) -> Spent | None:
        try:
            costs = [Costs(read_starts(run.costs)) for run in runs]
        except FuserayError:
            if self._strict:
                raise
            return None
        return added(one.spent() for one in costs) if any(costs) else None
