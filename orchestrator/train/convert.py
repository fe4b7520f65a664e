"""Imports checkpoints of other projects, and exports checkpoints as models or in another project's layout.

Both write to a new folder, completely or not at all.
"""

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

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import find_workload
from orchestrator.storage.local_files import create_atomically
from orchestrator.storage.location import Location, locate
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import MANIFEST_FILE, RunError, RunFolder, find_run
from orchestrator.train.checkpoints.load import Checkpoint, load_checkpoint, load_tensors, model_config
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
from orchestrator.train.checkpoints.tensors import check_finite
from orchestrator.train.run_tools import run_recipe
from workloads.contract import CheckpointFormat, ForeignCheckpoint, ImportReport, KeyedRandom


def check_free(target: Location) -> None:
    """Refuse to write to a target that exists.

    Raises:
        ConfigError: the folder or file exists and is not empty.
    """
    if target.size() is not None or target.list():
        raise ConfigError(f"{target.uri}: exists already; name a folder that does not, or remove that one.")


def write_import(checkpoint: ForeignCheckpoint, target: Location, format_name: str, source: str) -> None:
    """Write an imported checkpoint to a new folder.

    Args:
        checkpoint: what was read.
        target: the folder.
        format_name: its original format.
        source: the file it was read from.

    Raises:
        CheckpointError: a tensor is not finite.
        StorageError: it cannot be written; nothing is left behind.
    """
    check_finite(checkpoint.state, source, "import another file")
    without = "import the model's tensors alone, torch.save(torch.load(FILE)['model'], NEW)"
    check_finite(checkpoint.optimizer_state, f"{source}, optimiser state", without)
    with _atomic_folder(target) as draft:
        tensors = {
            MODEL_FILE: checkpoint.state,
            OPTIMIZER_FILE: checkpoint.optimizer_state,
            ASIDE_FILE: checkpoint.extra_tensors,
        }
        for name, content in tensors.items():
            if content:
                save_file(_without_shared_memory(content), draft / name, metadata={"format": "pt"})
        (draft / STATE_FILE).write_bytes(_state(checkpoint).encoded())
        record = {"format": format_name, "file": source, "report": asdict(checkpoint.report)}
        (draft / IMPORT_FILE).write_text(json.dumps({**record, "metadata": checkpoint.metadata}, indent=1))
        files = {path.name: _file_record(path) for path in sorted(draft.iterdir())}
        saved = datetime.now(UTC).isoformat(timespec="seconds")
        (draft / MANIFEST_FILE).write_bytes(Manifest(files, saved=saved).encoded())


def is_import(folder: Location) -> bool:
    """Return whether a folder is an imported checkpoint."""
    return (folder / IMPORT_FILE).size() is not None and (folder / MANIFEST_FILE).size() is not None


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


def _file_record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.name, path.stat().st_size, digest)


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors that share no memory, which the file format cannot express."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.contiguous().clone() if pointer in seen else tensor.contiguous()
        seen.add(pointer)
    return separate


@contextmanager
def _atomic_folder(target: Location) -> Iterator[Path]:
    """Yield a local folder whose content becomes that of the target when the body succeeds."""
    if target.is_local:
        with create_atomically(Path(target.path)) as draft:
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
            file = target / name
            fs.copy_files(
                str(folder / name),
                file.path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=file.filesystem,
            )
    except OSError as error:
        target.delete()
        raise StorageError(f"{target.uri}: cannot be written ({error}).") from error


@dataclass(frozen=True, slots=True)
class ExportSource:
    """The checkpoint that is exported.

    Args:
        folder: the checkpoint's folder.
        run: the run it belongs to; None for an imported checkpoint.
    """

    folder: Location
    run: RunFolder | None


def find_source(name: str, storage: str, endpoint: str | None = None, step: int | None = None) -> ExportSource:
    """Return the checkpoint that a name or path refers to: of a run, or an imported one.

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
        return ExportSource(direct, None)
    run = find_run(name, storage, endpoint)
    checkpoints = {folder.name: folder for folder in run.committed_checkpoints()}
    if not checkpoints:
        raise RunError(f"{run.checkpoints.uri}: holds no checkpoint yet; let the run reach checkpoint.every_steps.")
    chosen = next(iter(checkpoints)) if step is None else f"step-{step:08d}"
    if chosen not in checkpoints:
        raise RunError(
            f"{run.checkpoints.uri}: has no checkpoint of step {step}; there are {', '.join(sorted(checkpoints))}."
        )
    return ExportSource(checkpoints[chosen], run)


def export_folder(source: ExportSource, target: Path) -> None:
    """Write the workload's own export (for albef: safetensors, config, tokenizer) into a new folder.

    Raises:
        ConfigError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the workload cannot export it.
    """
    with create_atomically(target) as draft:
        checkpoint = load_checkpoint(source.folder)
        workload = find_workload(checkpoint.state.workload).create(model_config(checkpoint.state))
        model = workload.build(torch.device("cpu"), KeyedRandom(("export",)), pretrained=False)
        model.load_state_dict(dict(checkpoint.model))
        workload.export(draft)


def export_format(source: ExportSource, target: Path, format_: CheckpointFormat, flat: bool) -> None:
    """Write a checkpoint in another project's layout.

    Raises:
        ConfigError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the format cannot hold it.
    """
    with create_atomically(target) as draft:
        checkpoint = load_checkpoint(source.folder)
        foreign = _from_import(checkpoint, source.folder) if source.run is None else _from_run(checkpoint, source.run)
        format_.write(foreign, draft, flat)


def _from_run(checkpoint: Checkpoint, run: RunFolder) -> ForeignCheckpoint:
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint.state),
        state=checkpoint.model,
        optimizer_state=checkpoint.optimizer,
        epochs=checkpoint.state.epochs,
        hyperparameters=run_recipe(run).recipe.optimizer.model_dump(mode="json"),
    )


def _from_import(checkpoint: Checkpoint, folder: Location) -> ForeignCheckpoint:
    record: dict[str, Any] = json.loads((folder / IMPORT_FILE).read())
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint.state),
        state=checkpoint.model,
        optimizer_state=checkpoint.optimizer,
        extra_tensors=load_tensors(folder, read_manifest(folder), ASIDE_FILE),
        epochs=checkpoint.state.epochs,
        metadata=record["metadata"],
        report=ImportReport(**{name: tuple(values) for name, values in record["report"].items()}),
    )
