"""Runs a sweep on Ray Tune. One driver per sweep; the trials' own drivers are its actors."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.sweep_loading import ResolvedSweep
from orchestrator.sweep.folder import SweepFolder
from orchestrator.sweep.proposals import configurations
from orchestrator.sweep.trial import Shared

LOST_PROCESSES = 8
"""How often a trial's driver may be lost, with its machine for example, before the trial counts as failed."""

TUNE_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
EXPERIMENT = "tune"


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep with all that it needs.

    Args:
        shared: what all trials have in common.
        folder: the sweep's folder.
        concurrency: trials that run side by side.
    """

    shared: Shared
    folder: SweepFolder
    concurrency: int

    @property
    def sweep(self) -> ResolvedSweep:
        """The sweep."""
        return self.shared.sweep

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return configurations(self.sweep) * self.sweep.sweep.replicas
