"""What can be done with a cluster, whoever starts its machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class JobServer:
    """Where a cluster takes jobs, as this machine reaches it.

    Args:
        url: such as http://127.0.0.1:8265.
        token: Ray's token; it is never printed.
    """

    url: str
    token: str = field(repr=False)


class Launcher(Protocol):
    """Starts, reaches and ends one cluster."""

    def is_up(self) -> bool:
        """Return whether the cluster's head is there.

        Raises:
            ClusterError: nobody can say, for example for want of credentials.
        """
        ...

    def up(self, say: Callable[[str], object]) -> None:
        """Start what is not there yet.

        Args:
            say: is told how it goes.

        Raises:
            ClusterError: it cannot be started; the message says what to do.
        """
        ...

    def down(self, say: Callable[[str], object]) -> None:
        """End all machines; it is no error when there are none."""
        ...

    def reach(self) -> AbstractContextManager[JobServer]:
        """Open the way to the job server, by an SSH tunnel where that is needed, and close it again.

        Raises:
            ClusterError: the cluster is not up, or cannot be reached.
        """
        ...
