"""A Ray cluster of several nodes on this machine, in a process of its own that does what it is told.

It has its own token, home and temporary folder, so that it meets no other Ray of the machine and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STORE_BYTES = 100 * 2**20
PATIENCE_S = 240.0
END_S = 60.0


class RayCluster:
    """The cluster, as a test sees it.

    Args:
        process: the process that holds the cluster.
        environment: variables with which other processes reach it.
        log: what it says beside its answers.
    """

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str], log: Path) -> None:
        self._process = process
        self._log = log
        self.environment = environment
        self.address = str(self.tell("address"))

    def tell(self, command: str, argument: str = "") -> Any:
        """Have something done (see `Commands`) and return what came of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([command, argument]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the cluster ended at {command!r}:\n{self._log.read_text()[-3000:]}")
        return json.loads(answer)


@contextmanager
def ray_cluster(
    script: Path = Path(__file__),
    arguments: tuple[str, ...] = (),
    settings: Mapping[str, str] | None = None,
    isolated: bool = True,
) -> Iterator[RayCluster]:
    """Run a cluster; at first it has a head alone.

    Args:
        script: what its process runs; it calls `serve`.
        arguments: of the script.
        settings: further variables of all its processes.
        isolated: whether it has a token, a home and a temporary folder of its own.
    """
    with TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as name:
        own = _isolation(Path(name)) if isolated else {}
        kept = {key: value for key, value in os.environ.items() if not (isolated and key.startswith("RAY_"))}
        environment = kept | own | dict(settings or {})
        with (Path(name) / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
            try:
                yield RayCluster(process, environment, Path(name) / "log")
            finally:
                _end(process)


def _isolation(folder: Path) -> dict[str, str]:
    """Return the variables that keep a cluster apart from every other Ray of the machine."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    return {
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
    }


def _end(process: subprocess.Popen[str]) -> None:
    """Let the cluster end, and end what does not by itself."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Commands:
    """What the cluster's process can be told."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._holders: list[Any] = []
        self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False)
        ray.init(address=self._cluster.address, log_to_driver=False)

    def address(self, _: str) -> str:
        """Return HOST:PORT of the GCS."""
        return str(self._cluster.address)

    def head(self, _: str) -> str:
        """Return the id of the head."""
        return str(self._cluster.head_node.node_id)

    def add(self, _: str) -> str:
        """Add a node, keep it busy, and return its id; Ray lets a draining node go as soon as nothing runs on it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = str(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES).node_id)
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        holder = ray.remote(_Holder).options(num_cpus=1, scheduling_strategy=here).remote()
        ray.get(holder.hold.remote())
        self._holders.append(holder)
        return node

    def draining(self, _: str) -> dict[str, int]:
        """Return the deadlines of the draining nodes by id, as Ray Train sees them."""
        import ray

        return dict(ray._private.state.state.get_draining_nodes())

    def watch(self, source: str) -> list[str]:
        """Start a watcher on every node."""
        from orchestrator.cluster.preemption.watcher import Watchers

        self._watchers = Watchers(source, interval_s=0.2)
        self._watchers.refresh()
        return []

    def kill(self, node: str) -> list[str]:
        """Kill the watcher of a node."""
        import ray

        ray.kill(self._watchers._running[node].actor)
        return []

    def refresh(self, lines: str) -> list[str]:
        """Refresh the watchers until so many lines came."""
        found: list[str] = list(self._watchers.refresh())
        until_s = time.monotonic() + PATIENCE_S
        while len(found) < int(lines) and time.monotonic() < until_s:
            time.sleep(0.1)
            found += self._watchers.refresh()
        return found

    def only(self, node: str) -> list[str]:
        """Watch a node and no other; return the nodes that are watched."""
        self._watchers.refresh([node])
        return list(self._watchers._running)

    def stop(self, _: str) -> list[str]:
        """Stop the watchers."""
        self._watchers.stop()
        return []

    def end(self) -> None:
        """End the cluster."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


class _Holder:
    def hold(self) -> None:
        pass


def serve(make: Callable[[], Commands]) -> None:
    """Do what standard input says, one JSON list a line, and print one JSON value for each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands = make()
    for line in sys.stdin:
        command, argument = json.loads(line)
        print(json.dumps(getattr(commands, command)(argument)), file=answers, flush=True)
    commands.end()


if __name__ == "__main__":
    serve(Commands)
