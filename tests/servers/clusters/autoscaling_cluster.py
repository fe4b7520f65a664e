"""A Ray cluster on this machine whose autoscaler starts and ends real nodes, with Ray's provider of fake machines.

It has its own token, home, temporary folder and ports, so that it meets no other Ray of the machine. All its processes
are in one process group, which is ended with it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from processes import free_ports, program

from orchestrator.config.cluster import MACHINE_LABEL

HEAD_ID = "f" * 51 + "00000"
STORE_BYTES = 100 * 2**20
PATIENCE_S = 240.0
END_S = 2.0
COMMANDS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Keys of the configuration that are lists, all empty: nothing is to be installed."""


@dataclass(frozen=True, slots=True)
class FakeGroup:
    """Machines that the autoscaler may start.

    Args:
        name: of the group.
        cpus: of one machine.
        most: how many there may be.
        labels: of their nodes.
    """

    name: str
    cpus: int
    most: int
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the cluster.

    Args:
        time_s: when, in seconds since 1970.
        machines: how many there are, by what their label says.
        working: how many of them have CPUs in use.
    """

    time_s: float
    machines: dict[str, int]
    working: dict[str, int]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which machines were there when.

    Args:
        path: a look a line, as JSON.
    """

    path: Path

    def looks(self) -> list[Look]:
        """Return all looks so far."""
        lines = self.path.read_text().splitlines(keepends=True)
        return [Look(*json.loads(line)) for line in lines if line.endswith("\n")]

    def now(self) -> dict[str, int]:
        """Return how many machines there are of each kind, none before the first look."""
        looks = self.looks()
        return looks[-1].machines if looks else {}

    def changes(self) -> list[Look]:
        """Return the looks that found other machines than the look before."""
        looks = self.looks()
        return [look for number, look in enumerate(looks) if number == 0 or look.machines != looks[number - 1].machines]


@dataclass(frozen=True, slots=True)
class AutoscalingCluster:
    """The cluster, as a test sees it.

    Args:
        address: HOST:PORT of its GCS.
        environment: variables with which other processes reach it.
        folder: its temporary folder.
    """

    address: str
    environment: Mapping[str, str]
    folder: Path

    @contextmanager
    def watched(self) -> Iterator[Timeline]:
        """Look at the machines every second, in a process of its own."""
        command = [sys.executable, __file__, self.address]
        path = self.folder / "timeline"
        with path.open("w") as output, (self.folder / "watch.log").open("w") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
            )
            try:
                yield Timeline(path)
            finally:
                process.communicate(timeout=PATIENCE_S)

    def log_of_the_autoscaler(self) -> str:
        """Return what the autoscaler has logged."""
        return "".join(path.read_text() for path in self.folder.glob("session_*/logs/monitor.log"))


@contextmanager
def autoscaling_cluster(
    groups: Sequence[FakeGroup], head_labels: Mapping[str, str], head_cpus: int = 1, idle_s: float = 10.0
) -> Iterator[AutoscalingCluster]:
    """Run a cluster; at first it has a head alone.

    Args:
        groups: machines that may be started.
        head_labels: of the head's node.
        head_cpus: of the head.
        idle_s: after so long a machine that does nothing is ended.
    """
    with TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        address = f"{_own_address()}:{free_ports(1)[0]}"
        config = folder / "autoscaling.json"
        config.write_text(json.dumps(_config(groups, head_cpus, idle_s, address)))
        environment = _environment(folder)
        command = _start_command(folder, address, head_labels, head_cpus, config)
        with (folder / "log").open("w") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_head(head, address, folder / "log")
            yield AutoscalingCluster(address, environment, folder)
        finally:
            _end(head)


def _start_command(folder: Path, address: str, labels: Mapping[str, str], cpus: int, config: Path) -> list[str]:
    host, _, port = address.partition(":")
    return [
        program("ray"),
        "start",
        "--head",
        "--block",
        f"--node-ip-address={host}",
        f"--port={port}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={STORE_BYTES}",
        f"--labels={','.join(f'{name}={value}' for name, value in labels.items())}",
        f"--temp-dir={folder}",
        f"--autoscaling-config={config}",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]


def _config(groups: Sequence[FakeGroup], head_cpus: int, idle_s: float, address: str) -> dict[str, Any]:
    head = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    types = {
        group.name: {
            "resources": {"CPU": group.cpus, "object_store_memory": STORE_BYTES},
            "labels": dict(group.labels),
            "node_config": {},
            "min_workers": 0,
            "max_workers": group.most,
        }
        for group in groups
    }
    return {
        "cluster_name": "fake",
        "max_workers": sum(group.most for group in groups),
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "gcs_address": address,
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in COMMANDS},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head} | types,
    }


def _environment(folder: Path) -> dict[str, str]:
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }


def _own_address() -> str:
    """Return this machine's address, under which its nodes find one another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("10.255.255.255", 1))
        return str(probe.getsockname()[0])


def _await_head(head: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"no Ray at {address}:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def _end(head: subprocess.Popen[bytes]) -> None:
    """End all processes of the cluster; they are in the head's session, whatever groups they have made."""
    own = [one for one in psutil.process_iter() if _session(one.pid) == head.pid]
    head.terminate()
    with suppress(subprocess.TimeoutExpired):
        head.wait(END_S)
    for process in own:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _watch(address: str) -> None:
    """Print every second which machines there are and which of them work, until standard input is closed."""
    import ray

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where Ray says what nobody asked
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    while not select.select([sys.stdin], [], [], 1.0)[0]:
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        free = ray._private.state.available_resources_per_node()
        names = {node_id: node["Labels"].get(MACHINE_LABEL, "") for node_id, node in nodes.items()}
        busy = [
            names[node_id]
            for node_id, node in nodes.items()
            if node_id in free and free[node_id].get("CPU", 0.0) < node["Resources"]["CPU"]
        ]
        print(json.dumps([time.time(), Counter(names.values()), Counter(busy)]), file=answers, flush=True)


if __name__ == "__main__":
    _watch(sys.argv[1])
