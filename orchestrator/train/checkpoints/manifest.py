"""The manifest: which files make up a checkpoint, with sizes and digests; written last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import MANIFEST_FILE
from orchestrator.train.checkpoints.errors import CheckpointError, DamagedError
from orchestrator.train.checkpoints.sealed import SEAL, is_sealed, parse_object, seal

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
