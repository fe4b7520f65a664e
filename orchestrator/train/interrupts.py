"""Signals that ask a driver to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on(number: signal.Signals, asked: threading.Event) -> Iterator[None]:
    """Turn the first signal of a kind into a wish to stop; the second one does what it would have done anyway.

    Args:
        number: the signal.
        asked: set by the first one.
    """
    otherwise = signal.default_int_handler if number is signal.SIGINT else signal.getsignal(number)
    previous = signal.getsignal(number)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, otherwise)

    signal.signal(number, on_signal)
    try:
        yield
    finally:
        signal.signal(number, previous)
