"""The checkpoint that a recipe's `start` names, checked before anything is started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orchestrator.config.errors import SpecError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder
from orchestrator.train.checkpoints.loading import load_state
from orchestrator.train.checkpoints.manifest import IMPORT_FILE, OPTIMIZER_FILE, read_manifest
from orchestrator.train.checkpoints.state import RunState
from orchestrator.train.recipe_file import flat


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
        SpecError: the checkpoint is missing, of another model, or cannot be continued.
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
        raise SpecError(f"start.take: {place.uri} holds no optimiser state; write take: weights.")
    first_step = _steps_done(place, state, epoch_samples / resolved.recipe.batch.samples)
    if first_step >= steps:
        raise SpecError(
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
    raise SpecError(f"start.checkpoint: {place.uri} is no checkpoint (no {MANIFEST_FILE}); {hint}.")


def _check_model(state: RunState, resolved: ResolvedRecipe, place: Location) -> None:
    if state.workload != resolved.recipe.workload:
        raise SpecError(
            f"start.checkpoint: {place.uri} is of the workload {state.workload!r}, the recipe's is "
            f"{resolved.recipe.workload!r}; choose another checkpoint or another workload."
        )
    theirs, ours = flat(state.config), flat(resolved.workload.model_dump(mode="json"))
    wrong = [key for key in resolved.entry.architecture_keys if theirs.get(key) != ours.get(key)]
    if wrong:
        fixes = " ".join(f"{key}={_plain(theirs.get(key))}" for key in wrong)
        found = "; ".join(f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in wrong)
        raise SpecError(f"start.checkpoint: {place.uri} is of another model: {found}. Set {fixes} in the recipe.")


def _plain(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _steps_done(place: Location, state: RunState, steps_per_epoch: float) -> int:
    if (place / IMPORT_FILE).size() is None:
        return state.next_step
    if state.epochs is None:
        raise SpecError(f"start.take: {place.uri} does not say how long it was trained; write take: weights.")
    return round(state.epochs * steps_per_epoch)
