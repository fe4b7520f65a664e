"""A cluster that KubeRay runs on Kubernetes: its launcher, kubectl, and what its manifest and status say.

kubectl runs with the user's own rights, in the user's own context.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import JobServer, check_server
from orchestrator.cluster.launch.subprocesses import TunnelCommand, find_program, tunnel
from orchestrator.config.cluster import Cluster
from orchestrator.config.commands import command_line

KIND = "rayclusters.ray.io"
REMOTE_PORT = 8265
READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
HEAD_S = 900.0
POLL_S = 5.0


class KubeRayLauncher:
    """A RayCluster on Kubernetes.

    Args:
        cluster: its file is a manifest.
        head_s: timeout for the start of the head, in seconds; it may need a new machine and a large image.
    """

    def __init__(self, cluster: Cluster, head_s: float = HEAD_S) -> None:
        self._cluster = cluster
        self._head_s = head_s
        self._kubectl = Kubectl(cluster.name, cluster.settings["metadata"].get("namespace"))

    def is_up(self) -> bool:
        """Return whether its head is ready, according to its status in Kubernetes."""
        manifest = self._manifest()
        return manifest is not None and is_ready(manifest)

    def up(self, log: Callable[[str], object]) -> None:
        """Apply the manifest and wait for the head.

        Raises:
            ClusterError: Kubernetes rejects the manifest, or the head does not start.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        log(self._kubectl.run("apply", "--filename", str(self._cluster.file)).strip())
        deadline_s = time.monotonic() + self._head_s
        logged_pods = ""
        while not self.is_up():
            if time.monotonic() > deadline_s:
                raise ClusterError(
                    f"cluster {self._cluster.name}: its head was not ready within {self._head_s:g} s; see "
                    f"`kubectl describe pods -l ray.io/cluster={self._cluster.name}`. Its pods:\n{self._pods()}"
                )
            if (pods := self._pods()) != logged_pods:
                log(f"waiting for the head\n{pods}")
                logged_pods = pods
            time.sleep(POLL_S)
        log(f"the head of cluster {self._cluster.name} is ready")

    def down(self, log: Callable[[str], object]) -> None:
        """Delete the manifest's resources, with all pods."""
        check_manifest(self._cluster.settings, self._cluster.file)
        file = str(self._cluster.file)
        output = self._kubectl.run("delete", "--filename", file, "--ignore-not-found", "--wait", timeout_s=self._head_s)
        log(output.strip() or f"cluster {self._cluster.name} is not up")

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Forward a port of the loopback to the head's Service.

        Raises:
            ClusterError: the cluster is not up, or its job server does not answer.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        manifest = self._manifest()
        if manifest is None:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `{command_line('up', self._cluster.file)}`."
            )
        secret = secret_name(manifest)
        token = token_in(self._kubectl.get("secret", secret), secret)
        with tunnel(self._port_forward(service_name(manifest))) as ready:
            server = JobServer(f"http://127.0.0.1:{ready[1]}", token)
            check_server(server, self._cluster.name, f"Secret {secret}")
            yield server

    def _manifest(self) -> Mapping[str, Any] | None:
        return self._kubectl.get(KIND, self._cluster.name)

    def _port_forward(self, service: str) -> TunnelCommand:
        command = self._kubectl.command(
            "port-forward", f"service/{service}", f":{REMOTE_PORT}", "--address", "127.0.0.1"
        )
        return TunnelCommand(command, READY, f"the port-forward to the head of cluster {self._cluster.name}")

    def _pods(self) -> str:
        return self._kubectl.run(
            "get", "pods", "--selector", f"ray.io/cluster={self._cluster.name}", "--no-headers"
        ).strip()


REQUEST_TIMEOUT = "--request-timeout=15s"
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
        "Kubernetes rejects your credentials; log in again and see `kubectl config view --minify`.",
    ),
    (
        r"refused|unable to connect|no such host|timed out|i/o timeout|deadline exceeded|no configuration",
        "no Kubernetes cluster answers; see `kubectl config current-context` and whether you reach that cluster.",
    ),
)
"""Patterns of kubectl's errors, with what each means and its fix; the first match counts."""


class Kubectl:
    """Runs kubectl for one cluster.

    Args:
        cluster: its name, for messages.
        namespace: its namespace; None for the context's own.
    """

    def __init__(self, cluster: str, namespace: str | None) -> None:
        self._cluster = cluster
        self._namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        """Return a command line.

        Raises:
            ClusterError: kubectl is not installed.
        """
        kubectl = find_program("kubectl", f"cluster {self._cluster}", INSTALL)
        return [kubectl, *arguments, *(["--namespace", self._namespace] if self._namespace else [])]

    def run(self, *arguments: str, timeout_s: float = ANSWER_S) -> str:
        """Run a command to its end and return its output.

        Raises:
            ClusterError: it failed; the message has the meaning, the fix and kubectl's own error.
        """
        try:
            completed = subprocess.run(
                self.command(*arguments, REQUEST_TIMEOUT),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"cluster {self._cluster}: `kubectl {arguments[0]}` took more than {timeout_s:g} s; check that "
                "Kubernetes answers."
            ) from None
        if completed.returncode != 0:
            raise ClusterError(f"cluster {self._cluster}: {explain(completed.stderr)}")
        return completed.stdout

    def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """Return a resource, None when there is none of that name.

        Raises:
            ClusterError: kubectl failed.
        """
        output = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        resource: Mapping[str, Any] | None = json.loads(output) if output.strip() else None
        return resource


def explain(stderr: str) -> str:
    """Return the meaning and the fix of kubectl's error, if they are known, and the error itself."""
    error = " ".join(_without_log_lines(stderr).split())
    meaning = next((advice for pattern, advice in REASONS if re.search(pattern, stderr, re.IGNORECASE)), None)
    return f"{meaning} kubectl says: {error}" if meaning else f"kubectl says: {error}"


def _without_log_lines(stderr: str) -> str:
    """Return the end of kubectl's standard error, without log lines."""
    lines: Sequence[str] = [line for line in stderr.splitlines() if line.strip() and not re.match(r"[EWI]\d{4} ", line)]
    return "\n".join(lines)[-KEPT_CHARACTERS:] or "nothing"


LONGEST_NAME = 50
TOKEN_KEY = "auth_token"  # noqa: S105


def check_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    """Check that a manifest is of a RayCluster with token authentication.

    Raises:
        ClusterError: it is a RayJob, or its cluster would not require a token.
    """
    kind = manifest.get("kind")
    if kind != "RayCluster":
        command = shlex.join(["kubectl", "apply", "-f", str(file)])
        raise ClusterError(
            f"{file}: a {kind} makes its own cluster and deletes it; start it with `{command}`, or "
            "use a file with a RayCluster, as in `fuseray submit RECIPE --cluster kuberay/raycluster`."
        )
    options = manifest["spec"].get("authOptions") or {}
    if options.get("mode") != "token":
        raise ClusterError(
            f"{file}: the cluster would not require a token, so anyone who reaches it could run code on it; put "
            "`authOptions: {mode: token}` under spec."
        )
    if options.get("enableK8sTokenAuth"):
        raise ClusterError(
            f"{file}: Fuseray does not use tokens of Kubernetes (enableK8sTokenAuth); leave that key out, so that "
            "KubeRay makes a token for the cluster."
        )


def secret_name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the Secret with the cluster's token: the manifest's, or the one that KubeRay makes."""
    secret = (manifest["spec"].get("authOptions") or {}).get("secretName")
    return str(secret) if secret else kuberay_name(str(manifest["metadata"]["name"]))


def service_name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the head's Service: the one in the status, or the one that KubeRay would give it."""
    head = (manifest.get("status") or {}).get("head") or {}
    return str(head.get("serviceName") or kuberay_name(f"{manifest['metadata']['name']}-head-svc"))


def kuberay_name(name: str) -> str:
    """Return a name as KubeRay truncates it: its last 50 characters, beginning with a letter."""
    last = name[-LONGEST_NAME:]
    return last if last[0].isalpha() else f"r{last[1:]}"


def is_ready(manifest: Mapping[str, Any]) -> bool:
    """Return whether the head of a RayCluster is ready, by its status."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "HeadPodReady" and condition["status"] == "True" for condition in conditions)


def token_in(secret: Mapping[str, Any] | None, name: str) -> str:
    """Return the token in a Secret.

    Args:
        secret: the Secret, None when there is none.
        name: its name, for the message.

    Raises:
        ClusterError: there is no token in it.
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
