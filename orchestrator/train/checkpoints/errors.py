"""What can be wrong with checkpoints."""

from __future__ import annotations

from orchestrator.config.errors import FuserayError


class CheckpointError(FuserayError):
    """A checkpoint cannot be written or read, or does not fit the run."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was written: a file is missing or has changed. Trying again does not help."""
