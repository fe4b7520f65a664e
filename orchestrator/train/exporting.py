"""Models out: a run's or an imported checkpoint, as a folder to load without Ray or in another project's layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.config.loading import find_workload
from orchestrator.storage.local_files import draft_of
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import RunError, RunFolder, find_run
from orchestrator.train.checkpoints.loading import Checkpoint, load_checkpoint, load_tensors
from orchestrator.train.checkpoints.manifest import ASIDE_FILE, IMPORT_FILE, read_manifest
from orchestrator.train.evaluating import model_config, run_recipe
from orchestrator.train.importing import is_import
from workloads.contract import CheckpointFormat, ForeignCheckpoint, ImportReport, KeyedRandom


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Args:
        place: the checkpoint's folder.
        run: the run it belongs to; None for an imported checkpoint.
    """

    place: Location
    run: RunFolder | None


def find_source(name: str, storage: str, endpoint: str | None = None, step: int | None = None) -> Source:
    """Return the checkpoint that a user means: of a run, or an imported one.

    Args:
        name: a run's name below the storage, or the path or URI of a run's folder or of an imported checkpoint.
        storage: where runs are.
        endpoint: address of an S3-compatible server.
        step: how many steps the run's checkpoint holds; None for the newest.

    Raises:
        RunError: there is no such run or checkpoint.
    """
    direct = locate(name, endpoint)
    if is_import(direct):
        return Source(direct, None)
    run = find_run(name, storage, endpoint)
    found = {place.name: place for place in run.committed_checkpoints()}
    if not found:
        raise RunError(f"{run.checkpoints.uri}: holds no checkpoint yet; let the run reach checkpoint.every_steps.")
    wanted = next(iter(found)) if step is None else f"step-{step:08d}"
    if wanted not in found:
        raise RunError(
            f"{run.checkpoints.uri}: has no checkpoint of step {step}; there are {', '.join(sorted(found))}."
        )
    return Source(found[wanted], run)


def export_folder(source: Source, target: Path) -> None:
    """Write the workload's own export (for albef: safetensors, config, tokenizer) into a new folder.

    Raises:
        SpecError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the workload cannot export it.
    """
    with draft_of(target) as draft:
        checkpoint = load_checkpoint(source.place)
        workload = find_workload(checkpoint.state.workload).create(model_config(checkpoint))
        model = workload.build(torch.device("cpu"), KeyedRandom(("export",)), pretrained=False)
        model.load_state_dict(dict(checkpoint.model))
        workload.export(draft)


def export_format(source: Source, target: Path, format_: CheckpointFormat, flat: bool) -> None:
    """Write a checkpoint in another project's layout.

    Raises:
        SpecError: the target exists.
        CheckpointError: the checkpoint is damaged.
        WorkloadError: the format cannot hold it.
    """
    with draft_of(target) as draft:
        checkpoint = load_checkpoint(source.place)
        foreign = _imported(checkpoint, source.place) if source.run is None else _native(checkpoint, source.run)
        format_.write(foreign, draft, flat)


def _native(checkpoint: Checkpoint, run: RunFolder) -> ForeignCheckpoint:
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint),
        state=checkpoint.model,
        moments=checkpoint.optimizer,
        epochs=checkpoint.state.epochs,
        hyperparameters=run_recipe(run).recipe.optimizer.model_dump(mode="json"),
    )


def _imported(checkpoint: Checkpoint, place: Location) -> ForeignCheckpoint:
    about: dict[str, Any] = json.loads((place / IMPORT_FILE).read())
    return ForeignCheckpoint(
        workload=checkpoint.state.workload,
        config=model_config(checkpoint),
        state=checkpoint.model,
        moments=checkpoint.optimizer,
        aside=load_tensors(place, read_manifest(place), ASIDE_FILE),
        epochs=checkpoint.state.epochs,
        metadata=about["metadata"],
        report=ImportReport(**{name: tuple(values) for name, values in about["report"].items()}),
    )
