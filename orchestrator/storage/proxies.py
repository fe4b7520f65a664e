"""Keeps the proxies that the environment names away from this machine's own loopback.

Proxies are about the outside, yet most clients (requests, botocore, curl, gRPC) would ask one for 127.0.0.1 too: for an
MLflow on this machine, a tunnel to a job server, a local object store. Other hosts keep the user's proxies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")
"""In the spellings of the clients: some take no networks, some want brackets."""

EXCEPTIONS = ("no_proxy", "NO_PROXY")
GRPC_EXCEPTIONS = "no_grpc_proxy"
"""gRPC reads this variable instead where it is set."""

ALL = "*"


def loopback_exceptions(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which no client asks a proxy for the loopback; empty when there is no proxy.

    Args:
        variables: the environment's.
    """
    names = [name.lower() for name, value in variables.items() if value]
    if not any(name.endswith("_proxy") and not name.startswith("no_") for name in names):
        return {}
    given = next((variables[name] for name in EXCEPTIONS if variables.get(name)), "")
    exceptions = {name: _with_loopback(variables.get(name) or given) for name in EXCEPTIONS}
    if variables.get(GRPC_EXCEPTIONS):
        exceptions[GRPC_EXCEPTIONS] = _with_loopback(variables[GRPC_EXCEPTIONS])
    return exceptions


def _with_loopback(hosts: str) -> str:
    listed = [host.strip() for host in hosts.split(",") if host.strip()]
    return hosts if ALL in listed else ",".join([*listed, *(host for host in LOOPBACK if host not in listed)])


def keep_loopback_direct() -> None:
    """Set these variables in this process, and so for what it starts."""
    os.environ.update(loopback_exceptions(os.environ))
