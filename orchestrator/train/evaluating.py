"""Measuring a checkpoint on all held-out samples, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from orchestrator.config.document import Document
from orchestrator.config.loading import ResolvedRecipe, find_workload, resolve
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.dataset.samples import evenly_spaced
from orchestrator.train.checkpoints.loading import Checkpoint, load_newest
from workloads.contract import Evaluation, EvaluationOptions, KeyedRandom, Sample, Section


@dataclass(frozen=True, slots=True)
class Measured:
    """An evaluation with the samples it speaks of and the step of the checkpoint."""

    evaluation: Evaluation
    samples: Sequence[Sample]
    step: int


def run_recipe(run: RunFolder) -> ResolvedRecipe:
    """Return the recipe that a run was started with."""
    document = Document.parse(run.recipe.read().decode(), run.recipe.uri)
    return resolve(document, document.plain())


def model_config(checkpoint: Checkpoint) -> Section:
    """Return the workload's part of the recipe that a checkpoint was trained with."""
    kind = find_workload(checkpoint.state.workload).config_type
    return kind.model_validate_json(json.dumps(checkpoint.state.config))


def measure(
    run: RunFolder, resolved: ResolvedRecipe, options: EvaluationOptions, held_out: str, note: Callable[[str], None]
) -> Measured:
    """Load a run's newest whole checkpoint and evaluate it.

    Args:
        run: the run.
        resolved: its recipe.
        options: how to evaluate.
        held_out: URI of the samples.
        note: told about damaged checkpoints.

    Raises:
        RunError: the run has no usable checkpoint.
        DataSetError: the held-out samples are missing.
    """
    checkpoint = load_newest(run, note)
    if checkpoint is None:
        raise RunError(
            f"{run.checkpoints.uri}: holds no usable checkpoint yet; let the run reach checkpoint.every_steps."
        )
    return measure_checkpoint(checkpoint, options, locate(held_out, resolved.recipe.storage.endpoint))


def measure_checkpoint(checkpoint: Checkpoint, options: EvaluationOptions, folder: Location) -> Measured:
    """Evaluate a checkpoint on the held-out samples in a folder.

    Raises:
        DataSetError: the held-out samples are missing.
    """
    index = read_index(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workload = find_workload(checkpoint.state.workload).create(model_config(checkpoint))
    model = workload.build(device, KeyedRandom(("evaluation",)), pretrained=False)
    model.load_state_dict({name: tensor.to(device) for name, tensor in checkpoint.model.items()})
    samples = list(evenly_spaced(folder, index))
    evaluation = workload.evaluate(samples, options)
    metrics = {**evaluation.metrics, "unreadable": float(index.total - len(samples))}
    return Measured(replace(evaluation, metrics=metrics), samples, checkpoint.state.next_step)
