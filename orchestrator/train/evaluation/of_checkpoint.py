"""Measures a checkpoint: in this process, or in a pool of actors on the cluster that this process is connected to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement
from orchestrator.evaluate.measure import Executor, InProcess, Measuring, NoProgress, Progress
from orchestrator.evaluate.pool import PoolOptions, RayExecutor, actor_pool
from orchestrator.evaluate.records import FinishedWork
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.dataset.index import read_index
from orchestrator.train.checkpoints.load import load_state, with_newest
from orchestrator.train.checkpoints.manifest import CheckpointError
from orchestrator.train.evaluation.stored_model import StoredModel
from workloads.contract import EvaluationOptions, Evaluator


@dataclass(frozen=True, slots=True)
class HowToMeasure:
    """How to measure a checkpoint.

    Args:
        options: the workload's.
        held_out: folder of the samples.
        limit: most samples; None for all.
        pool: the actors; None to do it in this process.
        memory_mb: features that this process keeps in memory.
        workload: name of the workload that the checkpoint must be of; empty for any.
        kept: folder for what is finished of evaluations, each in a folder of its own; None to keep nothing.
        progress: is shown how far it is.
        log: is passed messages for the user.
    """

    options: EvaluationOptions
    held_out: Location
    limit: int | None = None
    pool: PoolOptions | None = None
    memory_mb: int = 2000
    workload: str = ""
    kept: Location | None = None
    progress: Progress = field(default_factory=NoProgress)
    log: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A measurement on held-out samples, and the step of the checkpoint."""

    measured: Measurement
    step: int


def evaluate_newest(run: RunFolder, how: HowToMeasure) -> EvaluationResult:
    """Measure a run's newest whole checkpoint. Damaged ones are marked and skipped.

    Raises:
        RunError: the run has no usable checkpoint.
        DataSetError: the held-out samples are missing, or not a single one can be read.
        WorkloadError: the workload cannot use any of them.
        MeasuringError: the actors cannot do the work.
    """
    result = with_newest(run, lambda folder: evaluate_checkpoint(folder, how), how.log)
    if result is None:
        raise RunError(
            f"{run.checkpoints.uri}: holds no usable checkpoint yet; let the run reach checkpoint.every_steps."
        )
    return result


def evaluate_checkpoint(folder: Location, how: HowToMeasure) -> EvaluationResult:
    """Measure the checkpoint in a folder.

    Raises:
        DamagedError: it is damaged.
        CheckpointError: it is of another workload.
        DataSetError: the held-out samples are missing, or not a single one can be read.
        WorkloadError: the workload cannot use any of them.
        MeasuringError: the actors cannot do the work.
    """
    model = StoredModel(folder)
    state = load_state(folder)
    if how.workload not in ("", state.workload):
        raise CheckpointError(
            f"{folder.uri}: is a checkpoint of the workload {state.workload!r}, and the recipe is of {how.workload!r}; "
            "evaluate it with the recipe that it was trained with."
        )
    held_out = HeldOutSamples.of(how.held_out, read_index(how.held_out), how.options.block, how.limit)
    finished = FinishedWork(how.kept / evaluation_digest(model, held_out, how.options) if how.kept else None)
    with ExitStack() as context:
        planner, executor = _executor(model, held_out, how, context)
        measured = Measuring(planner, held_out, executor, finished, how.progress).run()
    finished.remove()
    return EvaluationResult(measured, state.next_step)


def evaluation_digest(model: StoredModel, held_out: HeldOutSamples, options: EvaluationOptions) -> str:
    """Return a digest of all that an evaluation's outcome depends on."""
    about = [model.digest(), held_out.digest, options.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _executor(
    model: StoredModel, held_out: HeldOutSamples, how: HowToMeasure, context: ExitStack
) -> tuple[Evaluator, Executor]:
    """Return what decides, and what does the work."""
    if how.pool is None:
        evaluator = context.enter_context(model.load().evaluator(how.options))
        features = context.enter_context(SpillingFeatures(how.memory_mb * 10**6))
        return evaluator, InProcess(evaluator, held_out, features)
    planner = context.enter_context(model.without_model().evaluator(how.options))
    pool = context.enter_context(actor_pool(model, how.options, held_out, how.pool, how.log))
    return planner, RayExecutor(pool, held_out, planner.feature_names)
