"""A file that appears when a machine will be taken away, for machines of one's own, hooks and tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.cluster.preemption.notice import Notice, SourceError, epoch_ms, one_line

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
