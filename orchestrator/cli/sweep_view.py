"""A sweep as it stands: read from its folder, with what its trials cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestrator.sweep.folder import SweepFile, SweepFolder, TrialRecord
from orchestrator.sweep.ranking import best, outcomes
from orchestrator.sweep.spending import TrialSpending
from orchestrator.track.cost import Costs, Spent, read_starts

if TYPE_CHECKING:
    from orchestrator.config.sweep import Sweep


@dataclass(frozen=True, slots=True)
class SweepView:
    """A sweep at one moment.

    Args:
        file: what the sweep remembers.
        sweep: its sections.
        trials: all that were started, by number and replica.
        spent: what trials have used, by name; without those of which nobody can tell.
        total: what the machines of the sweep have come to.
        now: the moment, with its time zone.
    """

    file: SweepFile
    sweep: Sweep
    trials: tuple[TrialRecord, ...]
    spent: Mapping[str, Spent]
    total: Spent
    now: datetime

    @property
    def modes(self) -> tuple[str, ...]:
        """Whether small or large values are good, for each objective."""
        return tuple(one.mode for one in self.sweep.objectives)

    @property
    def best(self) -> frozenset[int]:
        """Numbers of the best configurations so far."""
        return best(outcomes(self.trials), self.modes)

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on."""
        return self.file.status != "RUNNING"

    @property
    def seconds(self) -> float:
        """How long all starts of the sweep have taken."""
        return self.total.seconds or between(self.file.created, self.file.ended, self.now) or 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        trials = [asdict(one) | {"name": one.name, "usd": self._usd(one)} for one in self.trials]
        return {
            **asdict(self.file),
            "trials_in_all": self.file.trials,
            "objectives": [one.model_dump() for one in self.sweep.objectives],
            "budget": self.sweep.budget.model_dump(),
            "elapsed_s": round(self.seconds, 1),
            "usd": round(self.total.usd, 4),
            "best": sorted(self.best),
            "trials": trials,
        }

    def _usd(self, trial: TrialRecord) -> float | None:
        return round(self.spent[trial.name].usd, 4) if trial.name in self.spent else None


def between(begin: str, end: str, now: datetime) -> float | None:
    """Return the seconds between two ISO 8601 times, until now when the second one is empty, None without a first."""
    if not begin:
        return None
    until = datetime.fromisoformat(end) if end else now
    return max(0.0, (until - datetime.fromisoformat(begin)).total_seconds())


class SweepReader:
    """Reads a sweep again and again; what can no longer change is read once.

    Args:
        folder: the sweep's folder.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._spending = TrialSpending(folder)
        self._section: Sweep | None = None

    def read(self, now: datetime | None = None) -> SweepView:
        """Return the sweep as it stands.

        Args:
            now: the time; None for that of the clock.

        Raises:
            SweepError: there is no sweep, or one of its files is damaged.
            CostFileError: the record of its machines is damaged.
            StorageError: storage cannot be reached.
        """
        from orchestrator.sweep.stored import stored_section

        self._section = self._section or stored_section(self._folder)
        file, trials = self._folder.read(), tuple(self._folder.trials())
        total = Costs(read_starts(self._folder.costs)).spent()
        return SweepView(file, self._section, trials, self._spending.read(trials), total, now or datetime.now(UTC))
