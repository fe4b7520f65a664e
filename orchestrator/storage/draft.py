"""Local files and folders that are there whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from orchestrator.spec.errors import SpecError
from orchestrator.storage.location import StorageError


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """Lend a free path beside the target that becomes the target when all went well, and vanishes otherwise.

    Args:
        target: a file or folder that does not exist; an empty folder may.

    Raises:
        SpecError: the target exists.
        StorageError: it cannot be written.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SpecError(f"{target}: exists already; name another place, or remove it.")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if target.is_dir() and draft.is_file():
            target.rmdir()
        draft.replace(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error}).") from error
    finally:
        if draft.is_dir():
            rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)
