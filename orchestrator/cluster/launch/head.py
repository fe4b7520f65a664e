"""Finds the head of a cluster of Ray's launcher, by a query in a child process: Ray's launcher may hang, or print.

`main` and the functions below it run in the child, as `python -m orchestrator.cluster.launch.head`.
"""

from __future__ import annotations

from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.ssh import Head
from orchestrator.cluster.launch.subprocesses import ChildFailedError, answer_parent, query_child
from orchestrator.config.cluster import Cluster

CHILD = "orchestrator.cluster.launch.head"
ANSWER_S = 90.0
KEPT_LINES = 5


def find_head(cluster: Cluster, folder: Path) -> Head | None:
    """Return the head of a cluster, None when it has none.

    Args:
        cluster: a cluster of Ray's launcher.
        folder: where Ray caches what it resolved from the cluster's file; see `launcher_variables`.

    Raises:
        ClusterError: Ray's launcher failed or did not answer.
    """
    try:
        answer = query_child(CHILD, {"file": str(cluster.file)}, ANSWER_S, launcher_variables(folder))
    except TimeoutExpired:
        raise ClusterError(
            f"cluster {cluster.name}: Ray's launcher did not find its head within {ANSWER_S:g} s; check the network "
            "and the provider of its machines."
        ) from None
    except ChildFailedError as error:
        last_lines = "\n".join(error.output.splitlines()[-KEPT_LINES:])
        raise ClusterError(f"cluster {cluster.name}: Ray cannot say where its head is:\n{last_lines}") from None
    if "error" in answer:
        raise ClusterError(f"cluster {cluster.name}: Ray cannot say where its head is: {answer['error']}")
    return None if answer["address"] is None else _head(answer["address"], answer["auth"])


def launcher_variables(folder: Path) -> dict[str, str]:
    """Return variables for programs of Ray's launcher: their temporary files, which hold secrets, stay in a folder."""
    return {"TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}


def _head(address: str, auth: dict[str, Any]) -> Head:
    key = auth.get("ssh_private_key")
    return Head(
        address=address,
        user=auth["ssh_user"],
        key=Path(key).expanduser() if key else None,
        proxy=auth.get("ssh_proxy_command"),
    )


NO_HEAD = "not found"
"""Part of Ray's message when there is no head."""


def main() -> None:
    """Answer the question on standard input."""
    answer_parent(_answer)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return the address of the head of the cluster in `file`, and how to log in, or Ray's error."""
    try:
        address = _address(question["file"])
        return {"address": address, "auth": _auth(question["file"]) if address else {}}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _address(file: str) -> str | None:
    """Return the head's address, None when no head was set up."""
    from ray.autoscaler.sdk import get_head_node_ip

    try:
        return str(get_head_node_ip(file))
    except RuntimeError as error:
        if NO_HEAD in str(error):
            return None
        raise


def _auth(file: str) -> dict[str, Any]:
    """Return the section `auth` with what the provider adds to it, such as the key that it made.

    Ray caches it in `ray up`; without that cache, Ray resolves it again.
    """
    import yaml
    from ray.autoscaler._private.commands import _bootstrap_config

    with open(file) as stream:
        config = _bootstrap_config(yaml.safe_load(stream))
    auth: dict[str, Any] = config["auth"]
    return auth


if __name__ == "__main__":
    main()
