"""Loading checkpoints: every file is verified, and a damaged checkpoint is passed over for the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import torch
from torch import Tensor, nn

from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.manifest import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    CheckpointError,
    DamagedError,
    Manifest,
    RunState,
    has_vanished,
    parse_state,
    read_manifest,
)
from orchestrator.train.checkpoints.read import check_digest, checked_sizes, load_verified, mark_damaged, read_verified
from orchestrator.train.checkpoints.tensors import Assembly, read_pieces

Loaded = TypeVar("Loaded")
Log = Callable[[str], None]


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


def load_newest(run: RunFolder, log: Log = lambda _: None) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None when there is none. Damaged ones are marked and passed over.

    Args:
        run: the run.
        log: told about each damaged checkpoint that is passed over.

    Raises:
        CheckpointError: a checkpoint is of an unknown format version.
        StorageError: the store is failing; nothing is known about its checkpoints.
    """
    return _newest(run, load_checkpoint, log)


def newest_state(run: RunFolder, log: Log = lambda _: None) -> StoredState | None:
    """Return the state of the newest checkpoint whose files are all there; the tensors are not read.

    Otherwise as `load_newest`.
    """
    return _newest(run, lambda place: StoredState(place, load_state(place)), log)


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


def _newest(run: RunFolder, load: Callable[[Location], Loaded], log: Log) -> Loaded | None:
    damaged = False
    for place in run.committed_checkpoints():
        try:
            return load(place)
        except DamagedError as error:
            damaged = True
            _pass_over(place, error, log)
        except StorageError:
            if not has_vanished(place):
                raise
    if damaged:
        log(f"{run.checkpoints.uri}: no whole checkpoint is left.")
    return None


def _pass_over(place: Location, error: DamagedError, log: Log) -> None:
    log(f"{error} Trying the checkpoint before it.")
    try:
        mark_damaged(place, str(error), datetime.now(UTC))
    except StorageError as refused:
        log(f"The damaged checkpoint could not be marked, so it will be read again next time. {refused}")


def _checked_manifest(place: Location) -> Manifest:
    manifest = read_manifest(place)
    checked_sizes(place, manifest)
    return manifest


def _state(place: Location, manifest: Manifest) -> RunState:
    for name, record in manifest.parts(STATE_FILE).items():
        return parse_state(read_verified(place / name, record), (place / name).uri)
    raise DamagedError(f"{place.uri}: is damaged (its manifest names no state).")


# The optimiser's state as named tensors, and back.


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as flat tensors named `entry/parameter`, for example `exp_avg/encoder.weight`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{entry}/{names[parameter]}": value
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; the parameters may be grouped otherwise.

    Raises:
        CheckpointError: the state is of a parameter that the optimiser does not train.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    trained = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    index_of = {name: index for index, name in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        entry, _, name = key.partition("/")
        if name not in index_of:
            raise CheckpointError(f"the checkpoint has optimiser state of {name}, which this run does not train.")
        state.setdefault(index_of[name], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
