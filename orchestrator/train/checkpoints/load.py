"""Loads checkpoints: verifies every file and falls back to the checkpoint before a damaged one; restores optimisers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from orchestrator.config.loading import find_workload
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
from workloads.contract import Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

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
    """The state of a run, and the folder of the checkpoint that holds it."""

    folder: Location
    state: RunState


def load_newest(run: RunFolder, log: Log = lambda _: None) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None when there is none. Damaged ones are marked and skipped.

    Args:
        run: the run.
        log: called with a message about each damaged checkpoint.

    Raises:
        CheckpointError: a checkpoint is of another format version.
        StorageError: the store is failing; the state of its checkpoints is unknown.
    """
    return with_newest(run, load_checkpoint, log)


def newest_state(run: RunFolder, log: Log = lambda _: None) -> StoredState | None:
    """Return the state of the newest checkpoint with no missing file; its tensors are not read.

    Otherwise as `load_newest`.
    """
    return with_newest(run, lambda folder: StoredState(folder, load_state(folder)), log)


def load_checkpoint(folder: Location) -> Checkpoint:
    """Load a checkpoint and verify every file.

    Raises:
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of another format version.
        StorageError: the store is failing.
    """
    manifest = _checked_manifest(folder)
    state = _state(folder, manifest)
    for name, record in manifest.files.items():
        if record.content not in (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE):
            check_digest(folder / name, record)
    return Checkpoint(state, load_tensors(folder, manifest, MODEL_FILE), load_tensors(folder, manifest, OPTIMIZER_FILE))


def load_model(folder: Location) -> Checkpoint:
    """Load a checkpoint without its optimiser; its other files are verified.

    Raises:
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of another format version.
        StorageError: the store is failing.
    """
    manifest = _checked_manifest(folder)
    return Checkpoint(_state(folder, manifest), load_tensors(folder, manifest, MODEL_FILE), {})


def load_state(folder: Location) -> RunState:
    """Load the state of a checkpoint without its tensors, of which only the file sizes are checked.

    Raises:
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of another format version.
        StorageError: the store is failing.
    """
    return _state(folder, _checked_manifest(folder))


def model_config(state: RunState) -> Section:
    """Return the workload's part of the recipe that a checkpoint was trained with."""
    return find_workload(state.workload).config_type.model_validate_json(json.dumps(state.config))


def load_tensors(folder: Location, manifest: Manifest, content: str) -> dict[str, Tensor]:
    """Verify and load the tensors of a content, such as `MODEL_FILE`; none when the checkpoint does not have it.

    Local files are memory-mapped; whole tensors in them are not copied.

    Raises:
        DamagedError: a file is missing or damaged.
        StorageError: the store is failing.
    """
    from orchestrator.train.checkpoints.tensors import TensorAssembler, read_shards  # imports torch

    assembler = TensorAssembler(folder.uri)
    for name, record in manifest.parts(content).items():
        location = folder / name
        assembler.add(read_shards(load_verified(location, record), location.uri), mapped=location.is_local)
    return assembler.tensors()


def with_newest(run: RunFolder, load: Callable[[Location], Loaded], log: Log = lambda _: None) -> Loaded | None:
    """Return what a function makes of the newest checkpoint that it does not find damaged, None when there is none.

    Args:
        run: the run.
        load: raises `DamagedError` for a damaged checkpoint, which is marked.
        log: called with a message about each damaged checkpoint.

    Raises:
        StorageError: the store is failing.
    """
    damaged = False
    for folder in run.committed_checkpoints():
        try:
            return load(folder)
        except DamagedError as error:
            damaged = True
            _skip_damaged(folder, error, log)
        except StorageError:
            if not has_vanished(folder):
                raise
    if damaged:
        log(f"{run.checkpoints.uri}: no whole checkpoint is left.")
    return None


def _skip_damaged(folder: Location, error: DamagedError, log: Log) -> None:
    log(f"{error} Trying the checkpoint before it.")
    try:
        mark_damaged(folder, str(error), datetime.now(UTC))
    except StorageError as failure:
        log(f"The damaged checkpoint could not be marked, so it will be read again next time. {failure}")


def _checked_manifest(folder: Location) -> Manifest:
    manifest = read_manifest(folder)
    checked_sizes(folder, manifest)
    return manifest


def _state(folder: Location, manifest: Manifest) -> RunState:
    for name, record in manifest.parts(STATE_FILE).items():
        return parse_state(read_verified(folder / name, record), (folder / name).uri)
    raise DamagedError(f"{folder.uri}: is damaged (its manifest names no state).")


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as flat tensors named `entry/parameter`, for example `exp_avg/encoder.weight`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{entry}/{names[parameter]}": value
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; the parameter groups may differ, and what is locked needs no state.

    Raises:
        CheckpointError: the state is of a parameter that the optimiser does not train.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    locked = {name for parameter, name in names.items() if not parameter.requires_grad}
    trained = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    index_of = {name: index for index, name in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        entry, _, name = key.partition("/")
        if name in locked:
            continue
        if name not in index_of:
            raise CheckpointError(f"the checkpoint has optimiser state of {name}, which this run does not train.")
        state.setdefault(index_of[name], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
