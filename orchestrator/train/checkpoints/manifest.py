"""The manifest of a checkpoint, written last: its files with sizes and digests. Also the run state and the errors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import MANIFEST_FILE, json_bytes

FORMAT_VERSION = 3
MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
IMPORT_FILE, ASIDE_FILE = "import.json", "aside.safetensors"


class CheckpointError(FuserayError):
    """A checkpoint cannot be written or read, or does not fit the run."""


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing or has changed. Retrying does not help."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's entry in the manifest.

    Args:
        content: what the file is, or is a part of: `MODEL_FILE`, `STATE_FILE` ...
        size_bytes: its size.
        sha256: its digest, in hexadecimal.
    """

    content: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a checkpoint and what is known of it without reading them.

    Args:
        files: by name.
        metrics: of the step after which it was saved; non-finite ones are left out.
        saved: ISO 8601 time; empty when unknown.
    """

    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)
    saved: str = ""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(record.size_bytes for record in self.files.values())

    def parts(self, content: str) -> dict[str, FileRecord]:
        """Return the files that make up a content, by name; none when the checkpoint has no such content."""
        return {name: record for name, record in sorted(self.files.items()) if record.content == content}

    def encoded(self) -> bytes:
        """Return the stored form of the manifest."""
        return add_checksum(
            {
                "format_version": FORMAT_VERSION,
                "saved": self.saved,
                "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
                "files": {name: asdict(record) for name, record in self.files.items()},
            }
        )


def read_manifest(folder: Location) -> Manifest:
    """Return the manifest of a committed checkpoint.

    Raises:
        DamagedError: it is damaged.
        CheckpointError: it is of another format version.
        StorageError: it cannot be read.
    """
    location = folder / MANIFEST_FILE
    return parse_manifest(location.read(), location.uri)


def has_vanished(folder: Location) -> bool:
    """Return whether a committed checkpoint was pruned in the meantime."""
    return (folder / MANIFEST_FILE).size() is None


def parse_manifest(content: bytes, uri: str) -> Manifest:
    """Return a manifest from its stored form.

    Raises:
        DamagedError: it is damaged.
        CheckpointError: it is of another format version.
    """
    values = parse_object(content, uri)
    version = values.get("format_version")
    if not has_valid_checksum(values) and (version == FORMAT_VERSION or CHECKSUM in values):
        raise DamagedError(f"{uri}: is damaged (it does not match its own digest).")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{uri}: format version {version} is not supported (supported: {FORMAT_VERSION}); use the version of "
            "Fuseray that wrote it."
        )
    try:
        return Manifest(file_records(values["files"]), values["metrics"], values["saved"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{uri}: is damaged ({type(error).__name__}: {error}).") from error


def file_records(values: Mapping[str, Mapping[str, Any]]) -> dict[str, FileRecord]:
    """Return the records of files from their plain JSON form."""
    return {name: FileRecord(**record) for name, record in values.items()}


CHECKSUM = "sha256"
"""The key of a JSON object that holds the digest of the others, in files whose digest no other file has."""


def add_checksum(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON with their digest under the key `CHECKSUM`."""
    return json_bytes({**values, CHECKSUM: _digest(values)})


def has_valid_checksum(values: Mapping[str, Any]) -> bool:
    """Return whether values match the digest that `add_checksum` added."""
    return bool(values.get(CHECKSUM) == _digest({key: value for key, value in values.items() if key != CHECKSUM}))


def parse_object(content: bytes, uri: str) -> dict[str, Any]:
    """Return the values of a JSON object.

    Raises:
        DamagedError: it is not a JSON object.
    """
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DamagedError(f"{uri}: is damaged ({error}).") from error
    if not isinstance(values, dict):
        raise DamagedError(f"{uri}: is damaged (it holds no JSON object).")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(values)).hexdigest()


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run besides its tensors.

    Args:
        next_step: the first step after the checkpoint; it determines the state of the data stream.
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

    def encoded(self) -> bytes:
        """Return the stored form of the state."""
        return json_bytes(asdict(self))


def parse_state(content: bytes, uri: str) -> RunState:
    """Return a state from its stored form.

    Raises:
        DamagedError: it is damaged.
    """
    try:
        return RunState(**parse_object(content, uri))
    except TypeError as error:
        raise DamagedError(f"{uri}: is damaged ({error}).") from error
