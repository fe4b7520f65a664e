"""Checkpoints of other projects as checkpoints of ours: written to a new folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pyarrow import fs
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.config.errors import SpecError
from orchestrator.config.loading import find_workload
from orchestrator.storage.local_files import draft_of
from orchestrator.storage.location import Location, locate
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import MANIFEST_FILE, RunError, RunFolder, find_run
from orchestrator.train.checkpoints.load import Checkpoint, load_checkpoint, load_tensors
from orchestrator.train.checkpoints.manifest import (
    ASIDE_FILE,
    IMPORT_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    FileRecord,
    Manifest,
    RunState,
    read_manifest,
)
from orchestrator.train.run_tools import model_config, run_recipe
from workloads.contract import CheckpointFormat, ForeignCheckpoint, ImportReport, KeyedRandom


def check_free(target: Location) -> None:
    """Refuse to write where something is.

    Raises:
        SpecError: the folder or file exists and is not empty.
    """
    if target.size() is not None or target.list():
        raise SpecError(f"{target.uri}: exists already; name a folder that does not, or remove that one.")


def write_import(checkpoint: ForeignCheckpoint, target: Location, format_name: str, source: str) -> None:
    """Write an imported checkpoint to a new folder.

    Args:
        checkpoint: what was read.
        target: the folder.
        format_name: the format it was in.
        source: the file it was read from.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    with _draft_for(target) as draft:
        tensors = {
            MODEL_FILE: checkpoint.state,
            OPTIMIZER_FILE: checkpoint.optimizer_state,
            ASIDE_FILE: checkpoint.extra_tensors,
        }
        for name, content in tensors.items():
            if content:
                save_file(_separate(content), draft / name, metadata={"format": "pt"})
        (draft / STATE_FILE).write_bytes(_state(checkpoint).encoded())
        about = {"format": format_name, "file": source, "report": asdict(checkpoint.report)}
        (draft / IMPORT_FILE).write_text(json.dumps({**about, "metadata": checkpoint.metadata}, indent=1))
        files = {path.name: _record(path) for path in sorted(draft.iterdir())}
        saved = datetime.now(UTC).isoformat(timespec="seconds")
        (draft / MANIFEST_FILE).write_bytes(Manifest(files, saved=saved).encoded())


def is_import(place: Location) -> bool:
    """Return whether a folder is an imported checkpoint."""
    return (place / IMPORT_FILE).size() is not None and (place / MANIFEST_FILE).size() is not None


def _state(checkpoint: ForeignCheckpoint) -> RunState:
    return RunState(
        next_step=0,
        seed=0,
        recipe_digest="",
        index_digest="",
        mlflow_run_id="",
        workload=checkpoint.workload,
        config=checkpoint.config.model_dump(mode="json"),
        epochs=checkpoint.epochs,
    )


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.name, path.stat().st_size, digest)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors that share no memory, which the file format cannot express."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.contiguous().clone() if pointer in seen else tensor.contiguous()
        seen.add(pointer)
    return separate


@contextmanager
def _draft_for(target: Location) -> Iterator[Path]:
    """Lend a local folder whose content becomes that of the target when all went well."""
    if target.is_local:
        with draft_of(Path(target.path)) as draft:
            draft.mkdir()
            yield draft
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
        _upload(Path(folder), target)


def _upload(folder: Path, target: Location) -> None:
    """Copy the files of a folder, the manifest last."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: name == MANIFEST_FILE)
    try:
        for name in names:
            place = target / name
            fs.copy_files(
                str(folder / name),
                place.path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=place.filesystem,
            )
    except OSError as error:
        target.delete()
        raise StorageError(f"{target.uri}: cannot be written ({error}).") from error


# Models out: a run's or an imported checkpoint, as a folder to load without Ray or in another project's layout.


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Args:
        place: the checkpoint's folder.
        run: the run it belongs to; None for an imported checkpoint.
    """

    place: Location
    run: RunFolder | None


def find_source(name: str, storage: str, endpoint: str | None = None, step: int | None = None) -> Source:
    """Return the checkpoint that a user means: of a run, or an imported one.

    Args:
        name: a run's name below the storage, or the path or URI of a run's folder or of an imported checkpoint.
        storage: where runs are.
        endpoint: address of an S3-compatible server.
        step: how many steps the run's checkpoint holds; None for the newest.

    Raises:
        RunError: there is no such run or checkpoint.
    """
    direct = locate(name, endpoint)
    if is_import(direct):
        return Source(direct, None)
    run = find_run(name, storage, endpoint)
    found = {place.name: place for place in run.committed_checkpoints()}
    if not found:
        raise RunError(f"{run.checkpoints.uri}: holds no checkpoint yet; let the run reach checkpoint.every_steps.")
    wanted = next(iter(found)) if step is None else f"step-{step:08d}"
    if wanted not in found:
        raise RunError(
            f"{run.checkpoints.uri}: has no checkpoint of step {step}; there are {', '.join(sorted(found))}."
        )
    return Source(found[wanted], run)


def export_folder(source: Source, target: Path) -> None:
    """Write the workload's own export (for albef: safetensors, config, tokenizer) into a new folder.

    Raises:
        SpecError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the workload cannot export it.
    """
    with draft_of(target) as draft:
        checkpoint = load_checkpoint(source.place)
        workload = find_workload(checkpoint.state.workload).create(model_config(checkpoint))
        model = workload.build(torch.device("cpu"), KeyedRandom(("export",)), pretrained=False)
        model.load_state_dict(dict(checkpoint.model))
        workload.export(draft)


def export_format(source: Source, target: Path, format_: CheckpointFormat, flat: bool) -> None:
    """Write a checkpoint in another project's layout.

    Raises:
        SpecError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the format cannot hold it.
    """
    with draft_of(target) as draft:
        checkpoint = load_checkpoint(source.place)
        foreign = _imported(checkpoint, source.place) if source.run is None else _native(checkpoint, source.run)
        format_.write(foreign, draft, flat)


def _native(checkpoint: Checkpoint, run: RunFolder) -> ForeignCheckpoint:
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint),
        state=checkpoint.model,
        optimizer_state=checkpoint.optimizer,
        epochs=checkpoint.state.epochs,
        hyperparameters=run_recipe(run).recipe.optimizer.model_dump(mode="json"),
    )


def _imported(checkpoint: Checkpoint, place: Location) -> ForeignCheckpoint:
    about: dict[str, Any] = json.loads((place / IMPORT_FILE).read())
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint),
        state=checkpoint.model,
        optimizer_state=checkpoint.optimizer,
        extra_tensors=load_tensors(place, read_manifest(place), ASIDE_FILE),
        epochs=checkpoint.state.epochs,
        metadata=about["metadata"],
        report=ImportReport(**{name: tuple(values) for name, values in about["report"].items()}),
    )
