"""The ledger of a run: which samples every micro-batch of every step was made of."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.storage.location import Location
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.reader import Reader, SampleId

FILE_NAME = re.compile(r"steps-(\d+)-to-(\d+)-worker-\d+\.jsonl")


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One micro-batch: the keys of the samples that were used, and of those that were skipped."""

    step: int
    micro_batch: int
    keys: tuple[str, ...]
    skipped: tuple[str, ...]


class Ledger:
    """A worker's part of the ledger: collects lines and writes them in files that are whole or not there.

    Steps that are done again after a crash are written again, in the same words.

    Args:
        folder: where the files go.
        worker: this worker's rank.
    """

    def __init__(self, folder: Location, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._lines: list[LedgerLine] = []

    def add(self, step: int, micro_batches: Iterable[MicroBatch]) -> None:
        """Enter the micro-batches of a step."""
        for batch in micro_batches:
            skipped = tuple(skip.key for skip in batch.skipped)
            self._lines.append(LedgerLine(step, batch.number, batch.keys, skipped))

    def flush(self) -> None:
        """Write what was entered since the last time.

        Raises:
            StorageError: it cannot be written; the lines are kept.
        """
        if not self._lines:
            return
        text = "".join(f"{json.dumps(_plain(line), ensure_ascii=False)}\n" for line in self._lines)
        name = f"steps-{self._lines[0].step:08d}-to-{self._lines[-1].step:08d}-worker-{self._worker}.jsonl"
        (self._folder / name).write(text.encode())
        self._lines = []


def read_ledger(folder: Location) -> Iterator[LedgerLine]:
    """Yield all lines of a ledger; lines of steps that were done twice come twice."""
    for part in folder.list():
        yield from _read(part)


def read_ledger_step(folder: Location, step: int) -> list[LedgerLine]:
    """Return the lines of one step; only the files that hold it are read."""
    parts = [part for part in folder.list() if step in _steps(part.name)]
    return [line for part in parts for line in _read(part) if line.step == step]


def _read(part: Location) -> Iterator[LedgerLine]:
    for text in part.read().decode().splitlines():
        values = json.loads(text)
        yield LedgerLine(values["step"], values["micro_batch"], tuple(values["keys"]), tuple(values["skipped"]))


def _steps(name: str) -> range:
    """Return the steps that a file of the ledger spans, from its name."""
    found = FILE_NAME.fullmatch(name)
    return range(int(found[1]), int(found[2]) + 1) if found else range(0)


def _plain(line: LedgerLine) -> dict[str, object]:
    return {"step": line.step, "micro_batch": line.micro_batch, "keys": line.keys, "skipped": line.skipped}


# Checks a ledger against the order: every sample once in every epoch of its data set, and nothing else.


@dataclass(frozen=True, slots=True)
class LedgerAudit:
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


def check_ledger(lines: Iterable[LedgerLine], reader: Reader, micro_batches: range) -> LedgerAudit:
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
    seen: Counter[SampleId] = Counter()
    wrong = []
    for number, line in sorted(found.items()):
        sample_ids = reader.sample_ids(number)
        seen.update(sample_ids)
        if not line_matches(line, reader.keys_of(sample_ids)):
            wrong.append(number)
    return LedgerAudit(
        micro_batches=len(micro_batches),
        samples=sum(len(line.keys) + len(line.skipped) for line in found.values()),
        skipped=sum(len(line.skipped) for line in found.values()),
        missing=tuple(number for number in micro_batches if number not in found),
        wrong=tuple(wrong),
        contradictory=tuple(sorted(contradictory)),
        repeated=seen.total() - len(seen),
    )


def line_matches(line: LedgerLine, expected: Sequence[str]) -> bool:
    """Return whether a line has just the samples with the expected keys, in their order, those skipped left out."""
    left = Counter(line.skipped)
    used = []
    for key in expected:
        if left[key]:
            left[key] -= 1
        else:
            used.append(key)
    return tuple(used) == line.keys and not +left
