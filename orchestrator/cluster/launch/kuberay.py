"""Starting, reaching and ending a cluster that KubeRay runs."""

from __future__ import annotations

import base64
import binascii
import json
import re
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

KIND = "rayclusters.ray.io"
REMOTE_PORT = 8265
READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> ")
HEAD_S = 900.0
LOOK_S = 5.0


class KubeRayLauncher:
    """A RayCluster on Kubernetes.

    Args:
        cluster: its file is a manifest.
        head_s: seconds that the head may take to start, which may need a new machine and a large image.
    """

    def __init__(self, cluster: Cluster, head_s: float = HEAD_S) -> None:
        self._cluster = cluster
        self._head_s = head_s
        self._kubectl = Kubectl(cluster.name, cluster.settings["metadata"].get("namespace"))

    def is_up(self) -> bool:
        """Return whether its head takes requests, as Kubernetes says."""
        found = self._found()
        return found is not None and is_ready(found)

    def up(self, log: Callable[[str], object]) -> None:
        """Apply the manifest and wait for the head.

        Raises:
            ClusterError: Kubernetes does not take the manifest, or the head does not start.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        log(self._kubectl.run("apply", "--filename", str(self._cluster.file)).strip())
        until_s = time.monotonic() + self._head_s
        said = ""
        while not self.is_up():
            if time.monotonic() > until_s:
                raise ClusterError(
                    f"cluster {self._cluster.name}: its head was not ready within {self._head_s:g} s; see "
                    f"`kubectl describe pods -l ray.io/cluster={self._cluster.name}`. Its pods:\n{self._pods()}"
                )
            if (pods := self._pods()) != said:
                log(f"waiting for the head\n{pods}")
                said = pods
            time.sleep(LOOK_S)
        log(f"the head of cluster {self._cluster.name} is ready")

    def down(self, log: Callable[[str], object]) -> None:
        """Delete what the manifest made, with all pods."""
        check_manifest(self._cluster.settings, self._cluster.file)
        file = str(self._cluster.file)
        said = self._kubectl.run("delete", "--filename", file, "--ignore-not-found", "--wait", seconds=self._head_s)
        log(said.strip() or f"cluster {self._cluster.name} is not up")

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Forward a port of the loopback to the head's Service.

        Raises:
            ClusterError: the cluster is not there, or its job server does not answer.
        """
        check_manifest(self._cluster.settings, self._cluster.file)
        found = self._found()
        if found is None:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `fuseray up {self._cluster.file}`."
            )
        secret = secret_name(found)
        token = token_in(self._kubectl.get("secret", secret), secret)
        with tunnel(self._forward(service_name(found))) as opened:
            server = JobServer(f"http://127.0.0.1:{opened[1]}", token)
            check_server(server, self._cluster.name, f"Secret {secret}")
            yield server

    def _found(self) -> Mapping[str, Any] | None:
        return self._kubectl.get(KIND, self._cluster.name)

    def _forward(self, service: str) -> TunnelCommand:
        command = self._kubectl.command(
            "port-forward", f"service/{service}", f":{REMOTE_PORT}", "--address", "127.0.0.1"
        )
        return TunnelCommand(command, READY, f"the way to the head of cluster {self._cluster.name}")

    def _pods(self) -> str:
        return self._kubectl.run(
            "get", "pods", "--selector", f"ray.io/cluster={self._cluster.name}", "--no-headers"
        ).strip()


# Asking Kubernetes through kubectl, with the user's own rights and in the user's own context.


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


# What a RayCluster's manifest and status say about reaching it.


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
