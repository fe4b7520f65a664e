"""What happens to a staged checkpoint beside training: its files are written, and worker 0 commits it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter

from orchestrator.config.errors import FuserayError
from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.attempt import Attempt
from orchestrator.train.checkpoints.commit import Waiting, await_parts, commit, write_part
from orchestrator.train.checkpoints.errors import CheckpointError
from orchestrator.train.checkpoints.manifest import FileRecord, Manifest
from orchestrator.train.checkpoints.pruning import prune


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A file to write.

    Args:
        name: its name.
        content: what it is, or is a part of.
        parts: its bytes, in order.
    """

    name: str
    content: str
    parts: tuple[bytes | memoryview, ...]

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a write.

    Args:
        seconds: how long it took, for worker 0 with waiting for the others.
        size_bytes: what this worker wrote.
        notes: for people; what went wrong without harm to the checkpoint.
    """

    seconds: float
    size_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """One worker's part in writing a checkpoint.

    Args:
        run: the run.
        attempt: who takes part.
        files: this worker's files; the bytes must not change until they are written.
        metrics: figures of the step.
        section: which checkpoints stay.
        waiting: how long worker 0 waits for the others.
    """

    run: RunFolder
    attempt: Attempt
    files: Sequence[Outgoing]
    metrics: Mapping[str, float]
    section: CheckpointSection
    waiting: Waiting = field(default_factory=Waiting)

    @property
    def size_bytes(self) -> int:
        """Size of this worker's files."""
        return sum(file.size_bytes for file in self.files)

    def run_now(self) -> Written:
        """Write, commit and tidy up.

        Raises:
            CheckpointError: it failed, and the step has no checkpoint now unless it had one before.
        """
        began_s = perf_counter()
        try:
            leftovers = self._write()
        except Exception as error:
            self._withdraw()
            raise self._failure(error) from error
        notes = self._tidy(leftovers) if self.attempt.rank == 0 else ()
        return Written(perf_counter() - began_s, self.size_bytes, notes)

    def _write(self) -> list[str]:
        records = {file.name: self._write_file(file) for file in self.files}
        if self.attempt.rank != 0:
            write_part(self.attempt, records)
            return []
        records |= await_parts(self.attempt, self.waiting)
        saved = datetime.now(UTC).isoformat(timespec="seconds")
        return commit(self.attempt, Manifest(records, self.metrics, saved))

    def _write_file(self, file: Outgoing) -> FileRecord:
        digest = hashlib.sha256()
        for part in file.parts:
            digest.update(part)
        (self.attempt.folder / file.name).write(*file.parts)
        return FileRecord(file.content, file.size_bytes, digest.hexdigest())

    def _tidy(self, leftovers: Sequence[str]) -> tuple[str, ...]:
        """Remove what the new checkpoint makes useless. That it fails is no reason to stop training."""
        try:
            for name in leftovers:
                (self.attempt.folder / name).delete()
            prune(self.run, self.section, datetime.now(UTC))
        except FuserayError as error:
            return (
                f"The checkpoint of step {self.attempt.step} is saved, but old files could not be removed. {error}",
            )
        return ()

    def _withdraw(self) -> None:
        """Remove this worker's files, as far as storage lets us; without a manifest they do not count anyway."""
        part = self.attempt.part_name(self.attempt.rank)
        with suppress(StorageError):
            for name in (part, *(file.name for file in self.files)):
                (self.attempt.folder / name).delete()
            if not self.attempt.folder.list():
                self.attempt.folder.delete()

    def _failure(self, error: Exception) -> CheckpointError:
        said = str(error) if isinstance(error, FuserayError) else f"{type(error).__name__}: {error}"
        return CheckpointError(
            f"the checkpoint of step {self.attempt.step} ({self.size_bytes / 1e6:.0f} MB of worker "
            f"{self.attempt.rank}) could not be saved. {said}"
        )
