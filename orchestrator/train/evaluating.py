"""Measuring a run's newest checkpoint on all held-out samples, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from orchestrator.spec.document import Document
from orchestrator.spec.loading import ResolvedRecipe, resolve
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.held_out import evenly_spaced
from orchestrator.stream.index import read_index
from orchestrator.train.checkpoint import load_newest
from workloads.contract import Evaluation, EvaluationOptions, KeyedRandom, Sample


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
    folder = locate(held_out, resolved.recipe.storage.endpoint)
    index = read_index(folder)
    checkpoint = load_newest(run, note)
    if checkpoint is None:
        raise RunError(
            f"{run.checkpoints.uri}: holds no usable checkpoint yet; let the run reach checkpoint.every_steps."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workload = resolved.entry.create(resolved.workload)
    model = workload.build(device, KeyedRandom((resolved.recipe.seed, "build")), pretrained=False)
    model.load_state_dict({name: tensor.to(device) for name, tensor in checkpoint.model.items()})
    samples = list(evenly_spaced(folder, index))
    evaluation = workload.evaluate(samples, options)
    metrics = {**evaluation.metrics, "unreadable": float(index.total - len(samples))}
    return Measured(replace(evaluation, metrics=metrics), samples, checkpoint.state.next_step)
