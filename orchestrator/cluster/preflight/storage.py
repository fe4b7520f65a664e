"""Whether a run's folder can be written to, by writing to it."""

from __future__ import annotations

import uuid
from pathlib import Path

from orchestrator.cluster.findings import Finding, failed, passed, within
from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location, locate

NAME = "storage"
CONTENT = b"written by fuseray plan to see whether it can; safe to delete\n"


def check_writable(uri: str, endpoint: str | None, patience_s: float) -> Finding:
    """Write a small object into a folder, read it back and delete it; a folder that was made for it goes as well.

    Args:
        uri: the folder.
        endpoint: address of an S3-compatible server.
        patience_s: how long to wait for it.
    """
    fix = "Check storage.uri, storage.endpoint, and that the machine's credentials may write, read and delete there."
    try:
        within(patience_s, lambda: _write_and_delete(locate(uri, endpoint)))
    except (FuserayError, OSError) as error:
        said = str(error) if uri in str(error) else f"{uri}: {error}"
        return failed(NAME, said, fix)
    return passed(NAME, f"{uri}: can be written, read and deleted")


def _write_and_delete(folder: Location) -> None:
    made = _missing_folders(folder)
    probe = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        probe.write(CONTENT)
        if probe.read() != CONTENT:
            raise FuserayError(f"{probe.uri}: does not hold what was just written to it")
    finally:
        probe.delete()
        for path in made:
            path.rmdir()


def _missing_folders(folder: Location) -> list[Path]:
    """Return the folders on a local disk that writing will make, the innermost first; object stores have none."""
    if not folder.is_local:
        return []
    path = Path(folder.path)
    return [one for one in (path, *path.parents) if not one.exists()]
