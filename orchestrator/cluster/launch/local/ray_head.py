"""How Ray is started on this machine: closed to other machines, with a token, apart from every other Ray here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.launch.local.processes import MARK
from orchestrator.cluster.launch.ports import LOOPBACK, free_port
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Cluster

DASHBOARD_PORT = 8265


def start_command(cluster: Cluster, folder: Path, port: int) -> list[str]:
    """Return the command that starts Ray.

    Args:
        cluster: what its settings ask for.
        folder: temporary folder of this start; Ray opens its own folder to everybody, so it gets one inside.
        port: of the job server and dashboard.
    """
    settings = cluster.settings
    options = {
        "node-ip-address": LOOPBACK,
        "port": 0,
        "dashboard-host": LOOPBACK,
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": folder / "ray",
        "object-store-memory": _bytes(settings.get("object_store_mb")),
        "num-cpus": _whole(settings.get("cpus")),
        "num-gpus": _whole(settings.get("gpus")),
        "labels": _labels(cluster),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--include-dashboard=true", *given]


def environment(known: Mapping[str, str], folder: Path, token_file: Path) -> dict[str, str]:
    """Return the variables of the cluster's processes: this process's own, but what they say of some other Ray.

    Args:
        known: this process's variables.
        folder: temporary folder of this start.
        token_file: the file with the token.
    """
    kept = {name: value for name, value in known.items() if not name.startswith("RAY_")}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), known.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without clusters of several machines, Ray stays on the loopback
        "SPT_NOENV": "1",  # or the long names that Ray gives to its processes would overwrite the mark
        MARK: str(folder),
    }


def wanted_port(settings: Mapping[str, Any]) -> int:
    """Return the port that the settings name for the job server, or Ray's own."""
    return int(settings.get("dashboard_port") or DASHBOARD_PORT)


def _whole(count: float | None) -> int | None:
    """Return a count as `ray start` takes it, which is without fractions."""
    return None if count is None else max(0, int(count))


def _labels(cluster: Cluster) -> str | None:
    head = cluster.head
    known = {MACHINE_LABEL: head.machine, MARKET_LABEL: None if head.market == "owned" else head.market}
    return ",".join(f"{name}={value}" for name, value in known.items() if value) or None


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 10**6)
