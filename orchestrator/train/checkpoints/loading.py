"""Loading checkpoints: every file is verified, and a damaged checkpoint is passed over for the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from torch import Tensor

from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.assembly import Assembly
from orchestrator.train.checkpoints.damage_mark import mark_damaged
from orchestrator.train.checkpoints.errors import DamagedError
from orchestrator.train.checkpoints.manifest import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    Manifest,
    has_vanished,
    read_manifest,
)
from orchestrator.train.checkpoints.reading import check_digest, checked_sizes, load_verified, read_verified
from orchestrator.train.checkpoints.state import RunState, parse_state
from orchestrator.train.checkpoints.tensor_file import read_pieces

Loaded = TypeVar("Loaded")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the run's state, the model's tensors, the optimiser's tensors."""

    state: RunState
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class StoredState:
    """The state of a run, and the checkpoint that it is from."""

    place: Location
    state: RunState


def load_newest(run: RunFolder, report: Report = lambda _: None) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None when there is none. Damaged ones are marked and passed over.

    Args:
        run: the run.
        report: told about each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: a checkpoint is of an unknown format version.
        StorageError: the store is failing; nothing is known about its checkpoints.
    """
    return _newest(run, load_checkpoint, report)


def newest_state(run: RunFolder, report: Report = lambda _: None) -> StoredState | None:
    """Return the state of the newest checkpoint whose files are all there; the tensors are not read.

    Otherwise as `load_newest`.
    """
    return _newest(run, lambda place: StoredState(place, load_state(place)), report)


def load_checkpoint(place: Location) -> Checkpoint:
    """Load a checkpoint and verify every file.

    Raises:
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of an unknown format version.
        StorageError: the store is failing.
    """
    manifest = _checked_manifest(place)
    state = _state(place, manifest)
    for name, record in manifest.files.items():
        if record.content not in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE):
            check_digest(place / name, record)
    return Checkpoint(state, load_tensors(place, manifest, MODEL_FILE), load_tensors(place, manifest, OPTIMIZER_FILE))


def load_state(place: Location) -> RunState:
    """Load the state of a checkpoint without its tensors, whose presence alone is checked.

    Raises:
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of an unknown format version.
        StorageError: the store is failing.
    """
    return _state(place, _checked_manifest(place))


def load_tensors(place: Location, manifest: Manifest, content: str) -> dict[str, Tensor]:
    """Verify and load the tensors of a content, such as `MODEL_FILE`; none when the checkpoint does not have it.

    Files of this machine are mapped into memory; whole tensors in them are not copied.

    Raises:
        DamagedError: a file is missing or damaged.
        StorageError: the store is failing.
    """
    assembly = Assembly(place.uri)
    for name, record in manifest.parts(content).items():
        location = place / name
        assembly.add(read_pieces(load_verified(location, record), location.uri), lasting=location.is_local)
    return assembly.tensors()


def load_extra(place: Location, name: str) -> bytes | None:
    """Return a small file that was saved along, verified; None when there is none of that name.

    Raises:
        DamagedError: the file is missing or damaged.
        StorageError: the store is failing.
    """
    for file, record in read_manifest(place).parts(name).items():
        return read_verified(place / file, record)
    return None


def _newest(run: RunFolder, load: Callable[[Location], Loaded], report: Report) -> Loaded | None:
    damaged = False
    for place in run.committed_checkpoints():
        try:
            return load(place)
        except DamagedError as error:
            damaged = True
            _pass_over(place, error, report)
        except StorageError:
            if not has_vanished(place):
                raise
    if damaged:
        report(f"{run.checkpoints.uri}: no whole checkpoint is left.")
    return None


def _pass_over(place: Location, error: DamagedError, report: Report) -> None:
    report(f"{error} Trying the checkpoint before it.")
    try:
        mark_damaged(place, str(error), datetime.now(UTC))
    except StorageError as refused:
        report(f"The damaged checkpoint could not be marked, so it will be read again next time. {refused}")


def _checked_manifest(place: Location) -> Manifest:
    manifest = read_manifest(place)
    checked_sizes(place, manifest)
    return manifest


def _state(place: Location, manifest: Manifest) -> RunState:
    for name, record in manifest.parts(STATE_FILE).items():
        return parse_state(read_verified(place / name, record), (place / name).uri)
    raise DamagedError(f"{place.uri}: is damaged (its manifest names no state).")
