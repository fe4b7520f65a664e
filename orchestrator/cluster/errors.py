"""What can go wrong with a cluster."""

from __future__ import annotations

from orchestrator.config.errors import FuserayError


class ClusterError(FuserayError):
    """A cluster cannot be started, reached or ended; the message names it and says what to do."""
