"""Checkpoints in a real object store, behind a network that fails."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from s3_server import S3Server
from saving import ALL, alone, assert_holds, assert_same, optimizer_state_of, save_by, state_of
from unreliable_proxy import Fault, Request, UnreliableProxy, first_attempts, unreliable

from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_checkpoint, load_newest
from orchestrator.train.checkpoints.maintenance import Condition, list_checkpoints, update_damage_mark, verify
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.manifest import DamagedError

LARGE = {"large": torch.randn(6_000_000, generator=torch.Generator().manual_seed(1)), "small": torch.arange(10)}
"""More than one part of a multipart upload for each of two workers."""


@pytest.fixture
def proxy(seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]) -> Iterator[UnreliableProxy]:
    log_in(seaweedfs_server)
    with unreliable(seaweedfs_server) as running:
        yield running


@pytest.fixture(autouse=True)
def _waits_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.retry.sleep", lambda seconds: None)


@pytest.fixture
def run(seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]) -> RunFolder:
    log_in(seaweedfs_server)
    return RunFolder(locate(f"s3://{seaweedfs_server.make_bucket()}/runs/mine", seaweedfs_server.endpoint))


def test_two_workers_save_at_the_same_time_and_one_loads(run: RunFolder) -> None:
    """As in a run, worker 0 really waits for the other one."""
    writers = [CheckpointWriter(run, rank, 2, "x", ALL) for rank in range(2)]
    for writer in writers:
        writer.save(state_of(1), LARGE, optimizer_state_of(1), alone())
    for writer in writers:
        writer.close()
    loaded = load_newest(run)
    assert loaded is not None
    assert_same(loaded.model, LARGE)
    assert_same(loaded.optimizer, optimizer_state_of(1))


def test_a_damaged_checkpoint_is_passed_over_marked_and_pruned(run: RunFolder) -> None:
    for step in (1, 2):
        save_by(2, run, step)
    victim = run.checkpoints / "step-00000002" / "optimizer-1-of-2-first-1.safetensors"
    content = victim.read()
    victim.write(content[:-1] + bytes([content[-1] ^ 4]))
    for verdict in verify(run):
        update_damage_mark(verdict, verdict.entry.changed)
    assert [entry.condition for entry in list_checkpoints(run)] == [Condition.WHOLE, Condition.DAMAGED]
    assert_holds(load_newest(run), 1)
    with pytest.raises(DamagedError, match="optimizer-1-of-2"):
        load_checkpoint(run.checkpoints / "step-00000002")
    save_by(3, run, 2, start="second")
    assert_holds(load_newest(run), 2)
    assert len((run.checkpoints / "step-00000002").sizes()) == 8


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SLOW_DOWN, Fault.TRUNCATED])
def test_a_network_that_fails_at_first_costs_nothing(run: RunFolder, proxy: UnreliableProxy, fault: Fault) -> None:
    behind = RunFolder(locate(run.root.uri, proxy.server.endpoint))
    proxy.plan = first_attempts(fault, methods="PUT GET")
    save_by(2, behind, 1)
    assert_holds(load_newest(behind), 1)
    assert proxy.injected[fault] >= 6
    assert_holds(load_newest(run), 1)


def test_a_store_that_is_down_damages_nothing(run: RunFolder, proxy: UnreliableProxy) -> None:
    save_by(2, run, 1)
    proxy.plan = first_attempts(Fault.RESET, attempts=100, methods="GET")
    with pytest.raises(StorageError, match="the transfer broke"):
        load_newest(RunFolder(locate(run.root.uri, proxy.server.endpoint)))
    assert [entry.condition for entry in list_checkpoints(run)] == [Condition.WHOLE]


def test_training_goes_on_while_the_store_is_slow(run: RunFolder, proxy: UnreliableProxy) -> None:
    released, asked = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        if request.method == "PUT":
            asked.set()
            released.wait(120)

    proxy.plan = hold
    behind = RunFolder(locate(run.root.uri, proxy.server.endpoint))
    writer = CheckpointWriter(behind, 0, 1, "x", ALL)
    tensors = {"t": torch.ones(1000)}
    writer.save(state_of(1), tensors, {}, alone())
    assert asked.wait(60)
    tensors["t"].zero_()
    assert run.committed_checkpoints() == []
    released.set()
    writer.close()
    loaded = load_newest(run)
    assert loaded is not None
    assert torch.equal(loaded.model["t"], torch.ones(1000))
