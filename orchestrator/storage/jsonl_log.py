"""JSON-lines records, and an append-only log of them from which interrupted work on many shards resumes.

Object stores cannot append to a file, so the log is a folder of numbered files, each with the records of some seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from orchestrator.storage.location import Location

FLUSH_S = 5.0
"""Seconds of work that a killed process may have to repeat."""

READERS = 16


def encode_jsonl(records: Iterable[Mapping[str, Any]], *, sort_keys: bool = False, ensure_ascii: bool = True) -> bytes:
    """Return records as one JSON object a line; the options are those of `json.dumps`."""
    lines = (json.dumps(record, sort_keys=sort_keys, ensure_ascii=ensure_ascii) + "\n" for record in records)
    return "".join(lines).encode()


def decode_jsonl(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the records of JSON lines.

    Raises:
        ValueError: a line is damaged.
    """
    for line in content.splitlines():
        yield json.loads(line)


class JsonlLog:
    """An append-only log in a folder; as a context manager, it flushes pending records when the body ends or fails.

    Args:
        folder: holds the log and nothing else.
        clock: returns seconds; for tests.
    """

    def __init__(self, folder: Location, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._pending: list[dict[str, Any]] = []
        self._flushed = float("-inf")
        self._files = 0

    def read(self) -> list[dict[str, Any]]:
        """Return the records of earlier processes; damaged ones are dropped, so that their work is repeated."""
        files = [file for file in self._folder.list() if file.name.removesuffix(".jsonl").isdigit()]
        self._files = 1 + max((int(file.name.removesuffix(".jsonl")) for file in files), default=-1)
        with ThreadPoolExecutor(READERS) as pool:
            return [record for content in pool.map(Location.read, files) for record in _undamaged(content)]

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; pending records are flushed when `FLUSH_S` seconds have passed since the last flush."""
        self._pending.append(record)
        if self._clock() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write the pending records to the next file."""
        if self._pending:
            (self._folder / f"{self._files:06d}.jsonl").write(encode_jsonl(self._pending, sort_keys=True))
            self._files += 1
            self._pending = []
        self._flushed = self._clock()

    def remove(self) -> None:
        """Delete the log, once the work is complete."""
        self._pending = []
        self._folder.delete()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()


def _undamaged(content: bytes) -> list[dict[str, Any]]:
    records = []
    for line in content.splitlines():
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return records
