"""Draining a node through Ray's GCS. All that the project uses of Ray beyond its public interface for it is here.

It is what Ray's own hidden command `ray drain-node` does. `GcsClient` tries for 40 seconds to reach a GCS that is not
there, and may end the whole process, so `drain_process` runs this in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from socket import create_connection
from typing import Any

from orchestrator.cluster.preemption.node import DrainError, Machine, Target, choose_node, deadline_to_set, short
from orchestrator.cluster.preemption.notice import clock_time

CONNECT_S = 5.0
CALL_S = 10.0
REFUSED = (
    "wants its token, and this process has none that fits: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file "
    "with the cluster's token, as for `ray start` on this machine."
)


class Gcs:
    """A connection to a cluster's GCS.

    Args:
        address: HOST:PORT; None for the cluster that this machine belongs to.

    Raises:
        DrainError: there is none, it does not answer, or it wants another token.
    """

    def __init__(self, address: str | None) -> None:
        from ray._private.authentication import authentication_token_setup as tokens
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.exceptions import AuthenticationError, RayError

        self.address = _reachable(address)
        try:
            tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            tokens.ensure_token_if_auth_enabled(create_token_if_missing=False)
            self._client = GcsClient(address=self.address)
        except AuthenticationError:
            raise DrainError(f"the cluster at {self.address} {REFUSED}") from None
        except RayError as error:
            raise DrainError(f"the cluster at {self.address} does not answer ({_first_line(error)}).") from None

    def alive(self) -> Mapping[str, str]:
        """Return the network address of every alive node, by its id."""
        from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

        found = self._call("get_all_node_info", state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
        return {node_id.hex(): node.node_manager_address for node_id, node in found.items()}

    def draining(self) -> Mapping[str, int]:
        """Return the deadline of every draining node by its id: milliseconds since 1970, 0 for none."""
        return dict(self._call("get_draining_nodes"))

    def drain(self, node_id: str, message: str, deadline_ms: int) -> None:
        """Ask for a drain because of preemption; such a request replaces the one before it.

        Ray says yes to nodes that it does not know, too.
        """
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, refusal = self._call("drain_node", node_id, reason, message, deadline_ms)
        if not accepted:
            raise DrainError(f"the cluster at {self.address} refuses to drain node {short(node_id)}: {refusal}.")

    def machine(self) -> Machine:
        """Return what this machine knows of itself."""
        import ray
        from ray._private import services

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
    import ray

    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found


def find_node(gcs: Gcs, target: Target) -> str:
    """Return the id of the node to drain.

    Raises:
        DrainError: there is none, or there are several.
    """
    return choose_node(gcs.alive(), gcs.machine(), target.node_id)


def drain_node(gcs: Gcs, node_id: str, message: str, deadline_ms: int | None) -> str:
    """Drain a node and see that it drains; return in one line what was done.

    Args:
        gcs: the cluster.
        node_id: the node's id in hexadecimal.
        message: why, for people.
        deadline_ms: when the node will be gone, in milliseconds since 1970; None when that is not known.

    Raises:
        DrainError: the cluster did not answer or did not do it.
    """
    standing_ms = gcs.draining().get(node_id)
    told_ms = deadline_to_set(deadline_ms, standing_ms)
    if told_ms is None:
        return f"node {short(node_id)} is draining already{_until(standing_ms)}"
    gcs.drain(node_id, message, told_ms)
    if node_id in gcs.draining():
        return f"node {short(node_id)} drains{_until(told_ms)}"
    if node_id in gcs.alive():
        raise DrainError(f"the cluster at {gcs.address} did not drain node {short(node_id)}, though it said yes.")
    return f"node {short(node_id)} has left the cluster; nothing ran on it"


def _until(deadline_ms: int | None) -> str:
    return f" until {clock_time(deadline_ms)}" if deadline_ms else ""


def _reachable(address: str | None) -> str:
    """Return the HOST:PORT of a cluster at which something listens."""
    from ray._private import services

    try:
        found = str(services.canonicalize_bootstrap_address_or_die(address or "auto"))
    except ValueError:
        raise DrainError("the cluster's address must be HOST:PORT; check --address and RAY_ADDRESS.") from None
    except ConnectionError as error:
        if "multiple" in str(error):
            raise DrainError("several Ray clusters run on this machine; name one with --address HOST:PORT.") from None
        raise DrainError(
            "no Ray runs on this machine; start it first (ray start ...), or name the cluster with --address HOST:PORT."
        ) from None
    host, _, port = found.rpartition(":")
    try:
        create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise DrainError(
            f"no Ray cluster answers at {found} ({said}); check --address, RAY_ADDRESS and that the head runs."
        ) from None
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
