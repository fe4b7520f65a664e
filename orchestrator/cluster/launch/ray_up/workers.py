"""Stopping Ray on machines of one's own: `ray down` ends it on the head alone there."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.cluster.launch.ray_up.head import Head

KEY_ON_HEAD = "ray_bootstrap_key.pem"
"""Ray's launcher leaves the key that opens the workers in the home of the head."""

STOP = "bash -lic 'source ~/.bashrc; ray stop' 2>&1"
"""Finds Ray as the launcher's own commands do, in an interactive login shell that reads ~/.bashrc."""

CONNECT_S = 10
STOP_S = 60.0
AT_ONCE = 32


def own_workers(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses of the workers, none where a provider makes and ends its machines."""
    provider: Mapping[str, Any] = settings.get("provider") or {}
    return tuple(provider.get("worker_ips") or ()) if provider.get("type") == "local" else ()


def stop_workers(workers: Sequence[str], head: Head, way: Sequence[str], say: Callable[[str], object]) -> None:
    """Stop Ray on all workers, by way of the head.

    Args:
        workers: their addresses, as the head reaches them.
        head: says who logs in.
        way: the SSH command that runs a command on the head.
        say: is told which worker could not be reached.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="stop-worker") as pool:
        for worker, fault in zip(workers, pool.map(lambda one: _stop(one, head.user, way), workers), strict=True):
            if fault:
                say(f"{worker}: Ray could not be stopped there ({fault}); run `ray stop` on it when it can be reached.")


def _stop(worker: str, user: str, way: Sequence[str]) -> str | None:
    """Stop Ray on a worker; return why that failed, None when it did not."""
    options = (
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_S}",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    )
    flags = [word for option in ("LogLevel=ERROR", "IdentitiesOnly=yes", *options) for word in ("-o", option)]
    hop = shlex.join(["ssh", "-i", KEY_ON_HEAD, *flags, "-l", user, "--", worker, STOP])
    try:
        ran = subprocess.run(
            [*way, hop], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {STOP_S:g} s"
    said = (ran.stdout.strip() or ran.stderr.strip()).splitlines()
    return None if ran.returncode == 0 else (said[-1] if said else f"exit code {ran.returncode}")
