"""Notes of long work on many shards, so that it can be taken up again after any kind of end.

Object stores cannot append to a file; the notes are a folder of files, each with what was done in some seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from orchestrator.storage.location import Location

FLUSH_S = 5.0
"""Seconds of work that a killed process may have to do again."""

READERS = 16


class JsonlLog:
    """Notes in a folder; used as a context, it writes down what is pending when the body ends for whatever reason.

    Args:
        folder: holds the notes and nothing else.
        clock: seconds, for tests.
    """

    def __init__(self, folder: Location, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._pending: list[dict[str, Any]] = []
        self._flushed = float("-inf")
        self._files = 0

    def read(self) -> list[dict[str, Any]]:
        """Return the notes of earlier processes; damaged ones are left out, and their work is done again."""
        files = [place for place in self._folder.list() if place.name.removesuffix(".jsonl").isdigit()]
        self._files = 1 + max((int(place.name.removesuffix(".jsonl")) for place in files), default=-1)
        with ThreadPoolExecutor(READERS) as pool:
            return [note for content in pool.map(Location.read, files) for note in _notes(content)]

    def add(self, note: dict[str, Any]) -> None:
        """Note something; it is written down at once when some seconds have passed since the last time."""
        self._pending.append(note)
        if self._clock() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write down what is pending."""
        if self._pending:
            content = "".join(json.dumps(note, sort_keys=True) + "\n" for note in self._pending)
            (self._folder / f"{self._files:06d}.jsonl").write(content.encode())
            self._files += 1
            self._pending = []
        self._flushed = self._clock()

    def remove(self) -> None:
        """Remove the notes: the work is complete."""
        self._pending = []
        self._folder.delete()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()


def _notes(content: bytes) -> list[dict[str, Any]]:
    notes = []
    for line in content.splitlines():
        try:
            notes.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return notes
