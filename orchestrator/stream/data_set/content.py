"""What lies at one row of a shard: a sample, or why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.contract import BadSample, Sample


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, and why."""

    key: str
    fault: BadSample


Content = Sample | Unreadable
