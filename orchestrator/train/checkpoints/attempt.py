"""One attempt to save a checkpoint: who takes part, and what its files are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.storage.location import Location


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's view of an attempt to save a checkpoint.

    Args:
        folder: the checkpoint's folder, which may hold files of other attempts.
        step: how many steps the checkpoint holds.
        tag: the same on all workers, and different from that of any other attempt.
        rank: this worker's number.
        workers: how many take part.
    """

    folder: Location
    step: int
    tag: str
    rank: int
    workers: int

    def shared_name(self, content: str) -> str:
        """Return the name of a file that only worker 0 writes."""
        path = PurePosixPath(content)
        return f"{path.stem}-{self.tag}{path.suffix}"

    def own_name(self, content: str) -> str:
        """Return the name of this worker's part of a content."""
        path = PurePosixPath(content)
        return f"{path.stem}-{self.rank}-of-{self.workers}-{self.tag}{path.suffix}"

    def part_name(self, rank: int) -> str:
        """Return the name of the file in which a worker says what it has written."""
        return f"part-{rank}-of-{self.workers}-{self.tag}.json"
