"""A checkpoint in the version of the format before this one."""

from __future__ import annotations

import hashlib
import json

from safetensors.torch import save

from orchestrator.storage.location import Location
from orchestrator.train.checkpoints.load import load_checkpoint
from orchestrator.train.checkpoints.manifest import ASIDE_FILE, IMPORT_FILE, read_manifest

KEPT = (IMPORT_FILE, ASIDE_FILE)


def rewrite_as_version_two(place: Location) -> None:
    """Turn a checkpoint of the newest version into one of version 2, as Fuseray 0.1 wrote them."""
    checkpoint, manifest = load_checkpoint(place), read_manifest(place)
    contents = {"model.safetensors": save(dict(checkpoint.model)), "state.json": checkpoint.state.encoded()}
    if checkpoint.optimizer:
        contents["optimizer.safetensors"] = save(dict(checkpoint.optimizer))
    contents |= {name: (place / name).read() for kept in KEPT for name in manifest.parts(kept)}
    place.delete()
    for name, content in contents.items():
        (place / name).write(content)
    files = {name: {"bytes": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in contents.items()}
    (place / "manifest.json").write(json.dumps({"format_version": 2, "files": files}).encode())
