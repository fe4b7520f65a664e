"""Counts of unusable samples by reason, with the first of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from workloads.contract import BadSample


@dataclass(frozen=True, slots=True)
class FaultCount:
    """The samples that cannot be used for one reason.

    Args:
        reason: why.
        count: how many there are.
        shard: shard of the first of them.
        key: its key.
        detail: what exactly is wrong with it.
    """

    reason: str
    count: int
    shard: str
    key: str
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def text(self) -> str:
        """Return it for the user, as in `3 image is corrupt (first 0017 in a.tar: ...)`."""
        return f"{self.count} {self.reason} (first {self.key} in {self.shard}{self.detail and ': '}{self.detail})"


class FaultTally:
    """Counts faults, which come in storage order."""

    def __init__(self, counts: Iterable[FaultCount] = ()) -> None:
        self._by_reason: dict[str, FaultCount] = {}
        for count in counts:
            self._add(count)

    def add(self, shard: str, key: str, fault: BadSample) -> None:
        """Count a sample."""
        self._add(FaultCount(fault.reason, 1, shard, key, fault.detail))

    @property
    def total(self) -> int:
        """Samples counted."""
        return sum(count.count for count in self._by_reason.values())

    def counts(self) -> tuple[FaultCount, ...]:
        """Return the counts, the most frequent reason first."""
        return tuple(sorted(self._by_reason.values(), key=lambda count: -count.count))

    def _add(self, count: FaultCount) -> None:
        first = self._by_reason.get(count.reason)
        self._by_reason[count.reason] = replace(first, count=first.count + count.count) if first else count
