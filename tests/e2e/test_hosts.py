"""A run on three hosts, submitted from outside; one of them vanishes in the middle, and nobody can tell afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from chaos_setting import RECIPE
from hosts import Host, Hosts, hosts, why_no_hosts
from laptop import Laptop
from mlflow_server import mlflow_server
from s3_server import S3Server
from seaweedfs_server import seaweedfs
from waiting import StopWatch, wait_for

NAME = "hosts"
STEPS = 40
DASHBOARD_PORT = 8265
OVERRIDES = (
    f"length.steps={STEPS}",
    "stream.audit=true",
    "scale.workers=[1, 2]",
    "scale.cpus_per_worker=1",
)
START_S = 1200.0
END_S = 1200.0
SSH_LINGERS_S = 120.0
"""Ray keeps its SSH connections open for ten seconds."""


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[Hosts]:
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(3) as running:
        yield running


def test_hosts_share_neither_folders_nor_processes(three_hosts: Hosts) -> None:
    first, second, _ = three_hosts.all
    first.run("touch /tmp/mine ~/mine /run/mine /dev/shm/mine; sleep 1000 </dev/null >/dev/null 2>&1 &")
    assert first.shared_memory() == ["mine"]
    wait_for(lambda: "sleep 1000" in first.processes(), START_S)
    assert "sleep 1000" not in second.processes()
    assert second.run("ls /tmp/mine ~/mine /run/mine /dev/shm/mine 2>/dev/null; hostname") == "host-2\n"
    first.run("rm /dev/shm/mine; kill $(pgrep sleep)")


def test_a_host_that_is_cut_off_reaches_nobody(three_hosts: Hosts) -> None:
    _, second, third = three_hosts.all
    answers = f"timeout 2 bash -c '</dev/tcp/{second.address}/22' && echo yes || echo no"
    wait_for(lambda: third.run(answers) == "yes\n", START_S)
    second.cut_off()
    assert third.run(answers) == "no\n"
    second.restore()
    wait_for(lambda: third.run(answers) == "yes\n", START_S)


@pytest.mark.timeout(4800)
def test_a_run_outlives_a_host(three_hosts: Hosts, tmp_path: Path) -> None:
    """Up, submit and leave, lose a host, recover, finish, audit, down: as a user does it, from outside."""
    outside, watch = three_hosts.outside, StopWatch()
    store_uri, files = f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/files"
    with seaweedfs(address=outside) as store, ThreadPoolExecutor(1) as aside:
        laptop = Laptop(tmp_path, three_hosts, store.environment())
        cluster = laptop.cluster_file(cpus=1)
        for host in three_hosts.all:
            _give_secrets(host, store)
        up = aside.submit(laptop.fuseray, "up", str(cluster), "--yes")
        bucket, endpoint = f"s3://{store.make_bucket()}", ("--endpoint", store.endpoint)
        laptop.fuseray("data", "emoji", f"{bucket}/emoji", "--limit", "150", "--samples-per-shard", "40", *endpoint)
        with mlflow_server(store_uri, files, tmp_path, address=outside) as mlflow:
            up.result()
            watch.say("the head is up")
            with laptop.tunnel(DASHBOARD_PORT) as port:
                assert _nodes(port, "wrong") == (403, 0)
                assert _nodes(port, "") == (401, 0)
                wait_for(lambda: _nodes(port, laptop.token) == (200, 3), START_S)
            watch.say("all hosts joined")
            job = _submit(laptop, cluster, _recipe(tmp_path, bucket, store, mlflow.uri))
            watch.say("submitted")
            checkpoints = Checkpoints(store, bucket)
            with _explained(laptop, job):
                wait_for(lambda: checkpoints.newest() > 0, START_S)
                watch.say("first checkpoint")
                lost = _first_that_trains(three_hosts.all[1:])
                raylets = _raylets(lost)
                lost.cut_off()
                watch.say(f"cut off {lost.name}")
                wait_for(lambda: "node lost" in laptop.fuseray("logs", job, check=False).stdout, START_S)
                watch.say("noticed")
                last = checkpoints.newest()
                wait_for(lambda: checkpoints.newest() > last, START_S)
                watch.say("next checkpoint")
            lost.restore()
            log = laptop.fuseray("logs", job, "-f", timeout_s=END_S).stdout
            watch.say("finished")
            assert "recovery: on with 1 workers" in log, log
            assert json.loads(laptop.fuseray("status", job, "--json").stdout)["step"] == STEPS
            audit = laptop.fuseray("audit", NAME, "--storage", f"{bucket}/runs", *endpoint, "--json").stdout
            assert json.loads(audit)["exact"], audit
            watch.say("audited")
            wait_for(lambda: _raylets(lost).isdisjoint(raylets) and _is_settled(lost), START_S)
            watch.say(f"{lost.name} is back")
            print(laptop.fuseray("down", str(cluster), "--yes").stdout[-600:])
            watch.say("down")
            print(log)
    wait_for(lambda: not any(host.processes() for host in three_hosts.all), SSH_LINGERS_S)
    assert [host.shared_memory() for host in three_hosts.all] == [[], [], []]


@contextmanager
def _explained(laptop: Laptop, job: str) -> Iterator[None]:
    """Show what the job said when something does not happen in time."""
    try:
        yield
    except TimeoutError:
        print(laptop.fuseray("logs", job, check=False).stdout)
        raise


class Checkpoints:
    """The checkpoints of the run, as the store has them."""

    def __init__(self, store: S3Server, bucket: str) -> None:
        self._client = store.client()
        self._bucket = bucket.removeprefix("s3://")
        self._folder = f"runs/{NAME}/checkpoints/step-"

    def newest(self) -> int:
        """Return the step of the newest whole one, 0 when there is none."""
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._folder).get("Contents", [])
        names = [one["Key"].removeprefix(self._folder) for one in found]
        return max((int(name.split("/")[0]) for name in names if name.endswith("/manifest.json")), default=0)


def _submit(laptop: Laptop, cluster: Path, recipe: Path) -> str:
    done = laptop.fuseray("submit", str(recipe), *OVERRIDES, "--cluster", str(cluster), "--detach", "--json")
    return str(json.loads(done.stdout.splitlines()[-1])["job"])


def _recipe(folder: Path, bucket: str, store: S3Server, tracking: str) -> Path:
    path = folder / f"{NAME}.yaml"
    path.write_text(
        f"name: {NAME}\n{RECIPE}"
        f"data: {{train: '{bucket}/emoji/train'}}\n"
        f"storage: {{uri: '{bucket}/runs', endpoint: '{store.endpoint}'}}\n"
        f"tracking: {{uri: '{tracking}'}}\n"
        f"length: {{steps: {STEPS}}}\n"
    )
    return path


def _give_secrets(host: Host, store: S3Server) -> None:
    """Write the file that the cluster's start commands read."""
    lines = "".join(f"{name}={value}\n" for name, value in store.environment().items())
    host.run("umask 077; mkdir -p ~/.config/fuseray; cat > ~/.config/fuseray/secrets.env", lines)


def _nodes(port: int, token: str) -> tuple[int, int]:
    """Ask the job server for nodes; return its answer's status, and how many nodes are alive."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/v0/nodes", headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        return answer.status, 0
    found = json.loads(text)["data"]["result"]["result"]
    return 200, sum(one["state"] == "ALIVE" for one in found)


def _raylets(host: Host) -> set[str]:
    """Return the Ray nodes of a host, by what they were started with."""
    return {line for line in host.processes() if "/raylet/raylet" in line}


def _is_settled(host: Host) -> bool:
    """Return whether Ray runs on a host and nobody starts or stops it just now."""
    return bool(_raylets(host)) and not any("bash --login" in line for line in host.processes())


def _first_that_trains(hosts: Sequence[Host]) -> Host:
    """Return a host with a training worker; for moments no host has one, while workers are replaced."""
    training: list[Host] = []

    def found() -> bool:
        training.extend(host for host in hosts if any("RayTrainWorker" in line for line in host.processes()))
        return bool(training)

    wait_for(found, START_S)
    return training[0]
