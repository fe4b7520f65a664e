"""What a RayCluster's manifest and status say about reaching it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.errors import ClusterError

LONGEST_NAME = 50
TOKEN_KEY = "auth_token"  # noqa: S105


def check_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    """See that a manifest is of a cluster that can be started and reached.

    Raises:
        ClusterError: it is a job's, or its cluster would ask for no token.
    """
    kind = manifest.get("kind")
    if kind != "RayCluster":
        raise ClusterError(
            f"{file}: a {kind} brings its own cluster and goes with it; start it with `kubectl apply -f {file}`, or "
            "use a file with a RayCluster, such as clusters/kuberay/raycluster.yaml, with `fuseray submit`."
        )
    options = manifest["spec"].get("authOptions") or {}
    if options.get("mode") != "token":
        raise ClusterError(
            f"{file}: the cluster would ask for no token, so whoever reaches it could run code on it; put "
            "`authOptions: {mode: token}` under spec."
        )
    if options.get("enableK8sTokenAuth"):
        raise ClusterError(
            f"{file}: Fuseray has no use for tokens of Kubernetes (enableK8sTokenAuth); leave that key out, so that "
            "KubeRay makes a token for the cluster."
        )


def secret_name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the Secret with the cluster's token: the one it names, or the one that KubeRay makes."""
    named = (manifest["spec"].get("authOptions") or {}).get("secretName")
    return str(named) if named else fitted_name(str(manifest["metadata"]["name"]))


def service_name(found: Mapping[str, Any]) -> str:
    """Return the name of the head's Service: as the cluster's status says, or as KubeRay would name it."""
    head = (found.get("status") or {}).get("head") or {}
    return str(head.get("serviceName") or fitted_name(f"{found['metadata']['name']}-head-svc"))


def fitted_name(name: str) -> str:
    """Return a name as KubeRay cuts it: its last 50 characters, with a letter in front."""
    cut = name[-LONGEST_NAME:]
    return cut if cut[0].isalpha() else f"r{cut[1:]}"


def is_ready(found: Mapping[str, Any]) -> bool:
    """Return whether the head of a RayCluster takes requests, by its status."""
    conditions = (found.get("status") or {}).get("conditions") or []
    return any(one["type"] == "HeadPodReady" and one["status"] == "True" for one in conditions)


def token_in(secret: Mapping[str, Any] | None, name: str) -> str:
    """Return the token in a Secret.

    Args:
        secret: the Secret, None when there is none.
        name: its name.

    Raises:
        ClusterError: it holds none.
    """
    encoded = ((secret or {}).get("data") or {}).get(TOKEN_KEY)
    try:
        return base64.b64decode(encoded or "", validate=True).decode("ascii").strip() or _no_token(name)
    except (binascii.Error, UnicodeDecodeError):
        return _no_token(name)


def _no_token(name: str) -> str:
    raise ClusterError(
        f"Secret {name} holds no token under {TOKEN_KEY}; KubeRay makes one from 1.5.1 on: update its operator, or "
        "make the Secret and name it in spec.authOptions.secretName."
    )
