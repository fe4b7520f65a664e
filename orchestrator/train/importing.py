"""Checkpoints of other projects as checkpoints of ours: written to a new folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import fs
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.config.errors import SpecError
from orchestrator.storage.local_files import draft_of
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import MANIFEST_FILE
from orchestrator.train.checkpoints.manifest import (
    ASIDE_FILE,
    IMPORT_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    FileRecord,
    Manifest,
)
from orchestrator.train.checkpoints.state import RunState
from workloads.contract import ForeignCheckpoint


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
        tensors = {MODEL_FILE: checkpoint.state, OPTIMIZER_FILE: checkpoint.moments, ASIDE_FILE: checkpoint.aside}
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
