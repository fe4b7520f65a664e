"""A trained model as a folder: `model.safetensors`, `config.json` and `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from workloads.albef.config import AlbefConfig, PairsConfig
from workloads.albef.model import AlbefInference, Student
from workloads.contract import WorkloadError
from workloads.interop.weight_files import open_weights
from workloads.transforms.text import load_tokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
"""The files of the folder."""


def save_exported(folder: Path, student: Student, config: PairsConfig) -> None:
    """Write a student with its configuration and tokenizer; the folder is created if it is missing."""
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
    tensors = open_weights(folder / WEIGHTS).load()
    try:
        student.load_state_dict(dict(tensors))
    except RuntimeError as error:
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
