"""Preemption notices: what a notice says, the interface of their sources, and notices from a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.errors import FuserayError

LONGEST_REASON = 200


class SourceError(FuserayError):
    """A source cannot say whether there is a notice; a retry may succeed."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice that this machine will be taken away.

    Args:
        reason: why, in one line of text.
        deadline_ms: when, in milliseconds since 1970 in UTC; None when that is not known.
        source: name of the source.
    """

    reason: str
    deadline_ms: int | None
    source: str

    def describe(self, now_ms: int) -> str:
        """Return the notice as one line."""
        if self.deadline_ms is None:
            return f"{self.source}: {self.reason}; when is not known"
        remaining_s = (self.deadline_ms - now_ms) / 1000
        when = f"in {remaining_s:.0f} s" if remaining_s > 0 else "which is past"
        return f"{self.source}: {self.reason} at {clock_time(self.deadline_ms)}, {when}"


class NoticeSource(Protocol):
    """A source of notices."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def interval_s(self) -> float:
        """Default interval between polls, in seconds."""
        ...

    def poll(self) -> Notice | None:
        """Return the current notice, None while there is none. Polls during one notice return equal notices.

        Raises:
            SourceError: the source did not answer.
        """
        ...


def epoch_ms(when: datetime) -> int:
    """Return a time in milliseconds since 1970; a time without a time zone is in UTC."""
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def clock_time(time_ms: int) -> str:
    """Return a time in milliseconds since 1970 as the time of day in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%H:%M:%SZ")


def one_line(text: str) -> str:
    """Return external text as one short line of printable characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST_REASON]


LARGEST_BYTES = 4096
DEFAULT_REASON = "this machine will be taken away"


class FileNotices:
    """A file that is a notice as soon as it exists, whatever its content; it may have details in JSON.

    Args:
        path: the file. Empty, or an object of `reason` and either `deadline_s` (seconds after the file was written)
            or `deadline` (a time such as "2027-01-31T12:00:00Z"). Invalid content is ignored.
    """

    name = "file"
    interval_s = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def poll(self) -> Notice | None:
        """Return the file's notice, None while the file does not exist.

        Raises:
            SourceError: it cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                text = file.read(LARGEST_BYTES)
            written_s = self._path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(
                f"{self._path}: cannot be read ({error.strerror}); it must be a file that this user may read."
            ) from None
        details = _json_object(text)
        reason = one_line(str(details.get("reason") or DEFAULT_REASON))
        return Notice(reason, _deadline_ms(details, written_s), f"{self.name} {self._path}")


def _json_object(text: bytes) -> dict[str, Any]:
    """Return the object in a text, an empty one for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _deadline_ms(details: dict[str, Any], written_s: float) -> int | None:
    after_s, deadline = details.get("deadline_s"), details.get("deadline")
    try:
        if isinstance(after_s, int | float):
            return epoch_ms(datetime.fromtimestamp(written_s + after_s, UTC))
        return epoch_ms(datetime.fromisoformat(deadline)) if isinstance(deadline, str) else None
    except (ValueError, OverflowError, OSError):
        return None
