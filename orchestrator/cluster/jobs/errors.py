"""What can go wrong with a job, as far as somebody else has to tell the cases apart."""

from __future__ import annotations

from orchestrator.cluster.errors import ClusterError
from orchestrator.config.errors import SpecError


class PackageError(SpecError):
    """The code cannot travel as it is; nothing was submitted."""


class ConnectionLostError(ClusterError):
    """The job server did not answer; asking again may help."""


class TokenError(ClusterError):
    """The job server refuses the token."""


class UnknownJobError(ClusterError):
    """The job server does not know the job."""
