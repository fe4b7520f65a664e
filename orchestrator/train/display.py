"""What a run needs of whoever watches it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.train.channel import Record


class Display(Protocol):
    """Shows a run to whoever is watching."""

    def message(self, text: str) -> None:
        """Show a line."""
        ...

    def step(self, record: Record, skipped: int) -> None:
        """Show that a step is done; `skipped` counts the bad samples so far."""
        ...
