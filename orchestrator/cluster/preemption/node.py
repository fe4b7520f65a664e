"""Which node of a Ray cluster is this machine's: a pure function of what the cluster and the machine say."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from orchestrator.config.errors import FuserayError

SHOWN_ID = 8
MOST_SHOWN = 4


class DrainError(FuserayError):
    """A node could not be found or drained; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to drain.

    Args:
        address: HOST:PORT of the cluster's GCS; None for the cluster that this machine belongs to.
        node_id: the node's id in hexadecimal; None for the one node on this machine.
    """

    address: str | None = None
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine knows of itself.

    Args:
        raylets: ids of the nodes whose raylet is a process here; empty in a container beside Ray's.
        addresses: its network addresses.
    """

    raylets: Set[str]
    addresses: Set[str]


def choose_node(alive: Mapping[str, str], machine: Machine, wanted: str | None) -> str:
    """Return the id of the node to drain.

    Args:
        alive: address of each alive node, by id.
        machine: this machine.
        wanted: the id that the user named; None for the one node on this machine.

    Raises:
        DrainError: there is none, or there are several.
    """
    if wanted is not None:
        if wanted not in alive:
            raise DrainError(f"no alive node of the cluster has the id {wanted}; alive are {_names(alive)}.")
        return wanted
    here = [node for node in alive if node in machine.raylets]
    here = here or [node for node, address in alive.items() if address in machine.addresses]
    if not here:
        raise DrainError(
            f"none of the cluster's {len(alive)} nodes runs on this machine ({', '.join(sorted(machine.addresses))}); "
            "run this on a node, or name the node with --node-id."
        )
    if len(here) > 1:
        raise DrainError(f"{len(here)} nodes run on this machine; name one with --node-id: {_names(here)}.")
    return here[0]


def deadline_to_set(wanted_ms: int | None, standing_ms: int | None) -> int | None:
    """Return the deadline to tell Ray, in milliseconds since 1970, None when there is nothing to tell.

    Ray forgets an earlier deadline when it is told a later one or none (0 in its words), so that is not done.

    Args:
        wanted_ms: the notice's deadline; None when it has none.
        standing_ms: the deadline with which the node is draining already, 0 when without; None when it is not.
    """
    told_ms = 0 if wanted_ms is None else max(wanted_ms, 1)
    if standing_ms is None:
        return told_ms
    return told_ms if told_ms and (standing_ms == 0 or told_ms < standing_ms) else None


def short(node_id: str) -> str:
    """Return as much of an id as people need."""
    return node_id[:SHOWN_ID]


def _names(nodes: Mapping[str, str] | list[str]) -> str:
    names = sorted(nodes)
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more
