"""Starting a new run from another run's or an imported checkpoint, which the recipe's section `start` names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import ResolvedRecipe, find_workload
from orchestrator.storage.location import Location, locate
from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder
from orchestrator.train.checkpoints.load import Checkpoint, load_checkpoint, load_state, model_config
from orchestrator.train.checkpoints.manifest import IMPORT_FILE, OPTIMIZER_FILE, RunState, read_manifest
from workloads.contract import FineTuningEntry, Section, WorkloadError


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The checkpoint that a new run starts from.

    Args:
        folder: the checkpoint's folder.
        with_optimizer: whether the optimizer state is loaded as well as the weights.
        first_step: the first step to do.
    """

    folder: Location
    with_optimizer: bool
    first_step: int

    def describe(self) -> str:
        """Return it in a few words."""
        loaded = f"weights and optimiser, at step {self.first_step}" if self.with_optimizer else "weights"
        return f"{self.folder.uri} ({loaded})"


def find_warm_start(resolved: ResolvedRecipe, epoch_samples: int, steps: int) -> WarmStart | None:
    """Return the checkpoint that a recipe's run starts from, None when it starts from the workload's own weights.

    Args:
        resolved: the recipe.
        epoch_samples: samples in one epoch.
        steps: steps of the whole run.

    Raises:
        ConfigError: the checkpoint is missing, of another model, or cannot be continued.
        CheckpointError: it is damaged, or of another format version.
        StorageError: storage cannot be reached.
    """
    section = resolved.recipe.start
    if section is None:
        return None
    folder = locate(section.checkpoint, resolved.recipe.storage.endpoint)
    _check_committed(folder)
    state = load_state(folder)
    _check_model(state, resolved, folder)
    if section.take == "weights":
        return WarmStart(folder, with_optimizer=False, first_step=0)
    _check_continues(state, resolved, folder)
    if not read_manifest(folder).parts(OPTIMIZER_FILE):
        raise ConfigError(f"start.take: {folder.uri} holds no optimiser state; write take: weights.")
    first_step = _steps_done(folder, state, epoch_samples / resolved.recipe.batch.samples)
    if first_step >= steps:
        raise ConfigError(
            f"start.take: {folder.uri} has done {first_step} steps and the recipe has {steps}; "
            "raise length, or write take: weights."
        )
    return WarmStart(folder, with_optimizer=True, first_step=first_step)


def load_start(start: WarmStart, resolved: ResolvedRecipe) -> Checkpoint:
    """Load the checkpoint that a run starts from, fitted to its model.

    Args:
        start: the checkpoint.
        resolved: the run's recipe.

    Raises:
        ConfigError: the workload cannot fit it.
        DamagedError: a file is missing or damaged.
        CheckpointError: it is of another format version, or a tensor that is taken from it is not finite.
        StorageError: the store is failing.
    """
    from orchestrator.train.checkpoints.tensors import check_finite  # imports torch

    checkpoint = load_checkpoint(start.folder)
    check_finite(checkpoint.model, f"start.checkpoint: {start.folder.uri}", "choose an earlier checkpoint")
    if start.with_optimizer:
        fix = "write start.take: weights"
        check_finite(checkpoint.optimizer, f"start.checkpoint: {start.folder.uri}, optimiser state", fix)
    entry = resolved.entry
    if not isinstance(entry, FineTuningEntry):
        return checkpoint
    try:
        model = entry.fit_start(resolved.workload, model_config(checkpoint.state), checkpoint.model)
    except WorkloadError as error:
        raise ConfigError(f"start.checkpoint: {start.folder.uri} does not fit: {error}") from error
    return replace(checkpoint, model=model)


def _check_committed(folder: Location) -> None:
    if (folder / MANIFEST_FILE).size():
        return
    if folder.size() is not None:
        raise ConfigError(
            f"start.checkpoint: {folder.uri} is a file, not a checkpoint; turn it into one with "
            f"`{command_line('import-checkpoint', 'albef', folder.uri, 'OUT')}`, and name OUT."
        )
    checkpoints = RunFolder(folder).committed_checkpoints()
    hint = (
        f"it is a run's folder; name a checkpoint in it, for example {checkpoints[0].uri}"
        if checkpoints
        else "name RUN/checkpoints/step-NUMBER of a run, or what `fuseray import-checkpoint FORMAT FILE OUT` makes"
    )
    raise ConfigError(f"start.checkpoint: {folder.uri} is no checkpoint (no {MANIFEST_FILE}); {hint}.")


def _check_model(state: RunState, resolved: ResolvedRecipe, folder: Location) -> None:
    entry, own = resolved.entry, resolved.recipe.workload
    possible = [own, *entry.starts_from] if isinstance(entry, FineTuningEntry) else [own]
    if state.workload not in possible:
        others = f", which starts from checkpoints of {' and '.join(possible)}" if len(possible) > 1 else ""
        raise ConfigError(
            f"start.checkpoint: {folder.uri} is of the workload {state.workload!r}, the recipe's is "
            f"{own!r}{others}; choose another checkpoint or another workload."
        )
    fitted = entry.fitted_keys if isinstance(entry, FineTuningEntry) else ()
    differing = _differing(state, resolved, [key for key in entry.architecture_keys if key not in fitted])
    if differing:
        fixes = " ".join(f"{key}={_override_text(theirs)}" for key, (theirs, _) in differing.items())
        raise ConfigError(
            f"start.checkpoint: {folder.uri} is of another model: {'; '.join(_differences(differing))}. "
            f"Set {fixes} in the recipe."
        )


def _check_continues(state: RunState, resolved: ResolvedRecipe, folder: Location) -> None:
    """Refuse optimizer state of a model that is fitted to the recipe's."""
    reasons = _differences(_differing(state, resolved, resolved.entry.architecture_keys))
    if state.workload != resolved.recipe.workload:
        reasons.insert(0, f"it is of the workload {state.workload!r}")
    if reasons:
        raise ConfigError(
            f"start.take: {folder.uri} cannot be continued with its optimiser state: {'; '.join(reasons)}; "
            "write take: weights."
        )


def _differing(state: RunState, resolved: ResolvedRecipe, keys: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return the values of those keys that differ, the checkpoint's first."""
    own = state.workload == resolved.recipe.workload
    config_type = (resolved.entry if own else find_workload(state.workload)).config_type
    stored, config = _with_defaults(state.config, config_type), resolved.workload.model_dump(mode="json")
    values = {key: (_value_at(stored, key), _value_at(config, key)) for key in keys}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def _differences(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{key} is {theirs!r} there and {ours!r} here" for key, (theirs, ours) in differing.items()]


def _with_defaults(config: Mapping[str, Any], config_type: type[Section]) -> Mapping[str, Any]:
    """Return a stored config with the defaults of keys that are younger than it, where it still is valid."""
    try:
        return config_type.model_validate_json(json.dumps(config)).model_dump(mode="json")
    except ValidationError:
        return config


def _value_at(config: Any, dotted_key: str) -> Any:
    """Return the value of a dotted key in nested mappings; None when there is none."""
    for key in dotted_key.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _override_text(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _steps_done(folder: Location, state: RunState, steps_per_epoch: float) -> int:
    if (folder / IMPORT_FILE).size() is None:
        return state.next_step
    if state.epochs is None:
        raise ConfigError(f"start.take: {folder.uri} does not say how long it was trained; write take: weights.")
    return round(state.epochs * steps_per_epoch)
