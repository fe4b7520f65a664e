"""A notice drains a node of a real Ray cluster with token authentication; so the private calls into Ray still hold."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from ray_cluster import RayCluster, ray_cluster

PATIENCE_S = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def node(cluster: RayCluster) -> str:
    return str(cluster.tell("add"))


def watch(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli", "watch-preemption", "--interval-s", "0.1", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, output = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def test_a_file_that_appears_drains_its_node_alone(cluster: RayCluster, node: str, tmp_path: Path) -> None:
    file = tmp_path / "gone"
    watcher = watch(cluster.environment, "--source", f"file:{file}", "--address", cluster.address, "--node-id", node)
    assert watcher.stderr is not None
    first = watcher.stderr.readline()
    assert f"watching file every 0.1 s for node {node[:8]} of the cluster at {cluster.address}" in first
    assert cluster.tell("draining") == {}
    (tmp_path / "new").write_text('{"deadline_s": 600, "reason": "the power goes"}')
    deadline_ms = int((tmp_path / "new").stat().st_mtime * 1000) + 600_000
    (tmp_path / "new").rename(file)
    code, output = end_of(watcher)
    assert code == 0, output
    assert "the power goes" in output
    assert f"node {node[:8]} drains until " in output
    draining = cluster.tell("draining")
    assert draining.keys() == {node}
    assert abs(draining[node] - deadline_ms) <= 1
    again = end_of(
        watch(cluster.environment, "--source", f"file:{file}", "--node-id", node, "--address", cluster.address)
    )
    assert again[0] == 0
    assert "is draining already until" in again[1]


def test_sigterm_ends_the_watch_cleanly(cluster: RayCluster, node: str, tmp_path: Path) -> None:
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    watcher = watch(environment, "--source", f"file:{tmp_path / 'never'}", "--node-id", node)
    assert watcher.stderr is not None
    assert "watching file" in watcher.stderr.readline()
    watcher.send_signal(signal.SIGTERM)
    code, output = end_of(watcher)
    assert code == 0
    assert output.rstrip().endswith("asked to end; no longer watching")


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, (), "2 nodes run on this machine; name one with --node-id"),
        ({}, ("--node-id", "ab" * 28), "no alive node of the cluster has the id abab"),
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 64}, (), "requires its token, and this process has none"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, (), "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file"),
        ({"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nowhere"}, (), "requires its token, and this process has none"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    cluster: RayCluster, node: str, variables: Mapping[str, str], arguments: tuple[str, ...], message: str
) -> None:
    environment = {key: value for key, value in (cluster.environment | variables).items() if value}
    code, output = end_of(watch(environment, "--source", "file:/run/x", "--address", cluster.address, *arguments))
    assert code == 1
    assert output.startswith("error: ")
    assert message in output
    assert output.count("\n") == 1


def test_actors_watch_every_node_and_those_that_join_and_replace_those_that_die(
    cluster: RayCluster, node: str, tmp_path: Path
) -> None:
    file = tmp_path / "gone"
    drained = set(cluster.tell("draining"))
    cluster.tell("watch", f"file:{file}")
    head = cluster.tell("head")
    cluster.tell("kill", head)
    assert cluster.tell("refresh", "1") == [
        f"warning: node {head[:8]}: its watcher died (ActorDiedError); another starts"
    ]
    joined = cluster.tell("add")
    assert cluster.tell("refresh", "0") == []
    assert cluster.tell("only", joined) == [joined]
    assert cluster.tell("refresh", "0") == []
    file.write_text('{"deadline": "2100-01-01T00:00:00Z"}')
    watched = sorted({head, joined, node} - drained)
    lines = sorted(cluster.tell("refresh", str(len(watched))))
    assert [line.split(":")[0] for line in lines] == [f"on node {one[:8]}" for one in watched]
    assert all("drains until 00:00:00Z" in line for line in lines)
    assert cluster.tell("draining").keys() == drained.union(watched)
    cluster.tell("stop")
