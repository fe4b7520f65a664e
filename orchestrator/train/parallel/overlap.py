"""Summing gradients over workers while the last backward pass is still running.

The same idea as DistributedDataParallel's buckets and `no_sync` (Li et al. 2020, "PyTorch Distributed"), for workers
that make different numbers of passes, or none at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from orchestrator.train.collective import Collective, Pending
from orchestrator.train.gradients import Bucket


class OverlappedSum:
    """Sends each bucket once it is complete and all before it have been sent, and the rest when asked to.

    All workers send the same buckets in the same order whatever their passes did. After the first step that order is
    the one in which worker 0 completed them.

    Args:
        buckets: what to sum, the same on every worker.
        collective: the other workers.
    """

    def __init__(self, buckets: Sequence[Bucket], collective: Collective) -> None:
        self._buckets = buckets
        self._collective = collective
        self._order = list(range(len(buckets)))
        self._first_step = True
        self._sending = False
        self._missing: list[set[nn.Parameter]] = []
        self._completed: list[int] = []
        self._pending: list[Pending] = []
        if collective.size > 1:
            self._watch()

    @property
    def started(self) -> bool:
        """Whether buckets of this step may have been sent."""
        return bool(self._missing)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send buckets as the backward pass inside completes them; no gradient may change afterwards."""
        self._missing = [set(bucket.parameters) for bucket in self._buckets]
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def finish(self) -> None:
        """Send the buckets that are left."""
        while len(self._pending) < len(self._buckets):
            self._send_next()
        if self._first_step and self._collective.size > 1:
            self._agree_on_order()

    def wait(self) -> None:
        """Wait for all sums and make ready for the next step."""
        for message in self._pending:
            message.wait()
        self._missing, self._completed, self._pending = [], [], []

    def _watch(self) -> None:
        for index, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda own, index=index: self._accumulated(index, own))

    def _accumulated(self, index: int, parameter: nn.Parameter) -> None:
        if not self._sending:
            return
        if index in self._order[: len(self._pending)]:
            raise RuntimeError("a gradient changed after it was sent: the backward pass reached a parameter twice")
        self._missing[index].discard(parameter)
        if not self._missing[index]:
            self._completed.append(index)
        while len(self._pending) < len(self._order) and not self._missing[self._order[len(self._pending)]]:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self._buckets[self._order[len(self._pending)]]
        self._pending.append(self._collective.start_sum(bucket.gradients))

    def _agree_on_order(self) -> None:
        self._first_step = False
        order = self._completed + [index for index in self._order if index not in self._completed]
        message = torch.tensor(order) * (self._collective.rank == 0)
        self._collective.sum(message)
        self._order = message.tolist()
