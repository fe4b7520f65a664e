"""What a user sees on the terminal while a sweep goes on."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console

from orchestrator.sweep.folder import TrialRecord

if TYPE_CHECKING:
    from orchestrator.sweep.plan import SweepPlan


class SweepTerminal:
    """A line whenever a trial begins or ends.

    Args:
        plan: the sweep.
        quiet: show nothing on standard output.
    """

    def __init__(self, plan: SweepPlan, quiet: bool = False) -> None:
        self._plan = plan
        self._console = Console(stderr=quiet, highlight=False)
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def message(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show which trials have begun or ended since the last time."""
        for record in records:
            if self._shown.get(record.name) != record.status and record.started:
                self._shown[record.name] = record.status
                values = ", ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in record.assignment.items()
                )
                last = f"; {record.points[-1].values} at {record.points[-1].samples} samples" if record.points else ""
                why = f": {record.reason}" if record.reason else ""
                self.message(f"{record.name} {record.status.lower()} ({values}){last}{why}")
