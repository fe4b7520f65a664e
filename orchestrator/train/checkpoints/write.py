"""What happens to a staged checkpoint beside training: its files are written, and worker 0 commits it."""

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
    file_records,
    is_sealed,
    parse_object,
    seal,
)
from orchestrator.train.checkpoints.read import checked_sizes

# Making a checkpoint count: worker 0 waits until all workers have written their files, then writes the manifest.
#
# The workers do not talk to each other for that, which training's own messages could get in the way of. Each says with
# a small file beside the others that it is done.


@dataclass(frozen=True, slots=True)
class Polling:
    """How worker 0 waits for the others' files.

    Args:
        limit_s: how long.
        poll_s: pause between two looks.
        clock: the time in seconds.
        sleep: waits for some seconds.
    """

    limit_s: float = 600.0
    poll_s: float = 0.2
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def write_part(attempt: Attempt, files: Mapping[str, FileRecord]) -> None:
    """Say which files this worker has written.

    Raises:
        StorageError: it cannot be written.
    """
    about = {name: asdict(record) for name, record in files.items()}
    (attempt.folder / attempt.part_name(attempt.rank)).write(seal({"files": about}))


def await_parts(attempt: Attempt, waiting: Polling) -> dict[str, FileRecord]:
    """Wait for the other workers and return the files that they have written.

    Raises:
        CheckpointError: some did not say in time that they are done.
        DamagedError: what one of them said is damaged.
        StorageError: storage cannot be read.
    """
    missing, files, began_s = set(range(1, attempt.workers)), dict[str, FileRecord](), waiting.clock()
    while missing:
        there = attempt.folder.sizes()
        for rank in [rank for rank in sorted(missing) if attempt.part_name(rank) in there]:
            files |= _read_part(attempt, rank)
            missing.discard(rank)
        if missing and waiting.clock() - began_s >= waiting.limit_s:
            raise _not_in_time(attempt, missing, waiting.limit_s)
        if missing:
            waiting.sleep(waiting.poll_s)
    return files


def commit(attempt: Attempt, manifest: Manifest) -> list[str]:
    """Make an attempt the checkpoint of its step.

    Args:
        attempt: worker 0's.
        manifest: of all files of all workers.

    Returns:
        The names of files of other attempts, and of files that are of no use any more.

    Raises:
        DamagedError: a file is not there, or not whole.
        StorageError: storage refused it.
    """
    there = checked_sizes(attempt.folder, manifest)
    if DAMAGED_FILE in there:
        (attempt.folder / DAMAGED_FILE).delete()
    (attempt.folder / MANIFEST_FILE).write(manifest.encoded())
    return sorted(there.keys() - manifest.files.keys() - {MANIFEST_FILE, DAMAGED_FILE, PINNED_FILE})


def _read_part(attempt: Attempt, rank: int) -> dict[str, FileRecord]:
    location = attempt.folder / attempt.part_name(rank)
    values = parse_object(location.read(), location.uri)
    if not is_sealed(values):
        raise DamagedError(f"{location.uri}: is damaged (it does not match its own digest).")
    return file_records(values["files"])


def _not_in_time(attempt: Attempt, missing: set[int], limit_s: float) -> CheckpointError:
    who = ", ".join(map(str, sorted(missing)))
    return CheckpointError(
        f"{attempt.folder.uri}: no files of worker {who} came within {limit_s:g} s. "
        "See in the log whether it is still there, and check that storage.uri is a place that all machines share."
    )


# One attempt to save a checkpoint: who takes part, and what its files are called.


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


# What happens to a staged checkpoint beside training: its files are written, and worker 0 commits it.


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
    waiting: Polling = field(default_factory=Polling)

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


# One thing at a time, done beside the training loop.


Result = TypeVar("Result")


class Background(Generic[Result]):
    """Runs a job in a thread that does not keep the process alive; `wait` hands over what came of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: Future[Result] | None = None

    @property
    def idle(self) -> bool:
        """Whether no job is running."""
        return self._running is None or self._running.done()

    def start(self, job: Callable[[], Result]) -> None:
        """Start a job; the one before it must have been waited for."""
        if self._running is not None:
            raise RuntimeError("the job before was not waited for")
        self._running = future = Future[Result]()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def take(self) -> Result | None:
        """Return the result of a job that is done and did not fail, once; None otherwise."""
        if self._running is None or not self._running.done() or self._running.exception() is not None:
            return None
        return self.wait()

    def wait(self) -> Result | None:
        """Wait for the job and return its result, once; None when there is no job.

        Raises:
            Exception: what the job raised.
        """
        if self._running is None:
            return None
        future = self._running
        future.exception()
        self._running = None
        return future.result()
