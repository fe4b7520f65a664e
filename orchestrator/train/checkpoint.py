"""Checkpoints: the whole state of a run in one folder, committed by a manifest that is written last.

    step-00000120/
        model.safetensors       student, teacher, queues
        optimizer.safetensors   the optimiser's moments
        state.json              next step, digests, MLflow run
        manifest.json           sizes and digests of the files above

A folder without a manifest, or whose files do not match it, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.spec.errors import FuserayError
from orchestrator.storage.location import Location, StorageError
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder, json_bytes

FORMAT_VERSION = 1


class CheckpointError(FuserayError):
    """A checkpoint cannot be written, or does not fit the run."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run besides its tensors.

    Args:
        next_step: the first step that is not part of the checkpoint; the whole state of the data stream.
        seed: the run's seed.
        recipe_digest: digest of what determines the result.
        index_digest: digest of the training data's index.
        mlflow_run_id: where the run is tracked.
    """

    next_step: int
    seed: int
    recipe_digest: str
    index_digest: str
    mlflow_run_id: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the run's state, the model's tensors, the optimiser's tensors."""

    state: RunState
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_checkpoint(
    folder: Location, state: RunState, model: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Location:
    """Write a checkpoint; it counts only once its manifest, the last file, is there.

    Raises:
        CheckpointError: storage refused it, for example because it is full; nothing half-written is left.
    """
    target = folder / f"step-{state.next_step:08d}"
    files = {
        "model.safetensors": save(_portable(model)),
        "optimizer.safetensors": save(_portable(optimizer_tensors(optimizer))),
        "state.json": json_bytes(asdict(state)),
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "files": {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in files.items()},
    }
    try:
        for name, content in files.items():
            (target / name).write(content)
        (target / MANIFEST_FILE).write(json_bytes(manifest))
    except StorageError as error:
        target.delete()
        size = sum(len(content) for content in files.values()) / 1e6
        raise CheckpointError(
            f"the checkpoint of step {state.next_step} ({size:.0f} MB) could not be saved. {error}"
        ) from error
    return target


def load_newest(run: RunFolder, report: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
    """Return the newest checkpoint whose files match their digests, or None when there is none.

    Args:
        run: the run.
        report: told about each damaged checkpoint that is passed over.
    """
    for place in run.committed_checkpoints():
        try:
            return load_checkpoint(place)
        except (CheckpointError, StorageError) as error:
            report(f"{error} Trying the checkpoint before it.")
    return None


def load_checkpoint(place: Location) -> Checkpoint:
    """Load a checkpoint and verify every file.

    Raises:
        CheckpointError: a file is missing, damaged or of an unknown format version.
    """
    manifest = _parsed(place / MANIFEST_FILE, (place / MANIFEST_FILE).read())
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{place.uri}: format version {manifest.get('format_version')} is unknown (known: {FORMAT_VERSION})."
        )
    contents = {name: _verified(place / name, about) for name, about in manifest["files"].items()}
    state = RunState(**_parsed(place / "state.json", contents["state.json"]))
    return Checkpoint(state, load(contents["model.safetensors"]), load(contents["optimizer.safetensors"]))


def prune(run: RunFolder, keep: int) -> None:
    """Delete all but the newest checkpoints, and folders that were never committed."""
    kept = {place.name for place in run.committed_checkpoints()[:keep]}
    for place in run.checkpoints.list():
        if place.name.startswith("step-") and place.name not in kept:
            place.delete()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as flat tensors named `parameter/entry`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, entries in state.items() for name, value in entries.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition("/")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _verified(location: Location, about: Mapping[str, Any]) -> bytes:
    content = location.read()
    if len(content) != about["bytes"] or _digest(content) != about["sha256"]:
        raise CheckpointError(f"{location.uri}: is damaged (its digest does not match the manifest).")
    return content


def _parsed(location: Location, content: bytes) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{location.uri}: is damaged ({error}).") from error
    return values


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
