"""Files written by torch.save, read without running code that they may hold."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch

from workloads.contract import WorkloadError

ZIP, PICKLE, LFS, HEAD_BYTES = b"PK\x03\x04", b"\x80", b"version https://git-lfs", 512


def load_torch_file(path: Path) -> Any:
    """Return what a torch file holds: tensors (mapped into memory where its kind allows), numbers, text.

    Raises:
        WorkloadError: when it is no such file, is cut, or holds anything else; the message says which.
    """
    head = _head(path)
    if not head.startswith((ZIP, PICKLE)):
        raise WorkloadError(f"{path} is no torch file: {_looks_like(head)}")
    if head.startswith(ZIP) and not is_zipfile(path):
        raise WorkloadError(f"{path} is cut: its end is missing; download or copy it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except UnpicklingError as error:
        raise WorkloadError(_code(path, head)) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WorkloadError(f"cannot read the weights in {path}, which may be damaged: {first_line(error)}") from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise WorkloadError(f"cannot read {path}: {error.strerror}; check the path") from error


def _looks_like(head: bytes) -> str:
    if not head:
        return "it is empty; download or copy it again"
    if head.startswith(LFS):
        return "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, probably of a failed download; download the file itself"
    if head[8:9] == b"{":
        return "it looks like a safetensors file; the official checkpoints are .pth files"
    return "it does not begin like one; name a file that torch.save wrote"


def _code(path: Path, head: bytes) -> str:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if head.startswith(ZIP) else []
    named = f" ({', '.join(sorted(names)[:3])})" if names else ""
    return (
        f"{path} is refused: it holds Python objects{named}, which could run code, or is damaged. Save its tensors "
        "alone, with torch.save(torch.load(FILE)['model'], NEW), where you trust it."
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its type's name when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
