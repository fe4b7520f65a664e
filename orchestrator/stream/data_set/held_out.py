"""Reading samples outside the training order, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.data_set.content import Unreadable
from orchestrator.stream.data_set.index import Index
from orchestrator.stream.data_set.samples import Rows, read_samples
from workloads.contract import Sample


def evenly_spaced(folder: Location, index: Index, limit: int | None = None) -> Iterator[Sample]:
    """Yield samples spread evenly over a data set, in storage order; unreadable ones are left out.

    Args:
        folder: the data set.
        index: its index.
        limit: how many at most; None for all.
    """
    count = index.total if limit is None else min(limit, index.total)
    numbers = np.unique(np.linspace(0, index.total - 1, count).astype(np.int64))
    shards, rows = index.find(numbers)
    for shard in np.unique(shards):
        wanted = Rows(folder / index.shards[shard], rows[shards == shard].tolist())
        for content in read_samples(folder, index, [wanted])[0]:
            if not isinstance(content, Unreadable):
                yield content
