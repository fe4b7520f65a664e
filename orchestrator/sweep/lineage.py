"""Which run a trial goes on with: its own, or a new one that starts from another trial's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from orchestrator.config.sweep import Assignment
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFolder, checkpoint_step
from orchestrator.sweep.folder import SweepError


@dataclass(frozen=True, slots=True)
class Lineage:
    """A run of a trial.

    Args:
        run: its name.
        samples: samples up to which the sweep knows its reports.
        start: the recipe's section `start`; None when it does not start from another run's checkpoint.
    """

    run: str
    samples: int = 0
    start: Mapping[str, Any] | None = None


def inherited(trial: str, found: Lineage, folder: Location, samples_per_step: int, assignment: Assignment) -> Lineage:
    """Return how a trial goes on that was given a state, which may be another trial's.

    The new run's name follows from where it starts and with which values, so that a trial that is started again finds
    it.

    Args:
        trial: the trial's name.
        found: the state.
        folder: the sweep's folder.
        samples_per_step: of both runs.
        assignment: values of the searched keys from there on.

    Raises:
        SweepError: the other trial's run has no checkpoint of what it had reported.
    """
    if found.run == trial or found.run.startswith(f"{trial}-from-"):
        return found
    steps = found.samples // samples_per_step
    saved = [one for one in RunFolder(folder / found.run).committed_checkpoints() if checkpoint_step(one) <= steps]
    if not saved:
        raise SweepError(f"{trial}: {found.run} has no checkpoint up to step {steps} to go on from.")
    origin = f"{found.run} {checkpoint_step(saved[0])} {sorted(assignment.items())}"
    source = blake2b(origin.encode(), digest_size=4).hexdigest()
    start = {"checkpoint": saved[0].uri, "take": "everything"}
    return Lineage(f"{trial}-from-{source}", checkpoint_step(saved[0]) * samples_per_step, start)
