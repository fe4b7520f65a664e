"""Checks a ledger against the order: every sample once in every epoch of its data set, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.stream.ledger import LedgerLine
from orchestrator.stream.reader import Identity, Reader


@dataclass(frozen=True, slots=True)
class Audit:
    """What a check of a ledger found.

    Args:
        micro_batches: micro-batches that the committed steps should have.
        samples: samples in them, skipped ones included.
        skipped: samples that were left out.
        missing: micro-batches without a line.
        wrong: micro-batches with other samples than the order gives.
        contradictory: micro-batches that were done twice with different samples.
        repeated: samples that came twice in one epoch of their data set.
    """

    micro_batches: int
    samples: int
    skipped: int
    missing: tuple[int, ...]
    wrong: tuple[int, ...]
    contradictory: tuple[int, ...]
    repeated: int

    @property
    def exact(self) -> bool:
        """Whether the ledger is what it should be."""
        return not (self.missing or self.wrong or self.contradictory or self.repeated)


def check_ledger(lines: Iterable[LedgerLine], reader: Reader, micro_batches: range) -> Audit:
    """Compare a ledger with the order.

    Args:
        lines: the ledger.
        reader: knows the order and the keys.
        micro_batches: those of the committed steps.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    found: dict[int, LedgerLine] = {}
    contradictory: set[int] = set()
    for line in lines:
        if line.micro_batch in micro_batches and found.setdefault(line.micro_batch, line) != line:
            contradictory.add(line.micro_batch)
    seen: Counter[Identity] = Counter()
    wrong = []
    for number, line in sorted(found.items()):
        identities = reader.identities(number)
        seen.update(identities)
        if not agrees(line, reader.keys_of(identities)):
            wrong.append(number)
    return Audit(
        micro_batches=len(micro_batches),
        samples=sum(len(line.keys) + len(line.skipped) for line in found.values()),
        skipped=sum(len(line.skipped) for line in found.values()),
        missing=tuple(number for number in micro_batches if number not in found),
        wrong=tuple(wrong),
        contradictory=tuple(sorted(contradictory)),
        repeated=seen.total() - len(seen),
    )


def agrees(line: LedgerLine, expected: Sequence[str]) -> bool:
    """Return whether a line has just the samples with the expected keys, in their order, those skipped left out."""
    left = Counter(line.skipped)
    used = []
    for key in expected:
        if left[key]:
            left[key] -= 1
        else:
            used.append(key)
    return tuple(used) == line.keys and not +left
