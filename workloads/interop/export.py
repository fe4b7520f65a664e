"""A trained model in a folder: `model.safetensors`, `config.json` and `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefInference, Student
from workloads.contract import WorkloadError

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
"""The files of the folder."""


def save_exported(folder: Path, student: Student, config: AlbefConfig) -> None:
    """Write a student with its configuration and tokenizer; the folder is created if it is missing."""
    from workloads.transforms.text import load_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    values = {"workload": "albef", "config": config.model_dump(mode="json", include={"model", "text"})}
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    load_tokenizer(config.text).save(str(folder / TOKENIZER))


def load_exported(folder: str | Path) -> AlbefInference:
    """Return the model that `save_exported` wrote, on the CPU and in evaluation mode.

    Raises:
        WorkloadError: when a file is missing or does not fit the others.
    """
    folder = Path(folder)
    config = read_exported_config(folder)
    student = Student(config.model, config.contrastive.temperature)
    try:
        student.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WorkloadError(f"{folder / WEIGHTS} does not hold the model of {CONFIG}: {error}") from error
    return AlbefInference(student.eval(), config.model)


def read_exported_config(folder: Path) -> AlbefConfig:
    """Return the configuration of an exported model; its tokenizer is the folder's.

    Raises:
        WorkloadError: when `config.json` is missing or not one of ours.
    """
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = AlbefConfig.model_validate(values["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkloadError(f"{folder / CONFIG} is not the configuration of an exported model: {error}") from error
    text = config.text.model_copy(update={"tokenizer": str(folder / TOKENIZER)})
    return config.model_copy(update={"text": text})


# Files written by torch.save, read without running code that they may hold.


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
