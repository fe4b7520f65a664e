"""Patience with MLflow, which a trial needs only when it begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.track.client import TrackingAwayError

AGAIN_S = 20.0
WAITS = 180
"""An hour, of as many waits."""

Result = TypeVar("Result")


def once_mlflow_is_back(
    attempt: Callable[[], Result], tell: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Result:
    """Return what an attempt comes to; it is made again as long as MLflow is away, for an hour at most.

    Args:
        attempt: can be made any number of times.
        tell: is told what MLflow lacks, before every wait.
        pause: waits for some seconds.

    Raises:
        TrackingAwayError: MLflow is still away.
    """
    for _ in range(WAITS):
        try:
            return attempt()
        except TrackingAwayError as error:
            tell(f"{error} Trying again in {AGAIN_S:.0f} s.")
            pause(AGAIN_S)
    return attempt()
