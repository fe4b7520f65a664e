"""Waiting for what other processes do, and saying when it came."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.2


class StopWatch:
    """Prints what happens with the seconds since it was made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began_s:6.1f} s  {what}", flush=True)


def wait_for(happened: Callable[[], bool], patience_s: float) -> None:
    """Return when something has happened.

    Raises:
        TimeoutError: it took too long.
    """
    until_s = time.monotonic() + patience_s
    while not happened():
        if time.monotonic() > until_s:
            raise TimeoutError(f"it did not happen within {patience_s:g} s")
        time.sleep(POLL_S)
