"""Writes a staged checkpoint in the background: every worker writes its files, then worker 0 commits the checkpoint.

Worker 0 waits until all workers have written their files, then writes the manifest. The workers do not communicate for
that, which could interfere with training's own collectives: each announces its files in a small file, its part record.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from time import perf_counter
from typing import Generic, TypeVar

from orchestrator.config.errors import FuserayError
from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import DAMAGED_FILE, MANIFEST_FILE, PINNED_FILE, RunFolder
from orchestrator.train.checkpoints.maintenance import prune
from orchestrator.train.checkpoints.manifest import (
    CheckpointError,
    DamagedError,
    FileRecord,
    Manifest,
    add_checksum,
    file_records,
    has_valid_checksum,
    parse_object,
)
from orchestrator.train.checkpoints.measured import WAITING_FILE, mark_waiting
from orchestrator.train.checkpoints.read import checked_sizes

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SaveAttempt:
    """One worker's part in an attempt to save a checkpoint; names its files.

    Args:
        folder: the checkpoint's folder, which may hold files of other attempts.
        step: how many steps the checkpoint holds.
        tag: the same on all workers, and different for every attempt.
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
        """Return the name of a worker's part record."""
        return f"part-{rank}-of-{self.workers}-{self.tag}.json"


@dataclass(frozen=True, slots=True)
class Polling:
    """How worker 0 polls storage for the other workers' files.

    Args:
        timeout_s: how long it waits.
        interval_s: seconds between two polls.
        clock: the time in seconds.
        sleep: waits for some seconds.
    """

    timeout_s: float = 600.0
    interval_s: float = 0.2
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file that is ready to be written.

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
class WriteResult:
    """Result of a checkpoint write.

    Args:
        seconds: how long it took; on worker 0 this includes waiting for the others.
        size_bytes: size of this worker's files.
        warnings: problems that do not affect the checkpoint, for the user.
    """

    seconds: float
    size_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckpointWriteJob:
    """One worker's part in writing a checkpoint.

    Args:
        run: the run.
        attempt: this worker's part.
        files: this worker's files; the bytes must not change until they are written.
        metrics: of the step.
        section: which checkpoints are kept.
        polling: how worker 0 waits for the others.
        measured_later: whether the checkpoint is to be measured.
    """

    run: RunFolder
    attempt: SaveAttempt
    files: Sequence[StagedFile]
    metrics: Mapping[str, float]
    section: CheckpointSection
    polling: Polling = field(default_factory=Polling)
    measured_later: bool = False

    @property
    def size_bytes(self) -> int:
        """Size of this worker's files."""
        return sum(file.size_bytes for file in self.files)

    def execute(self) -> WriteResult:
        """Write, commit and prune.

        Raises:
            CheckpointError: it failed; the step has no checkpoint unless it had one before.
        """
        began_s = perf_counter()
        try:
            leftovers = self._write()
        except Exception as error:
            self._delete_own_files()
            raise self._failure(error) from error
        if self.measured_later and WAITING_FILE in leftovers:
            leftovers.remove(WAITING_FILE)
        warnings = self._prune(leftovers) if self.attempt.rank == 0 else ()
        return WriteResult(perf_counter() - began_s, self.size_bytes, warnings)

    def _write(self) -> list[str]:
        records = {file.name: self._write_file(file) for file in self.files}
        if self.attempt.rank != 0:
            write_part_record(self.attempt, records)
            return []
        records |= wait_for_parts(self.attempt, self.polling)
        if self.measured_later:
            mark_waiting(self.attempt.folder)
        saved = datetime.now(UTC).isoformat(timespec="seconds")
        return commit(self.attempt, Manifest(records, self.metrics, saved))

    def _write_file(self, file: StagedFile) -> FileRecord:
        digest = hashlib.sha256()
        for part in file.parts:
            digest.update(part)
        (self.attempt.folder / file.name).write(*file.parts)
        return FileRecord(file.content, file.size_bytes, digest.hexdigest())

    def _prune(self, leftovers: Sequence[str]) -> tuple[str, ...]:
        """Delete what the new checkpoint supersedes; return a warning when that fails, since training need not stop."""
        try:
            for name in leftovers:
                (self.attempt.folder / name).delete()
            prune(self.run, self.section, datetime.now(UTC))
        except FuserayError as error:
            return (
                f"The checkpoint of step {self.attempt.step} is saved, but old files could not be removed. {error}",
            )
        return ()

    def _delete_own_files(self) -> None:
        """Delete this worker's files as far as possible; without a manifest they are not a checkpoint anyway."""
        part = self.attempt.part_name(self.attempt.rank)
        with suppress(StorageError):
            for name in (part, *(file.name for file in self.files)):
                (self.attempt.folder / name).delete()
            if not self.attempt.folder.list():
                self.attempt.folder.delete()

    def _failure(self, error: Exception) -> CheckpointError:
        cause = str(error) if isinstance(error, FuserayError) else f"{type(error).__name__}: {error}"
        return CheckpointError(
            f"the checkpoint of step {self.attempt.step} ({self.size_bytes / 1e6:.0f} MB of worker "
            f"{self.attempt.rank}) could not be saved. {cause}"
        )


def write_part_record(attempt: SaveAttempt, files: Mapping[str, FileRecord]) -> None:
    """Announce the files that this worker has written.

    Raises:
        StorageError: it cannot be written.
    """
    records = {name: asdict(record) for name, record in files.items()}
    (attempt.folder / attempt.part_name(attempt.rank)).write(add_checksum({"files": records}))


def wait_for_parts(attempt: SaveAttempt, polling: Polling) -> dict[str, FileRecord]:
    """Wait for the other workers and return the files that they have written.

    Raises:
        CheckpointError: the files of a worker did not come in time.
        DamagedError: a part record is damaged.
        StorageError: storage cannot be read.
    """
    missing, files, began_s = set(range(1, attempt.workers)), dict[str, FileRecord](), polling.clock()
    while missing:
        names = attempt.folder.sizes()
        for rank in [rank for rank in sorted(missing) if attempt.part_name(rank) in names]:
            files |= _read_part_record(attempt, rank)
            missing.discard(rank)
        if missing and polling.clock() - began_s >= polling.timeout_s:
            raise _timeout_error(attempt, missing, polling.timeout_s)
        if missing:
            polling.sleep(polling.interval_s)
    return files


def commit(attempt: SaveAttempt, manifest: Manifest) -> list[str]:
    """Commit an attempt as the checkpoint of its step.

    Args:
        attempt: worker 0's.
        manifest: of all files of all workers.

    Returns:
        The names of files in the folder that do not belong to the checkpoint.

    Raises:
        DamagedError: a file is missing or has the wrong size.
        StorageError: the store is failing.
    """
    sizes = checked_sizes(attempt.folder, manifest)
    if DAMAGED_FILE in sizes:
        (attempt.folder / DAMAGED_FILE).delete()
    (attempt.folder / MANIFEST_FILE).write(manifest.encoded())
    return sorted(sizes.keys() - manifest.files.keys() - {MANIFEST_FILE, DAMAGED_FILE, PINNED_FILE})


def _read_part_record(attempt: SaveAttempt, rank: int) -> dict[str, FileRecord]:
    location = attempt.folder / attempt.part_name(rank)
    values = parse_object(location.read(), location.uri)
    if not has_valid_checksum(values):
        raise DamagedError(f"{location.uri}: is damaged (it does not match its own digest).")
    return file_records(values["files"])


def _timeout_error(attempt: SaveAttempt, missing: set[int], timeout_s: float) -> CheckpointError:
    ranks = ", ".join(map(str, sorted(missing)))
    return CheckpointError(
        f"{attempt.folder.uri}: no files of worker {ranks} came within {timeout_s:g} s. "
        "See in the log whether it still runs, and check that all machines share storage.uri."
    )


class AsyncTask(Generic[Result]):
    """Runs one function at a time in a daemon thread; `wait` returns its result or raises its error."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: Future[Result] | None = None

    def start(self, function: Callable[[], Result]) -> None:
        """Start a function; the one before it must have been waited for."""
        if self._running is not None:
            raise RuntimeError("the previous task was not waited for")
        self._running = future = Future[Result]()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def take(self) -> Result | None:
        """Return the result, once, if the function is done and did not fail; None otherwise."""
        if self._running is None or not self._running.done() or self._running.exception() is not None:
            return None
        return self.wait()

    def wait(self) -> Result | None:
        """Wait for the function and return its result, once; None when nothing was started.

        Raises:
            Exception: what the function raised.
        """
        if self._running is None:
            return None
        future = self._running
        future.exception()
        self._running = None
        return future.result()
