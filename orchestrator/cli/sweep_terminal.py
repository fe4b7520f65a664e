"""What a user sees on the terminal while a sweep goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live

from orchestrator.cli.sweep_table import sweep_table
from orchestrator.cli.sweep_view import SweepView
from orchestrator.sweep.describing import described
from orchestrator.sweep.folder import TrialRecord
from orchestrator.track.cost import Spent

if TYPE_CHECKING:
    from orchestrator.sweep.plan import SweepPlan


class SweepTerminal:
    """A live table on a terminal; elsewhere a line whenever a trial begins or ends.

    Args:
        plan: the sweep.
        quiet: show nothing on standard output.
    """

    def __init__(self, plan: SweepPlan, quiet: bool = False) -> None:
        self._plan = plan
        self._console = Console(stderr=quiet, highlight=False)
        self._view: SweepView | None = None
        self._told: dict[str, str] = {}
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=1)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def message(self, text: str) -> None:
        """Show a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show how the trials are doing."""
        file = self._view.file if self._view else self._plan.folder.read()
        self._view = SweepView(file, self._plan.sweep.sweep, tuple(records), {}, Spent(), datetime.now(UTC))
        if not self._console.is_terminal:
            self._tell(records)

    def _table(self) -> Group:
        return sweep_table(self._view, self._console.width, self._console.height) if self._view else Group()

    def _tell(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.started and self._told.get(record.name) != record.status:
                self._told[record.name] = record.status
                self.message(f"{record.name} {record.status.lower()}: {_said(record)}")


def _said(record: TrialRecord) -> str:
    values = ", ".join(f"{value:.4g}" for value in record.points[-1].values) if record.points else ""
    last = f"; {values} after {record.points[-1].samples} samples" if record.points else ""
    why = f"; {record.reason.splitlines()[0]}" if record.reason else ""
    return f"{described(record.assignment)}{last}{why}"
