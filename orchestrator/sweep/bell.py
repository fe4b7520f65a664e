"""Tells all trials of a sweep that they are to stop."""

from __future__ import annotations


class Bell:
    """Rings once. Lives as an actor beside the sweep's driver."""

    def __init__(self) -> None:
        self._reason = ""

    def ring(self, reason: str) -> None:
        """Have all trials stop with a checkpoint."""
        self._reason = reason

    def rung(self) -> str:
        """Return why the trials are to stop; empty while they are not."""
        return self._reason
