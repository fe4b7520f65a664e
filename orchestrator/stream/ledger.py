"""The ledger of a run: the samples of every micro-batch of every step; and its audit against the order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.storage.jsonl_log import decode_jsonl, encode_jsonl
from orchestrator.storage.location import Location
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.reader import Reader, SampleId

FILE_NAME = re.compile(r"steps-(\d+)-to-(\d+)-worker-\d+\.jsonl")


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One micro-batch: the keys of its used samples, and of its skipped ones."""

    step: int
    micro_batch: int
    keys: tuple[str, ...]
    skipped: tuple[str, ...]


class Ledger:
    """A worker's part of the ledger: collects lines and writes them in atomically written files.

    Steps that are repeated after a crash are written again, with the same content.

    Args:
        folder: of the ledger's files.
        worker: this worker's rank.
    """

    def __init__(self, folder: Location, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._lines: list[LedgerLine] = []

    def add(self, step: int, micro_batches: Iterable[MicroBatch]) -> None:
        """Add the micro-batches of a step."""
        for batch in micro_batches:
            skipped = tuple(skip.key for skip in batch.skipped)
            self._lines.append(LedgerLine(step, batch.number, batch.keys, skipped))

    def flush(self) -> None:
        """Write the lines that were added since the last flush.

        Raises:
            StorageError: it cannot be written; the lines are kept.
        """
        if not self._lines:
            return
        name = f"steps-{self._lines[0].step:08d}-to-{self._lines[-1].step:08d}-worker-{self._worker}.jsonl"
        (self._folder / name).write(encode_jsonl(map(_record, self._lines), ensure_ascii=False))
        self._lines = []


def read_ledger(folder: Location) -> Iterator[LedgerLine]:
    """Yield all lines of a ledger; lines of repeated steps come twice."""
    for part in folder.list():
        yield from _read(part)


def read_ledger_step(folder: Location, step: int) -> list[LedgerLine]:
    """Return the lines of one step; only the files that hold it are read."""
    parts = [part for part in folder.list() if step in _steps(part.name)]
    return [line for part in parts for line in _read(part) if line.step == step]


def _read(part: Location) -> Iterator[LedgerLine]:
    for values in decode_jsonl(part.read()):
        yield LedgerLine(values["step"], values["micro_batch"], tuple(values["keys"]), tuple(values["skipped"]))


def _steps(name: str) -> range:
    """Return the steps in a file of the ledger, from its name."""
    match = FILE_NAME.fullmatch(name)
    return range(int(match[1]), int(match[2]) + 1) if match else range(0)


def _record(line: LedgerLine) -> dict[str, object]:
    return {"step": line.step, "micro_batch": line.micro_batch, "keys": line.keys, "skipped": line.skipped}


@dataclass(frozen=True, slots=True)
class LedgerAudit:
    """The result of checking a ledger against the order: every sample once in every epoch, and nothing else.

    Args:
        micro_batches: micro-batches that the committed steps should have.
        samples: samples in them, skipped ones included.
        skipped: skipped samples.
        missing: micro-batches without a line.
        wrong: micro-batches with other samples than the order defines.
        contradictory: micro-batches that were run twice with different samples.
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
        """Whether the ledger agrees with the order."""
        return not (self.missing or self.wrong or self.contradictory or self.repeated)


def check_ledger(lines: Iterable[LedgerLine], reader: Reader, micro_batches: range) -> LedgerAudit:
    """Check a ledger against the order.

    Args:
        lines: the ledger.
        reader: defines the order and reads the keys.
        micro_batches: those of the committed steps.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    first: dict[int, LedgerLine] = {}
    contradictory: set[int] = set()
    for line in lines:
        if line.micro_batch in micro_batches and first.setdefault(line.micro_batch, line) != line:
            contradictory.add(line.micro_batch)
    seen: Counter[SampleId] = Counter()
    wrong = []
    for number, line in sorted(first.items()):
        sample_ids = reader.sample_ids(number)
        seen.update(sample_ids)
        if not line_matches(line, reader.keys_of(sample_ids)):
            wrong.append(number)
    return LedgerAudit(
        micro_batches=len(micro_batches),
        samples=sum(len(line.keys) + len(line.skipped) for line in first.values()),
        skipped=sum(len(line.skipped) for line in first.values()),
        missing=tuple(number for number in micro_batches if number not in first),
        wrong=tuple(wrong),
        contradictory=tuple(sorted(contradictory)),
        repeated=seen.total() - len(seen),
    )


def line_matches(line: LedgerLine, expected: Sequence[str]) -> bool:
    """Return whether a line has exactly the expected keys, in their order apart from the skipped ones."""
    skipped = Counter(line.skipped)
    used = []
    for key in expected:
        if skipped[key]:
            skipped[key] -= 1
        else:
            used.append(key)
    return tuple(used) == line.keys and not +skipped
