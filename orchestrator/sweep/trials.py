"""The trials of a sweep as its driver knows them; what is known is in the sweep's folder, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.sweep.folder import SweepFolder, TrialRecord

Show = Callable[[Sequence[TrialRecord]], None]


class Trials:
    """The record of all trials.

    Args:
        folder: the sweep's folder.
        show: told all records whenever one of them changes.
    """

    def __init__(self, folder: SweepFolder, show: Show = lambda _: None) -> None:
        self._folder = folder
        self._show = show
        self.by_name = {record.name: record for record in folder.trials()}

    def all(self) -> list[TrialRecord]:
        """Return the records by number and replica."""
        return sorted(self.by_name.values(), key=lambda one: (one.number, one.replica))

    def keep(self, record: TrialRecord) -> None:
        """Take a record in place of what was known of the trial."""
        self.by_name[record.name] = record
        self._folder.keep(record)
        self._show(self.all())
