"""Looks whether a sweep is to stop before its end, and tells its trials."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

LOOK_EVERY_S = 1.0
ASKED = "the sweep was asked to stop"


class Ending:
    """Whether, and why, a sweep stops before its end.

    Args:
        interrupted: set when the user wants it to stop.
        used_up: the key of the budget that is used up, and how far; empty while nothing is.
        tell: takes messages for the user.
    """

    def __init__(self, interrupted: threading.Event, used_up: Callable[[], str], tell: Callable[[str], None]) -> None:
        self._interrupted = interrupted
        self._used_up = used_up
        self._tell = tell
        self.reason = ""

    @property
    def asked(self) -> bool:
        """Whether it stops because the user asked for it."""
        return self.reason == ASKED

    def look(self) -> str:
        """Return why the sweep is to stop; empty while it is not."""
        if not self.reason:
            self.reason = ASKED if self._interrupted.is_set() else self._used_up()
            if self.reason:
                self._tell(f"{self.reason}; its trials stop with a checkpoint")
        return self.reason

    @contextmanager
    def watched(self, bell: Any, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
        """Look again and again while the body runs, in a thread, and ring the bell once the sweep is to stop.

        Args:
            bell: an actor of class `Bell`.
            every_s: seconds between two looks.
        """
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(bell, over, every_s), daemon=True, name="sweep-ending")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, bell: Any, over: threading.Event, every_s: float) -> None:
        while not over.wait(every_s):
            if self.look():
                ray.get(bell.ring.remote(self.reason))
                return
