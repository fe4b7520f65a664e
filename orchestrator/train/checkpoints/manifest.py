"""The manifest: which files make up a checkpoint, with sizes and digests; written last."""

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
READABLE_VERSIONS = (2, FORMAT_VERSION)

MODEL_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.safetensors", "state.json"
IMPORT_FILE, ASIDE_FILE = "import.json", "aside.safetensors"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the manifest says of a file.

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
        metrics: figures of the step after which it was saved; those that are not finite are left out.
        saved: ISO 8601 time; empty when unknown.
        version: of the format.
    """

    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)
    saved: str = ""
    version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(record.size_bytes for record in self.files.values())

    def parts(self, content: str) -> dict[str, FileRecord]:
        """Return the files that make up a content, by name; none when the checkpoint has no such content."""
        return {name: record for name, record in sorted(self.files.items()) if record.content == content}

    def encoded(self) -> bytes:
        """Return the manifest as it is stored, in the newest version of the format."""
        return seal(
            {
                "format_version": FORMAT_VERSION,
                "saved": self.saved,
                "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
                "files": {name: asdict(record) for name, record in self.files.items()},
            }
        )


def read_manifest(place: Location) -> Manifest:
    """Return the manifest of a committed checkpoint.

    Raises:
        DamagedError: it is damaged.
        CheckpointError: it is of an unknown format version.
        StorageError: it cannot be read.
    """
    location = place / MANIFEST_FILE
    return parse_manifest(location.read(), location.uri)


def has_vanished(place: Location) -> bool:
    """Return whether a checkpoint that was committed is none any more, because it was pruned in the meantime."""
    return (place / MANIFEST_FILE).size() is None


def parse_manifest(content: bytes, uri: str) -> Manifest:
    """Return a manifest of any readable version.

    Raises:
        DamagedError: it is damaged.
        CheckpointError: it is of an unknown format version.
    """
    values = parse_object(content, uri)
    version = values.get("format_version")
    if version != 2 and not is_sealed(values) and (version == FORMAT_VERSION or SEAL in values):
        raise DamagedError(f"{uri}: is damaged (it does not match its own digest).")
    if version not in READABLE_VERSIONS:
        known = " and ".join(map(str, READABLE_VERSIONS))
        raise CheckpointError(
            f"{uri}: format version {version} is unknown (known: {known}); use the version of Fuseray that wrote it."
        )
    try:
        return _version_2(values) if version == 2 else _version_3(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{uri}: is damaged ({type(error).__name__}: {error}).") from error


def file_records(values: Mapping[str, Mapping[str, Any]]) -> dict[str, FileRecord]:
    """Return the records of files from their plain JSON form."""
    return {name: FileRecord(**about) for name, about in values.items()}


def _version_2(values: Mapping[str, Any]) -> Manifest:
    """Read the format before this one: one worker wrote everything, and a file was called after its content."""
    files = {name: FileRecord(name, about["bytes"], about["sha256"]) for name, about in values["files"].items()}
    return Manifest(files, version=2)


def _version_3(values: Mapping[str, Any]) -> Manifest:
    return Manifest(file_records(values["files"]), values["metrics"], values["saved"])


# JSON that carries its own digest, for the files that no other file vouches for.


SEAL = "sha256"


def seal(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON with their digest beside them."""
    return json_bytes({**values, SEAL: _digest(values)})


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Return whether values are those that were sealed."""
    return bool(values.get(SEAL) == _digest({key: value for key, value in values.items() if key != SEAL}))


def parse_object(content: bytes, uri: str) -> dict[str, Any]:
    """Return the values of a JSON object.

    Raises:
        DamagedError: it is none.
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


# The state of a run besides its tensors.


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

    def encoded(self) -> bytes:
        """Return the state as it is stored."""
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


# What can be wrong with checkpoints.


class CheckpointError(FuserayError):
    """A checkpoint cannot be written or read, or does not fit the run."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was written: a file is missing or has changed. Trying again does not help."""
