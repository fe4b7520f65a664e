"""The state of a run besides its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.storage.run_folder import json_bytes
from orchestrator.train.checkpoints.errors import DamagedError
from orchestrator.train.checkpoints.sealed import parse_object


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run besides its tensors.

    Args:
        next_step: the first step that is not part of the checkpoint; the whole state of the data stream.
        seed: the run's seed.
        recipe_digest: digest of what determines the result.
        index_digest: digest of the training data's index.
        mlflow_run_id: where the run is tracked.
        workload: what was trained.
        config: the workload's part of the recipe, as plain JSON values.
        epochs: passes over the training data so far; None when unknown.
        stream: what `StreamState.plain` returned; None when the checkpoint is from elsewhere.
    """

    next_step: int
    seed: int
    recipe_digest: str
    index_digest: str
    mlflow_run_id: str
    workload: str
    config: Mapping[str, Any]
    epochs: float | None
    stream: Mapping[str, Any] | None = None

    def encoded(self) -> bytes:
        """Return the state as it is stored."""
        return json_bytes(asdict(self))


def parse_state(content: bytes, uri: str) -> RunState:
    """Return a state from its stored form.

    Raises:
        DamagedError: it is damaged.
    """
    try:
        return RunState(**parse_object(content, uri))
    except TypeError as error:
        raise DamagedError(f"{uri}: is damaged ({error}).") from error
