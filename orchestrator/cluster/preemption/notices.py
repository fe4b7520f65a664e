"""What announces that this machine will be taken away, and where such announcements come from."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config.errors import FuserayError

LONGEST_REASON = 200


class SourceError(FuserayError):
    """A source cannot say right now whether there is a notice; it is worth asking again."""


@dataclass(frozen=True, slots=True)
class Notice:
    """This machine will be taken away.

    Args:
        reason: why, in one line for people.
        deadline_ms: when, in milliseconds since 1970 in UTC; None when that is not known.
        source: who said so.
    """

    reason: str
    deadline_ms: int | None
    source: str

    def describe(self, now_ms: int) -> str:
        """Return the notice as one line."""
        if self.deadline_ms is None:
            return f"{self.source}: {self.reason}; when is not known"
        left_s = (self.deadline_ms - now_ms) / 1000
        when = f"in {left_s:.0f} s" if left_s > 0 else "which is past"
        return f"{self.source}: {self.reason} at {clock_time(self.deadline_ms)}, {when}"


class NoticeSource(Protocol):
    """Where notices come from."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def interval_s(self) -> float:
        """How often it is worth asking."""
        ...

    def poll(self) -> Notice | None:
        """Return the notice that stands, None while there is none. Equal calls about one notice give equal notices.

        Raises:
            SourceError: it cannot be known right now.
        """
        ...


def now_ms() -> int:
    """Return the milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


def epoch_ms(moment: datetime) -> int:
    """Return a moment in milliseconds since 1970; one without a time zone is in UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def clock_time(moment_ms: int) -> str:
    """Return a moment in milliseconds since 1970 as the time of its day in UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%H:%M:%SZ")


def one_line(text: str) -> str:
    """Return a text from outside as one short line that is safe to print."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:LONGEST_REASON]


# A file that appears when a machine will be taken away, for machines of one's own, hooks and tests.


LARGEST_BYTES = 4096
DEFAULT_REASON = "this machine will be taken away"


class FileNotices:
    """A file that is there is a notice, whatever it holds; it may say more in JSON.

    Args:
        path: the file. Empty, or an object of `reason` and either `deadline_s` (seconds after the file was written)
            or `deadline` (a time such as "2027-01-31T12:00:00Z"). What cannot be understood is taken for not said.
    """

    name = "file"
    interval_s = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def poll(self) -> Notice | None:
        """Return what the file says, None while it is not there.

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
        found = _object(text)
        reason = one_line(str(found.get("reason") or DEFAULT_REASON))
        return Notice(reason, _deadline_ms(found, written_s), f"{self.name} {self._path}")


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _deadline_ms(found: dict[str, Any], written_s: float) -> int | None:
    after_s, moment = found.get("deadline_s"), found.get("deadline")
    try:
        if isinstance(after_s, int | float):
            return epoch_ms(datetime.fromtimestamp(written_s + after_s, UTC))
        return epoch_ms(datetime.fromisoformat(moment)) if isinstance(moment, str) else None
    except (ValueError, OverflowError, OSError):
        return None
