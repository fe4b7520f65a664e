"""Making a checkpoint count: worker 0 waits until all workers have written their files, then writes the manifest.

The workers do not talk to each other for that, which training's own messages could get in the way of. Each says with a
small file beside the others that it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from orchestrator.storage.run_folder import DAMAGED_FILE, MANIFEST_FILE, PINNED_FILE
from orchestrator.train.checkpoints.attempt import Attempt
from orchestrator.train.checkpoints.errors import CheckpointError, DamagedError
from orchestrator.train.checkpoints.manifest import FileRecord, Manifest, file_records
from orchestrator.train.checkpoints.reading import checked_sizes
from orchestrator.train.checkpoints.sealed import is_sealed, parse_object, seal


@dataclass(frozen=True, slots=True)
class Waiting:
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


def await_parts(attempt: Attempt, waiting: Waiting) -> dict[str, FileRecord]:
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
