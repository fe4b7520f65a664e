"""Checkpoints: the whole state of a run in one folder, committed by a manifest that is written last.

    step-00000120/
        model.safetensors       student, teacher, queues
        optimizer.safetensors   the optimiser's moments, by parameter name; absent when there are none
        state.json              next step, digests, MLflow run, workload and its configuration
        manifest.json           sizes and digests of the files above

A folder without a manifest, or whose files do not match it, is not a checkpoint. One that was imported from another
project's layout also has `import.json` (where it came from, what became of its tensors) and, for tensors that the
model has no place for, `aside.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from orchestrator.spec.errors import FuserayError
from orchestrator.storage.location import Location, StorageError
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder, json_bytes

FORMAT_VERSION = 2
MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
IMPORT_FILE, ASIDE_FILE = "import.json", "aside.safetensors"


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
        workload: what was trained.
        config: the workload's part of the recipe, as plain JSON values.
        epochs: passes over the training data so far; None when unknown.
        stream: what `StreamState.plain` returned; None when the checkpoint is from elsewhere.
    """

    next_step: int
    seed: int
    recipe_digest: str
    index_digest: str
    mlflow_run_id: str
    workload: str
    config: Mapping[str, Any]
    epochs: float | None
    stream: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the run's state, the model's tensors, the optimiser's tensors."""

    state: RunState
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_checkpoint(
    folder: Location, state: RunState, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]
) -> Location:
    """Write a checkpoint; it counts only once its manifest, the last file, is there.

    Args:
        folder: where the run's checkpoints are.
        state: the run's state.
        model: the model's tensors.
        optimizer: what `optimizer_tensors` returned.

    Raises:
        CheckpointError: storage refused it, for example because it is full; nothing half-written is left.
    """
    target = folder / f"step-{state.next_step:08d}"
    files = {
        MODEL_FILE: save(_portable(model)),
        **({OPTIMIZER_FILE: save(_portable(optimizer))} if optimizer else {}),
        STATE_FILE: json_bytes(asdict(state)),
    }
    manifest = manifest_bytes({name: (len(content), _digest(content)) for name, content in files.items()})
    try:
        for name, content in files.items():
            (target / name).write(content)
        (target / MANIFEST_FILE).write(manifest)
    except StorageError as error:
        target.delete()
        size = sum(len(content) for content in files.values()) / 1e6
        raise CheckpointError(
            f"the checkpoint of step {state.next_step} ({size:.0f} MB) could not be saved. {error}"
        ) from error
    return target


def manifest_bytes(files: Mapping[str, tuple[int, str]]) -> bytes:
    """Return the manifest of files, given their sizes in bytes and SHA-256 digests."""
    about = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
    return json_bytes({"format_version": FORMAT_VERSION, "files": about})


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
    files = checkpoint_files(place)
    state = _state(place, files)
    optimizer = load_tensors(place / OPTIMIZER_FILE, files[OPTIMIZER_FILE]) if OPTIMIZER_FILE in files else {}
    return Checkpoint(state, load_tensors(place / MODEL_FILE, files[MODEL_FILE]), optimizer)


def load_state(place: Location) -> RunState:
    """Load the state of a checkpoint without its tensors.

    Raises:
        CheckpointError: a file is missing, damaged or of an unknown format version.
    """
    return _state(place, checkpoint_files(place))


def checkpoint_files(place: Location) -> Mapping[str, Mapping[str, Any]]:
    """Return the names of a committed checkpoint's files, with their sizes and digests.

    Raises:
        CheckpointError: there is no whole manifest, or it is of an unknown format version.
    """
    manifest = _parsed(place / MANIFEST_FILE, (place / MANIFEST_FILE).read())
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{place.uri}: format version {manifest.get('format_version')} is unknown (known: {FORMAT_VERSION})."
        )
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    return files


def load_tensors(location: Location, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Verify and load a file of tensors; a local one is mapped into memory, not copied.

    Args:
        location: the file.
        about: what the manifest says of it.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not location.is_local:
        return load(_verified(location, about))
    try:
        digest = file_digest(Path(location.path))
    except OSError as error:
        raise CheckpointError(f"{location.uri}: cannot be read ({error.strerror}).") from error
    if digest != about["sha256"]:
        raise _damaged(location)
    return load_file(location.path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune(run: RunFolder, keep: int) -> None:
    """Delete all but the newest checkpoints, and folders that were never committed."""
    kept = {place.name for place in run.committed_checkpoints()[:keep]}
    for place in run.checkpoints.list():
        if place.name.startswith("step-") and place.name not in kept:
            place.delete()


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


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _state(place: Location, files: Mapping[str, Mapping[str, Any]]) -> RunState:
    location = place / STATE_FILE
    try:
        return RunState(**_parsed(location, _verified(location, files[STATE_FILE])))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{location.uri}: is damaged ({error}).") from error


def _verified(location: Location, about: Mapping[str, Any]) -> bytes:
    content = location.read()
    if _digest(content) != about["sha256"]:
        raise _damaged(location)
    return content


def _damaged(location: Location) -> CheckpointError:
    return CheckpointError(f"{location.uri}: is damaged (its digest does not match the manifest).")


def _parsed(location: Location, content: bytes) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{location.uri}: is damaged ({error}).") from error
    return values


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
