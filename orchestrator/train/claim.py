"""What a run asks of the cluster beyond its workers, in the book that Ray Data and Ray Train keep of such wishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator

from orchestrator.train.growth import Bundle

EXPIRES_S = 60
"""A wish is forgotten when it is not renewed for so long, should its driver die."""

RENEW_EVERY_S = 20.0


class Claim:
    """Asks Ray's autoscaler for machines, and keeps those there that answer it.

    Ray adds up the wishes of all that run on a cluster; its autoscaler starts machines until all of them would fit.

    Args:
        claimant: who asks; one name asks once.
        bundles: what is to be free, each on one machine.
        clock: seconds that only go forward.
    """

    def __init__(self, claimant: str, bundles: Sequence[Bundle], clock: Callable[[], float] = time.monotonic) -> None:
        self._coordinator = DefaultAutoscalingCoordinator(claimant)
        self._bundles = [dict(bundle) for bundle in bundles]
        self._clock = clock
        self._asked_s: float | None = None

    def hold(self) -> None:
        """Ask, or ask again when it is time; may be called as often as one likes."""
        if self._asked_s is None or self._clock() - self._asked_s >= RENEW_EVERY_S:
            self._coordinator.request_resources(self._bundles, expire_after_s=EXPIRES_S)
            self._asked_s = self._clock()

    def release(self) -> None:
        """Take the wish back, if there is one."""
        if self._asked_s is not None:
            self._coordinator.cancel_request()
            self._asked_s = None
