"""Where a run begins or resumes: the decision of the driver, and the state that the workers restore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.loading import FREE_SECTIONS, FREE_STREAM_KEYS
from orchestrator.config.recipe_paths import is_same_place, without_data_places
from orchestrator.storage.run_folder import RunError, RunFile
from orchestrator.stream.state import StreamState, stream_changes
from orchestrator.train.checkpoints.load import (
    Checkpoint,
    StoredState,
    load_newest,
    newest_state,
    restore_optimizer,
)
from orchestrator.train.checkpoints.manifest import CheckpointError
from orchestrator.train.checkpoints.warm_start import WarmStart, load_start
from orchestrator.train.plan import Plan, check_files, differences

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.train.parallel.base import Collective, Parallel

CHANGEABLE_KEYS = (
    *(section if section == "name" else f"{section}." for section in FREE_SECTIONS),
    *(f"stream.{key}" for key in FREE_STREAM_KEYS),
)
"""Beginnings of the recipe keys that may change when a run is resumed, except for those of `FIXED_KEYS`."""

FIXED_KEYS = {
    "stream.audit": "the ledger would hold some of the steps only",
    "tracking.experiment": "a run stays in its MLflow experiment",
    "tracking.artifacts": "MLflow keeps the files of an experiment where it began to",
}
"""Recipe keys that change no result, but would be ignored or misleading when a run is resumed, and why."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where the driver begins or resumes a run.

    Args:
        previous: the run's file; None for a new run.
        first_step: the first step to do.
        done: whether all steps are done.
    """

    previous: RunFile | None
    first_step: int = 0
    done: bool = False


def new_run(plan: Plan) -> ResumePoint:
    """Start a run that does not exist yet.

    Raises:
        RunError: a run of this name exists.
        ConfigError: weights or other files that the recipe names are missing or do not fit.
    """
    if plan.run.exists():
        raise RunError(
            f"{plan.run.root.uri}: a run of this name exists. "
            f"Continue it with --resume {plan.recipe.name}, or start another with name=OTHER."
        )
    check_files(plan, new=True)
    return ResumePoint(None, plan.first_step)


def continued_run(plan: Plan, log: Callable[[str], None] = lambda _: None) -> ResumePoint:
    """Continue a run at its newest checkpoint.

    Args:
        plan: the plan.
        log: called with messages about damaged checkpoints.

    Raises:
        RunError: there is no such run, or the recipe or the data changed so that results would differ.
        ConfigError: files that the recipe names are missing or do not fit.
    """
    previous = plan.run.read()
    _check_recipe(plan, previous)
    if previous.index_digest != plan.data.digest:
        raise RunError(
            f"{plan.run.root.uri}: the training data in {plan.data.uris} changed since the run started, "
            "so it cannot continue exactly. Put it back, or start another run with name=OTHER."
        )
    newest = newest_state(plan.run, log)
    if newest is not None:
        _check_stream(plan, newest)
    check_files(plan, new=newest is None)
    first_step = newest.state.next_step if newest else plan.first_step
    return ResumePoint(previous, first_step, done=first_step >= plan.steps and previous.status == "FINISHED")


def _check_recipe(plan: Plan, previous: RunFile) -> None:
    """Refuse a recipe with which the run would not continue exactly, or whose changes would be ignored."""
    folder = Path.cwd()
    before, now = (without_data_places(values) for values in (plan.run.recipe_values(), plan.resolved.values()))
    changes = differences(before, now, folder)
    changed = [f"{key}: {change}" for key, change in changes.items() if not key.startswith(CHANGEABLE_KEYS)]
    if changed and previous.recipe_digest != plan.resolved.digest():
        raise RunError(
            f"{plan.run.root.uri}: the recipe changed since the run started, so it cannot continue exactly: "
            f"{'; '.join(changed)}. Undo that, or start another run with name=OTHER."
        )
    moved = not is_same_place(previous.tracking_uri, plan.recipe.tracking.uri, folder)
    for key, why in FIXED_KEYS.items():
        if key in changes and not (moved and key.startswith("tracking.")):
            raise RunError(
                f"{plan.run.root.uri}: {key} cannot change when a run is resumed ({changes[key]}): {why}. Undo that, "
                "or start another run with name=OTHER."
            )


def _check_stream(plan: Plan, newest: StoredState) -> None:
    """Refuse to resume when the stream would not continue where the newest checkpoint stopped."""
    if newest.state.stream is None:
        return
    before = StreamState.of(newest.state.stream)
    if changes := stream_changes(before, plan.stream_settings(), plan.reader, newest.state.next_step):
        raise RunError(
            f"{newest.folder.uri}: the stream would not continue where it stopped: {'; '.join(changes[:3])}. "
            "Undo that, or start another run with name=OTHER."
        )


@dataclass(frozen=True, slots=True)
class InitialState:
    """The state that the workers of an attempt begin with.

    Args:
        first_step: the first step to do.
        checkpoint: what to restore; None when the model starts from the workload's own weights.
        with_optimizer: whether the optimizer state is restored as well.
        start: the recipe's checkpoint to start from, when that is the one.
    """

    first_step: int
    checkpoint: Checkpoint | None = None
    with_optimizer: bool = False
    start: WarmStart | None = None

    @property
    def pretrained(self) -> bool:
        """Whether the workload loads its own initial weights."""
        return self.checkpoint is None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, parallel: Parallel) -> None:
        """Restore the model and, with `with_optimizer`, the optimizer state.

        Args:
            model: the model.
            optimizer: of its parameters.
            parallel: how the workers share both.

        Raises:
            RuntimeError: the model has other tensors than the checkpoint.
        """
        if self.checkpoint is None:
            return
        model.load_state_dict(parallel.distribute(self.checkpoint.model))
        if self.with_optimizer:
            restore_optimizer(optimizer, model, parallel.distribute(self.checkpoint.optimizer))


def find_initial_state(plan: Plan, log: Callable[[str], None]) -> InitialState:
    """Return the run's newest whole checkpoint, else the one of its warm start, else nothing to restore.

    Args:
        plan: the plan.
        log: called with messages about damaged checkpoints.

    Raises:
        CheckpointError: the checkpoint that the recipe starts from is damaged, or does not hold finite numbers.
        StorageError: the store is failing.
    """
    newest = load_newest(plan.run, log)
    if newest is not None:
        return InitialState(newest.state.next_step, newest, with_optimizer=True)
    start = plan.warm_start
    if start is not None:
        return InitialState(start.first_step, load_start(start, plan.resolved), start.with_optimizer, start)
    return InitialState(0)


def check_agreement(first_step: int, collective: Collective) -> None:
    """Check that all workers begin at the same step; all of them call it together.

    Raises:
        CheckpointError: they loaded different checkpoints.
    """
    import torch

    steps = torch.zeros(collective.size, dtype=torch.int64)
    steps[collective.rank] = first_step
    collective.all_reduce(steps)
    if len(set(steps.tolist())) > 1:
        raise CheckpointError(
            f"the workers found different checkpoints, of the steps {steps.tolist()}. Start again: damaged ones are "
            "marked now. If it stays so, check that all machines share storage.uri."
        )
