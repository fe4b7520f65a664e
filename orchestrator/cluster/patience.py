"""Waiting for something that may never answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, action: Callable[[], Result]) -> Result:
    """Return an action's result, or give it up after a while; it is left behind in its thread.

    Raises:
        TimeoutError: no answer in time.
        Exception: whatever the action raises.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def side_by_side(actions: Sequence[Callable[[], Result]]) -> list[Future[Result]]:
    """Start actions that have patience of their own, all at once; their results come in the same order."""
    pool = ThreadPoolExecutor(max(1, len(actions)), thread_name_prefix="checks")
    results = [pool.submit(action) for action in actions]
    pool.shutdown(wait=False)
    return results
