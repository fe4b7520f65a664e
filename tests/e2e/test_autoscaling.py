"""A run on a cluster that starts and ends machines by itself asks for what it needs, grows, and leaves none behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from autoscaling_cluster import AutoscalingCluster, FakeGroup, Timeline, autoscaling_cluster
from mlflow_database import new_database
from paced_workload import write_pace
from shards import write_shards
from toyland import install_toyland, with_toyland

from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, NodeGroup, node_groups_variable
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.cost import read_starts
from orchestrator.track.run_writer import TrackedRun

IDLE_S = 8.0
STEP_S = 0.02
PATIENCE_S = 600.0
WISHES_LAPSE_S = 180.0
"""So long a machine would stay that somebody asked for and did not take back."""
RECIPE = """\
workload: paced
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 100000}
scale: {workers: [1, 2], cpus_per_worker: 2, resize_every_s: 3, machines_wait_s: 120}
stream: {chunk: 16, window: 64, decode_on: readers}
checkpoint: {every_steps: 1000}
recovery: {notices: "file:/nowhere/notice"}
budget: {usd: 1000}
"""
PRICES = """\
as_of: 2026-01-01
machines:
  head: {cpus: 1, memory_gb: 4, on_demand_usd: 0.5}
  train: {cpus: 2, memory_gb: 8, spot_usd: 2.0}
  decode: {cpus: 1, memory_gb: 4, spot_usd: 0.25}
"""
GROUPS = (
    NodeGroup(name="head", machine="head", market="on-demand", fewest=1, most=1, cpus=1, gpus=0, head=True),
    NodeGroup(name="train", machine="train", market="spot", fewest=0, most=2, cpus=2, gpus=0),
    NodeGroup(name="decode", machine="decode", market="spot", fewest=0, most=1, cpus=1, gpus=0),
)
"""A worker needs two CPUs, so a machine for decoding has no room for one."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AutoscalingCluster]:
    """A cluster whose machines have the toy installed."""
    for name, value in with_toyland(install_toyland(tmp_path / "site")).items():
        monkeypatch.setenv(name, value)
    labels = {group.name: {MACHINE_LABEL: group.name, MARKET_LABEL: group.market} for group in GROUPS}
    fake = [FakeGroup(one.name, int(one.cpus or 0), one.most, labels[one.name]) for one in GROUPS if not one.head]
    with autoscaling_cluster(fake, labels["head"], idle_s=IDLE_S) as running:
        yield running


@contextmanager
def training(cluster: AutoscalingCluster, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Train; the process's output goes to the file `said`."""
    write_pace(folder / "pace", STEP_S, -1)
    (folder / "recipe.yaml").write_text(f"{RECIPE}pace: {folder}/pace\n")
    (folder / "prices.yaml").write_text(PRICES)
    new_database(folder / "runs" / "mlflow.db")
    data = write_shards(str(folder / "data"), 400)
    overrides = [f"scale.address={cluster.address}", f"data.train={data}", "name=grown"]
    command = [sys.executable, "-m", "orchestrator.cli", "train", "recipe.yaml", "--prices", "prices.yaml", *overrides]
    with (folder / "said").open("w") as said:
        environment = dict(cluster.environment) | node_groups_variable(GROUPS)
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(1800)
def test_a_run_gets_the_machines_that_it_needs_and_gives_them_back(cluster: AutoscalingCluster, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with cluster.watched() as timeline:
        with training(cluster, tmp_path) as process:

            def await_(what: str, seen: Callable[[], bool]) -> None:
                _await(what, lambda: _running(process, said) and seen(), said, timeline)

            await_("the run trains", lambda: "step 1/" in said.read_text())
            await_("the run grows", lambda: "on with 2 workers" in said.read_text())
            await_("a machine decodes", lambda: any("decode" in look.working for look in timeline.looks()))
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130, said.read_text()
        ended_s = time.time()
        _await("no machine is left", lambda: timeline.now() == {"head": 1}, said, timeline)
        gone_s = timeline.changes()[-1].time_s - ended_s
    text = said.read_text()
    print(json.dumps([[round(one.time_s - ended_s, 1), one.machines] for one in timeline.changes()]), text, sep="\n")
    assert text.index("waiting for machines: have 1 machines with 1 CPUs, asked for 1 x 2 CPUs") < text.index("step 1/")
    assert gone_s < WISHES_LAPSE_S / 2
    _check_the_books(tmp_path)


def _check_the_books(folder: Path) -> None:
    run = RunFolder(locate(str(folder / "runs" / "grown")))
    (start,) = read_starts(run.costs)
    assert {kind.name for period in start.periods for kind in period.nodes} == {
        "head/on-demand",
        "train/spot",
        "decode/spot",
    }
    curves = TrackedRun(f"sqlite:///{folder}/runs/mlflow.db", run.read().mlflow_run_id).curves()
    steps, usd = curves["cost/usd"]
    assert steps == curves["loss"][0]
    assert usd == sorted(usd)
    assert usd[0] > 0


def _running(process: subprocess.Popen[str], said: Path) -> bool:
    assert process.poll() is None, said.read_text()
    return True


def _await(what: str, seen: Callable[[], bool], said: Path, timeline: Timeline, patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not seen():
        assert time.monotonic() < deadline_s, f"{what}: not seen\n{timeline.changes()}\n{said.read_text()[-3000:]}"
        time.sleep(0.2)
