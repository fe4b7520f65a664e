"""Asking Kubernetes through kubectl, with the user's own rights and in the user's own context."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.programs import find_program

REQUEST = "--request-timeout=15s"
ANSWER_S = 90.0
KEPT_CHARACTERS = 600
INSTALL = "install it (https://kubernetes.io/docs/tasks/tools/) and give it the cluster's kubeconfig."

REASONS = (
    (
        r"no matches for kind|doesn't have a resource type",
        "Kubernetes does not know RayCluster; install the KubeRay operator there (helm install kuberay-operator).",
    ),
    (
        r"forbidden",
        "your account may not do this there; ask for the rights to ray.io RayClusters, their secrets and port-forward.",
    ),
    (
        r"unauthorized|must be logged in|provide credentials",
        "Kubernetes does not know you; log in again and see `kubectl config view --minify`.",
    ),
    (
        r"refused|unable to connect|no such host|timed out|i/o timeout|deadline exceeded|no configuration",
        "no Kubernetes cluster answers; see `kubectl config current-context` and whether you reach that cluster.",
    ),
)
"""What kubectl's words mean; the first that fits counts."""


class Kubectl:
    """Runs kubectl for one cluster.

    Args:
        cluster: its name, for messages.
        namespace: where it is; None for the context's own.
    """

    def __init__(self, cluster: str, namespace: str | None) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        """Return a command line.

        Raises:
            ClusterError: there is no kubectl.
        """
        kubectl = find_program("kubectl", f"cluster {self._cluster}", INSTALL)
        return [kubectl, *arguments, *(["--namespace", self._namespace] if self._namespace else [])]

    def run(self, *arguments: str, seconds: float = ANSWER_S) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            ClusterError: it failed; the message says why, in kubectl's words and in ours.
        """
        try:
            ran = subprocess.run(
                self.command(*arguments, REQUEST),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"cluster {self._cluster}: `kubectl {arguments[0]}` took more than {seconds:g} s; see whether "
                "Kubernetes answers."
            ) from None
        if ran.returncode != 0:
            raise ClusterError(f"cluster {self._cluster}: {explain(ran.stderr)}")
        return ran.stdout

    def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """Return an object, None when there is none of that name.

        Raises:
            ClusterError: nobody can say.
        """
        said = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        found: Mapping[str, Any] | None = json.loads(said) if said.strip() else None
        return found


def explain(stderr: str) -> str:
    """Return what kubectl's complaint means and what to do, with its own words."""
    words = " ".join(_last(stderr).split())
    meant = next((advice for pattern, advice in REASONS if re.search(pattern, stderr, re.IGNORECASE)), None)
    return f"{meant} kubectl says: {words}" if meant else f"kubectl says: {words}"


def _last(stderr: str) -> str:
    """Return the end of a complaint, without the log lines before it."""
    lines: Sequence[str] = [line for line in stderr.splitlines() if line.strip() and not re.match(r"[EWI]\d{4} ", line)]
    return "\n".join(lines)[-KEPT_CHARACTERS:] or "nothing"
