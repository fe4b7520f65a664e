"""The ledger of a run: which samples every micro-batch of every step was made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.storage.location import Location
from orchestrator.stream.micro_batch import MicroBatch

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
