"""Saving goes on beside training: what is written is what was there, and what fails is told."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from hooked_storage import HookedStorage
from saving import ALL, alone, assert_holds, optimizer_state_of, save_by, save_checkpoint, state_of, tensors_of

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_checkpoint, load_newest
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.manifest import CheckpointError, read_manifest


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(locate(str(tmp_path / "run")))


@pytest.fixture
def hooked(tmp_path: Path) -> HookedStorage:
    return HookedStorage(tmp_path / "store")


def is_writing() -> bool:
    """Whether the thread that writes is running."""
    return any(thread.name == "checkpoint-writer" for thread in threading.enumerate())


def let_it_finish() -> None:
    """Wait for the thread that writes, without asking the writer."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join(60)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_any_number_of_workers_saves_is_loaded_whole(run: RunFolder, workers: int) -> None:
    save_by(workers, run, 3)
    assert_holds(load_newest(run), 3)


def test_a_checkpoint_without_optimizer_state_is_one(run: RunFolder) -> None:
    save_checkpoint(run, state_of(1), tensors_of(1), {})
    loaded = load_newest(run)
    assert loaded is not None
    assert loaded.optimizer == {}


def test_what_is_written_is_the_state_at_the_save(hooked: HookedStorage) -> None:
    """Storage holds every write back until the tensors have changed."""
    run, changed = RunFolder(hooked.location("run")), threading.Event()
    hooked.on_write = lambda path: changed.wait(60)
    model, optimizer_state = tensors_of(1), optimizer_state_of(1)
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    writer.save(state_of(1), model, optimizer_state, alone())
    for tensor in (*model.values(), *optimizer_state.values()):
        tensor.zero_()
    assert run.committed_checkpoints() == []
    assert is_writing()
    changed.set()
    writer.close()
    let_it_finish()
    assert not is_writing()
    assert_holds(load_newest(run), 1)


def test_a_save_waits_for_the_write_before_it(hooked: HookedStorage) -> None:
    """The memory for copies is used again, so it must not change while it is being written."""
    run, seen = RunFolder(hooked.location("run")), list[str]()
    released = {step: threading.Event() for step in ("step-00000001", "step-00000002")}

    def slow(path: str) -> None:
        step = path.split("/")[2]
        seen.append(step)
        released[step].wait(60)

    hooked.on_write = slow
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    writer.save(state_of(1), tensors_of(1), optimizer_state_of(1), alone())
    threading.Timer(0.05, released["step-00000001"].set).start()
    writer.save(state_of(2), tensors_of(2), optimizer_state_of(2), alone())
    assert run.newest_step() == 1
    released["step-00000002"].set()
    writer.close()
    assert seen == ["step-00000001"] * 4 + ["step-00000002"] * 4
    for place, step in zip(run.committed_checkpoints(), (2, 1), strict=True):
        assert_holds(load_checkpoint(place), step)


def test_figures_of_a_write_come_once(run: RunFolder) -> None:
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    assert writer.write_metrics() == {}
    writer.save(state_of(1), tensors_of(1), optimizer_state_of(1), alone())
    writer.wait()
    assert writer.write_metrics().keys() == {"checkpoint/write_s", "checkpoint/write_mb_per_s"}
    assert writer.write_metrics() == {}


def test_figures_do_not_wait_for_a_write_and_come_when_it_is_done(hooked: HookedStorage) -> None:
    run, released = RunFolder(hooked.location("run")), threading.Event()
    hooked.on_write = lambda path: released.wait(60)
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    writer.save(state_of(1), tensors_of(1), optimizer_state_of(1), alone())
    assert writer.write_metrics() == {}
    released.set()
    let_it_finish()
    assert writer.write_metrics()["checkpoint/write_s"] > 0


def test_figures_leave_a_failure_to_the_next_save(hooked: HookedStorage) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    run, hooked.on_write = RunFolder(hooked.location("run")), refuse
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    writer.save(state_of(1), tensors_of(1), optimizer_state_of(1), alone())
    let_it_finish()
    assert writer.write_metrics() == {}
    with pytest.raises(CheckpointError, match="Permission denied"):
        writer.close()


def test_the_same_step_can_be_saved_again_by_the_same_workers(run: RunFolder) -> None:
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    for model in (tensors_of(9), tensors_of(1)):
        writer.save(state_of(1), model, optimizer_state_of(1), alone())
    writer.close()
    assert_holds(load_newest(run), 1)
    assert len(run.committed_checkpoints()[0].sizes()) == 4


def test_the_metrics_of_the_step_are_kept(run: RunFolder) -> None:
    place = save_checkpoint(run, state_of(1), tensors_of(1), {}, {"loss": 0.5, "norm": float("inf")})
    assert read_manifest(place).metrics == {"loss": 0.5}


def test_the_newest_and_the_best_stay(run: RunFolder) -> None:
    section = CheckpointSection(keep=2, keep_best=1, metric="loss", mode="min")
    for step, loss in enumerate((0.5, 0.1, 0.3, 0.4, 0.2), 1):
        save_checkpoint(run, state_of(step), tensors_of(step), {}, {"loss": loss}, section)
    assert [place.name[-1] for place in run.checkpoints.list()] == ["2", "4", "5"]


@pytest.mark.parametrize("how", ["save", "wait", "close"])
def test_what_failed_in_the_background_is_told_by_the_next_call(hooked: HookedStorage, how: str) -> None:
    def refuse(path: str) -> None:
        raise OSError(28, "No space left on device", path)

    run, hooked.on_write = RunFolder(hooked.location("run")), refuse
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    arguments = (tensors_of(2), optimizer_state_of(2), alone())
    writer.save(state_of(2), *arguments)
    message = r"step 2 \(0 MB of worker 0\) could not be saved\. .*model-0-of-1-x-1\.safetensors.*Free some space"
    with pytest.raises(CheckpointError, match=message):
        writer.save(state_of(3), *arguments) if how == "save" else getattr(writer, how)()
    hooked.on_write = lambda path: None
    writer.save(state_of(2), *arguments)
    writer.close()
    assert_holds(load_newest(run), 2)


def test_a_fault_of_another_kind_is_told_too(hooked: HookedStorage) -> None:
    def fail(path: str) -> None:
        raise ZeroDivisionError("unexpected")

    run, hooked.on_write = RunFolder(hooked.location("run")), fail
    with pytest.raises(CheckpointError, match=r"step 1 .* could not be saved\. ZeroDivisionError: unexpected"):
        save_by(1, run, 1)


def test_old_checkpoints_that_cannot_be_removed_do_not_stop_training(hooked: HookedStorage) -> None:
    run, said = RunFolder(hooked.location("run")), list[str]()
    save_by(1, run, 1)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    hooked.on_delete = refuse
    writer = CheckpointWriter(run, 0, 1, "x", CheckpointSection(keep=1), said.append)
    writer.save(state_of(2), tensors_of(2), optimizer_state_of(2), alone())
    writer.close()
    assert_holds(load_newest(run), 2)
    assert "step 2 is saved, but old files could not be removed" in said[0]


def test_a_tensor_that_cannot_be_saved_is_refused_at_once(run: RunFolder) -> None:
    writer = CheckpointWriter(run, 0, 1, "x", ALL)
    with pytest.raises(CheckpointError, match=r"phase: tensors of torch\.complex128 cannot be saved"):
        writer.save(state_of(1), {"phase": torch.zeros(2, dtype=torch.complex128)}, {}, alone())
    writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_is_explained_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        run = RunFolder(locate(str(small / "run")))
        save_by(1, run, 1)
        with pytest.raises(CheckpointError, match=r"step 2 .*No space left on device.*Free some space"):
            save_checkpoint(run, state_of(2), {"large": torch.zeros(400, 200)}, {})
        assert [place.name for place in run.checkpoints.list()] == ["step-00000001"]
        assert_holds(load_newest(run), 1)
    finally:
        subprocess.run(["umount", str(small)], check=True)
