"""A crash between any two writes leaves the checkpoint before, and nothing that a later attempt could stumble over."""

from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hooked_storage import HookedStorage
from saving import assert_holds, save_by

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_newest
from orchestrator.train.checkpoints.manifest import CheckpointError, read_manifest


class DiesAfter:
    """Lets some writes and deletions through and none after them, as if the machine were gone."""

    def __init__(self, store: HookedStorage, allowed: int) -> None:
        self._left = allowed
        self.died = False
        store.on_write = store.on_delete = self

    def __call__(self, path: str) -> None:
        self.died = self.died or self._left == 0
        if self.died:
            raise OSError(5, "Input/output error", path)
        self._left -= 1


def crash(folder: Path, allowed: int, workers: int) -> bool:
    """Save step 1, save it once more otherwise, then step 2 until the crash; return whether it came."""
    store = HookedStorage(folder / "store")
    run = RunFolder(store.location("run"))
    save_by(1, run, 1)
    machine = DiesAfter(store, allowed)
    for step, start in ((1, "again"), (2, "first")):
        for rank in reversed(range(workers)):
            with suppress(CheckpointError):
                save_by(workers, run, step, start, ranks=[rank])
    return machine.died


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_at_any_moment_loses_at_most_the_step_being_saved(tmp_path: Path, workers: int) -> None:
    found = set()
    for allowed in count():
        folder = tmp_path / str(allowed)
        crashed = crash(folder, allowed, workers)
        run = RunFolder(locate(str(folder / "store" / "run")))
        loaded = load_newest(run)
        assert loaded is not None
        assert_holds(loaded, loaded.state.next_step)
        assert run.newest_step() == loaded.state.next_step
        found.add((run.newest_step(), crashed))
        assert_a_later_attempt_succeeds(run)
        if not crashed:
            break
    tidying = {(2, True)} if workers > 1 else set()
    assert found == {(1, True), (2, False)} | tidying


def assert_a_later_attempt_succeeds(run: RunFolder) -> None:
    (run.checkpoints / "step-00000002" / ".model-0-of-2.draft").write(b"what a killed process left")
    place = save_by(3, run, 2, start="later")
    assert_holds(load_newest(run), 2)
    assert place.sizes().keys() == {*read_manifest(place).files, "manifest.json"}
