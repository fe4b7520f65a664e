"""The present time, and the delays between attempts."""

from __future__ import annotations

import time

MAX_DOUBLINGS = 64
"""Keeps the power of two finite; the longest delay is reached long before."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


def exponential_delay_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return the delay before the next attempt, in seconds: exponential back-off without jitter.

    Args:
        failures: number of consecutive failed attempts, at least 1.
        first_s: the delay after the first one; it doubles with every further one.
        longest_s: upper limit of the delay.
    """
    return min(longest_s, first_s * 2.0 ** min(failures - 1, MAX_DOUBLINGS))
