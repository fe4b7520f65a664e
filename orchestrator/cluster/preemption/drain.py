"""Drains a node through Ray's GCS, and decides which node of a cluster is this machine's.

It does what Ray's own hidden command `ray drain-node` does; `ray_internals` lists what it needs of Ray's own.
`GcsClient` tries for 40 seconds to reach a GCS that does not exist, and may end the whole process, so `drain_process`
runs this in a child process.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from socket import create_connection
from typing import Any

from orchestrator.cluster.preemption.notices import clock_time
from orchestrator.config.errors import FuserayError

CONNECT_S = 5.0
CALL_S = 10.0
REFUSED_BY_AUTH = (
    "requires its token, and this process has none or a wrong one: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to "
    "the file with the cluster's token, as for `ray start` on this machine."
)


class Gcs:
    """A connection to a cluster's GCS.

    Args:
        address: HOST:PORT; None for the cluster that this machine belongs to.

    Raises:
        DrainError: there is none, it does not answer, or it refuses the token.
    """

    def __init__(self, address: str | None) -> None:
        from ray.exceptions import AuthenticationError, RayError

        from orchestrator.ray_internals import GcsClient, token_setup

        self.address = _reachable(address)
        try:
            token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            token_setup.ensure_token_if_auth_enabled(create_token_if_missing=False)
            self._client = GcsClient(address=self.address)
        except AuthenticationError:
            raise DrainError(f"the cluster at {self.address} {REFUSED_BY_AUTH}") from None
        except RayError as error:
            raise DrainError(f"the cluster at {self.address} does not answer ({_first_line(error)}).") from None

    def alive(self) -> Mapping[str, str]:
        """Return the network address of every alive node, by its id."""
        from orchestrator.ray_internals import GcsNodeInfo

        nodes = self._call("get_all_node_info", state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
        return {node_id.hex(): node.node_manager_address for node_id, node in nodes.items()}

    def draining(self) -> Mapping[str, int]:
        """Return the deadline of every draining node, by its id: milliseconds since 1970, 0 for none."""
        return dict(self._call("get_draining_nodes"))

    def drain(self, node_id: str, message: str, deadline_ms: int) -> None:
        """Request a drain because of preemption, which replaces an earlier request.

        Ray accepts requests for nodes that it does not know, too.
        """
        from orchestrator.ray_internals import DrainNodeReason

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, refusal = self._call("drain_node", node_id, reason, message, deadline_ms)
        if not accepted:
            raise DrainError(f"the cluster at {self.address} refuses to drain node {short_id(node_id)}: {refusal}.")

    def machine(self) -> Machine:
        """Return the identity of this machine."""
        import ray

        from orchestrator.ray_internals import services

        addresses = {ray.util.get_node_ip_address(), ray.util.get_node_ip_address(self.address)}
        return Machine(frozenset(services.find_node_ids()), frozenset(addresses))

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        from ray.exceptions import RayError

        try:
            return getattr(self._client, name)(*arguments, timeout=CALL_S, **options)
        except RayError as error:
            raise DrainError(f"the cluster at {self.address} does not answer ({_first_line(error)}).") from None


def draining_here() -> Mapping[str, int]:
    """Return the deadline of every draining node of the cluster that this process is connected to, by its id."""
    from orchestrator.ray_internals import cluster_state

    deadlines: dict[str, int] = cluster_state.get_draining_nodes()
    return deadlines


def find_node(gcs: Gcs, target: DrainTarget) -> str:
    """Return the id of the node to drain.

    Raises:
        DrainError: there is none, or there are several.
    """
    return choose_node(gcs.alive(), gcs.machine(), target.node_id)


def drain_node(gcs: Gcs, node_id: str, message: str, deadline_ms: int | None) -> str:
    """Drain a node and check that it drains; return a line that says what was done.

    Args:
        gcs: the cluster.
        node_id: the node's id in hexadecimal.
        message: the reason, which Ray shows.
        deadline_ms: when the node will be gone, in milliseconds since 1970; None when that is not known.

    Raises:
        DrainError: the cluster did not answer or did not drain it.
    """
    current_ms = gcs.draining().get(node_id)
    new_ms = deadline_to_set(deadline_ms, current_ms)
    if new_ms is None:
        return f"node {short_id(node_id)} is draining already{_until(current_ms)}"
    gcs.drain(node_id, message, new_ms)
    if node_id in gcs.draining():
        return f"node {short_id(node_id)} drains{_until(new_ms)}"
    if node_id in gcs.alive():
        raise DrainError(
            f"the cluster at {gcs.address} did not drain node {short_id(node_id)}, though it accepted the request."
        )
    return f"node {short_id(node_id)} has left the cluster; nothing ran on it"


def _until(deadline_ms: int | None) -> str:
    return f" until {clock_time(deadline_ms)}" if deadline_ms else ""


def _reachable(address: str | None) -> str:
    """Return the HOST:PORT of a cluster's GCS, which accepts connections."""
    from orchestrator.ray_internals import services

    try:
        gcs_address = str(services.canonicalize_bootstrap_address_or_die(address or "auto"))
    except ValueError:
        raise DrainError("the cluster's address must be HOST:PORT; check --address and RAY_ADDRESS.") from None
    except ConnectionError as error:
        if "multiple" in str(error):
            raise DrainError("several Ray clusters run on this machine; name one with --address HOST:PORT.") from None
        raise DrainError(
            "no Ray runs on this machine; start it first (ray start ...), or name the cluster with --address HOST:PORT."
        ) from None
    host, _, port = gcs_address.rpartition(":")
    try:
        create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DrainError(
            f"no Ray cluster answers at {gcs_address} ({reason}); check --address, RAY_ADDRESS and that the head runs."
        ) from None
    return gcs_address


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


SHORT_ID_LENGTH = 8
MAX_SHOWN = 4


class DrainError(FuserayError):
    """A node could not be found or drained; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class DrainTarget:
    """The node to drain.

    Args:
        address: HOST:PORT of the cluster's GCS; None for the cluster that this machine belongs to.
        node_id: the node's id in hexadecimal; None for the one node on this machine.
    """

    address: str | None = None
    node_id: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """The identity of a machine.

    Args:
        raylets: ids of the nodes whose raylet is a process on it; empty in a container other than Ray's.
        addresses: its network addresses.
    """

    raylets: Set[str]
    addresses: Set[str]


def choose_node(alive: Mapping[str, str], machine: Machine, node_id: str | None) -> str:
    """Return the id of the node to drain.

    Args:
        alive: address of each alive node, by id.
        machine: this machine.
        node_id: the id that the user named; None for the one node on this machine.

    Raises:
        DrainError: there is none, or there are several.
    """
    if node_id is not None:
        if node_id not in alive:
            raise DrainError(f"no alive node of the cluster has the id {node_id}; alive are {_names(alive)}.")
        return node_id
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


def deadline_to_set(notice_ms: int | None, current_ms: int | None) -> int | None:
    """Return the deadline to set in Ray, in milliseconds since 1970, 0 for none; None to leave Ray's deadline as it is.

    A request with a later deadline, or without one, would replace an earlier deadline in Ray, so none is sent then.

    Args:
        notice_ms: the notice's deadline; None when it has none.
        current_ms: the deadline with which the node drains already, 0 without one; None when it does not drain.
    """
    new_ms = 0 if notice_ms is None else max(notice_ms, 1)
    if current_ms is None:
        return new_ms
    return new_ms if new_ms and (current_ms == 0 or new_ms < current_ms) else None


def short_id(node_id: str) -> str:
    """Return the beginning of a node's id, for messages."""
    return node_id[:SHORT_ID_LENGTH]


def _names(nodes: Mapping[str, str] | list[str]) -> str:
    names = sorted(nodes)
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
