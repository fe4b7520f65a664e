"""Whether a run starts anew or continues, decided before anything is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import FREE_SECTIONS, FREE_STREAM_KEYS, ResolvedRecipe
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import MANIFEST_FILE, RunError, RunFile, RunFolder
from orchestrator.stream.state import StreamState, stream_changes
from orchestrator.train.checkpoints.load import (
    Checkpoint,
    StoredState,
    load_checkpoint,
    load_newest,
    load_state,
    newest_state,
    restore_optimizer,
)
from orchestrator.train.checkpoints.manifest import (
    IMPORT_FILE,
    OPTIMIZER_FILE,
    CheckpointError,
    RunState,
    read_manifest,
)
from orchestrator.train.parallel.base import Collective, Parallel
from orchestrator.train.plan import Plan, differences, flat

FREE_TO_CHANGE = (
    *(section if section == "name" else f"{section}." for section in FREE_SECTIONS),
    *(f"stream.{key}" for key in FREE_STREAM_KEYS),
)


@dataclass(frozen=True, slots=True)
class Start:
    """How a run starts.

    Args:
        previous: what the run remembers; None for a new run.
        first_step: the first step to do.
        done: whether there is nothing left to do.
    """

    previous: RunFile | None
    first_step: int = 0
    done: bool = False


def new_run(plan: Plan) -> Start:
    """Start a run that does not exist yet.

    Raises:
        RunError: the run's folder is taken.
    """
    if plan.run.exists():
        raise RunError(
            f"{plan.run.root.uri}: a run of this name exists. "
            f"Continue it with --resume {plan.recipe.name}, or start another with name=OTHER."
        )
    return Start(None, plan.first_step)


def continued_run(plan: Plan, log: Callable[[str], None] = lambda _: None) -> Start:
    """Continue a run at its newest checkpoint.

    Args:
        plan: the plan.
        log: told about damaged checkpoints that are passed over.

    Raises:
        RunError: there is no such run, or the recipe or the data would take it elsewhere.
    """
    previous = plan.run.read()
    if previous.recipe_digest != plan.resolved.digest():
        changed = differences(plan.run.recipe.read().decode(), plan.resolved.values())
        fixed = [change for change in changed if not change.startswith(FREE_TO_CHANGE)]
        raise RunError(
            f"{plan.run.root.uri}: the recipe changed since the run started, so it cannot continue exactly: "
            f"{'; '.join(fixed)}. Undo that, or start another run with name=OTHER."
        )
    if previous.index_digest != plan.data.digest:
        raise RunError(
            f"{plan.run.root.uri}: the training data in {plan.data.places} changed since the run started, "
            "so it cannot continue exactly. Put it back, or start another run with name=OTHER."
        )
    newest = newest_state(plan.run, log)
    if newest is not None:
        _check_stream(plan, newest)
    first_step = newest.state.next_step if newest else plan.first_step
    return Start(previous, first_step, done=first_step >= plan.steps and previous.status == "FINISHED")


def _check_stream(plan: Plan, newest: StoredState) -> None:
    """Refuse to go on when the stream would not go on where the newest checkpoint says that it stopped."""
    if newest.state.stream is None:
        return
    before = StreamState.of(newest.state.stream)
    if changes := stream_changes(before, plan.stream_settings(), plan.reader, newest.state.next_step):
        raise RunError(
            f"{newest.place.uri}: the stream would not go on where it stopped: {'; '.join(changes[:3])}. "
            "Undo that, or start another run with name=OTHER."
        )


# The state that training begins with: of the run itself, of another checkpoint, or fresh.


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where this attempt begins.

    Args:
        first_step: the first step to do.
        checkpoint: what to restore; None when the model starts from the workload's own weights.
        moments: whether the optimiser is restored as well.
    """

    first_step: int
    checkpoint: Checkpoint | None = None
    moments: bool = False

    @property
    def pretrained(self) -> bool:
        """Whether the workload loads its own initial weights."""
        return self.checkpoint is None

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, parallel: Parallel) -> None:
        """Set the model and, where it was taken along, the optimiser's state.

        Args:
            model: the model.
            optimizer: of its parameters.
            parallel: how the workers share both.

        Raises:
            RuntimeError: the model has other tensors than the checkpoint.
        """
        if self.checkpoint is None:
            return
        model.load_state_dict(parallel.placed(self.checkpoint.model))
        if self.moments:
            restore_optimizer(optimizer, model, parallel.placed(self.checkpoint.optimizer))


def find_beginning(plan: Plan, log: Callable[[str], None]) -> Beginning:
    """Return the run's newest whole checkpoint, else the one that its recipe starts from, else nothing to restore.

    Args:
        plan: the plan.
        log: told about damaged checkpoints that are passed over.

    Raises:
        CheckpointError: the checkpoint that the recipe starts from is damaged.
        StorageError: the store is failing.
    """
    newest = load_newest(plan.run, log)
    if newest is not None:
        return Beginning(newest.state.next_step, newest, moments=True)
    if plan.origin is not None:
        return Beginning(plan.origin.first_step, load_checkpoint(plan.origin.place), plan.origin.everything)
    return Beginning(0)


def check_agreement(first_step: int, collective: Collective) -> None:
    """Make sure that all workers begin at the same step; all of them call it together.

    Raises:
        CheckpointError: they found different checkpoints.
    """
    steps = torch.zeros(collective.size, dtype=torch.int64)
    steps[collective.rank] = first_step
    collective.sum(steps)
    if len(set(steps.tolist())) > 1:
        raise CheckpointError(
            f"the workers found different checkpoints, of the steps {steps.tolist()}. Start again: damaged ones are "
            "marked now. If it stays so, check that storage.uri is a place that all machines share."
        )


# The checkpoint that a recipe's `start` names, checked before anything is started.


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a new run starts.

    Args:
        place: the checkpoint's folder.
        everything: whether the optimiser's moments are taken along with the weights.
        first_step: the first step to do.
    """

    place: Location
    everything: bool
    first_step: int

    def describe(self) -> str:
        """Say it in a few words."""
        taken = f"weights and optimiser, at step {self.first_step}" if self.everything else "weights"
        return f"{self.place.uri} ({taken})"


def find_origin(resolved: ResolvedRecipe, epoch_samples: int, steps: int) -> Origin | None:
    """Return where a recipe's run starts, or None when it starts from the workload's own weights.

    Args:
        resolved: the recipe.
        epoch_samples: samples in one epoch.
        steps: steps of the whole run.

    Raises:
        ConfigError: the checkpoint is missing, of another model, or cannot be continued.
        CheckpointError: it is damaged, or of an unknown format version.
        StorageError: storage cannot be reached.
    """
    section = resolved.recipe.start
    if section is None:
        return None
    place = locate(section.checkpoint, resolved.recipe.storage.endpoint)
    _check_committed(place)
    state = load_state(place)
    _check_model(state, resolved, place)
    if section.take == "weights":
        return Origin(place, everything=False, first_step=0)
    if not read_manifest(place).parts(OPTIMIZER_FILE):
        raise ConfigError(f"start.take: {place.uri} holds no optimiser state; write take: weights.")
    first_step = _steps_done(place, state, epoch_samples / resolved.recipe.batch.samples)
    if first_step >= steps:
        raise ConfigError(
            f"start.take: {place.uri} has done {first_step} steps and the recipe has {steps}; "
            "raise length, or write take: weights."
        )
    return Origin(place, everything=True, first_step=first_step)


def _check_committed(place: Location) -> None:
    if (place / MANIFEST_FILE).size():
        return
    checkpoints = RunFolder(place).committed_checkpoints()
    hint = (
        f"it is a run's folder; name a checkpoint in it, for example {checkpoints[0].uri}"
        if checkpoints
        else "name a folder made by `fuseray import-checkpoint`, or RUN/checkpoints/step-NUMBER of a run"
    )
    raise ConfigError(f"start.checkpoint: {place.uri} is no checkpoint (no {MANIFEST_FILE}); {hint}.")


def _check_model(state: RunState, resolved: ResolvedRecipe, place: Location) -> None:
    if state.workload != resolved.recipe.workload:
        raise ConfigError(
            f"start.checkpoint: {place.uri} is of the workload {state.workload!r}, the recipe's is "
            f"{resolved.recipe.workload!r}; choose another checkpoint or another workload."
        )
    theirs, ours = flat(state.config), flat(resolved.workload.model_dump(mode="json"))
    wrong = [key for key in resolved.entry.architecture_keys if theirs.get(key) != ours.get(key)]
    if wrong:
        fixes = " ".join(f"{key}={_plain(theirs.get(key))}" for key in wrong)
        found = "; ".join(f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in wrong)
        raise ConfigError(f"start.checkpoint: {place.uri} is of another model: {found}. Set {fixes} in the recipe.")


def _plain(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _steps_done(place: Location, state: RunState, steps_per_epoch: float) -> int:
    if (place / IMPORT_FILE).size() is None:
        return state.next_step
    if state.epochs is None:
        raise ConfigError(f"start.take: {place.uri} does not say how long it was trained; write take: weights.")
    return round(state.epochs * steps_per_epoch)
