"""Damaged checkpoints are reported, marked and passed over; a store that fails damages nothing."""

from hashlib import sha256
from pathlib import Path

import pytest
from hooked_storage import HookedStorage
from saving import assert_holds, save_by

from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_checkpoint, load_newest, load_state, newest_state
from orchestrator.train.checkpoints.maintenance import Condition, list_checkpoints, verify
from orchestrator.train.checkpoints.manifest import (
    CheckpointError,
    DamagedError,
    FileRecord,
    Manifest,
    add_checksum,
    read_manifest,
)

FILES = (
    "manifest.json",
    "model-0-of-2-first-1.safetensors",
    "model-1-of-2-first-1.safetensors",
    "optimizer-0-of-2-first-1.safetensors",
    "optimizer-1-of-2-first-1.safetensors",
    "state-first-1.json",
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(locate(str(tmp_path / "run")))


@pytest.fixture
def hooked(tmp_path: Path) -> HookedStorage:
    return HookedStorage(tmp_path / "store")


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "remove":
            file.unlink()
        case "flip":
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-7])
        case "empty":
            file.write_bytes(b"")


def test_a_checkpoint_of_two_workers_has_these_files(run: RunFolder) -> None:
    assert sorted(save_by(2, run, 1).sizes()) == sorted(FILES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, hooked: HookedStorage, kind: str, file: str, damage: str
) -> None:
    run = RunFolder(locate(str(tmp_path / "store" / "run")) if kind == "local" else hooked.location("run"))
    save_by(1, run, 1)
    save_by(2, run, 2)
    spoil(tmp_path / "store" / "run" / "checkpoints" / "step-00000002" / file, damage)
    said: list[str] = []
    assert_holds(load_newest(run, said.append), 1)
    if (file, damage) == ("manifest.json", "remove"):
        assert said == []
        return
    assert file in said[0]
    assert said[0].endswith("Trying the checkpoint before it.")
    mark = (run.checkpoints / "step-00000002" / "damaged.json").read().decode()
    assert file in mark
    assert run.newest_step() == 1


@pytest.mark.parametrize(
    ("file", "damage"), [("state-first-1.json", "flip"), ("model-0-of-2-first-1.safetensors", "cut")]
)
def test_the_state_alone_is_found_past_damage_too(run: RunFolder, file: str, damage: str) -> None:
    save_by(1, run, 1)
    spoil(Path((save_by(2, run, 2) / file).path), damage)
    found = newest_state(run)
    assert found is not None
    assert (found.state.next_step, found.folder.name) == (1, "step-00000001")


def test_a_marked_checkpoint_is_not_read_again(hooked: HookedStorage) -> None:
    run = RunFolder(hooked.location("run"))
    save_by(1, run, 1)
    save_by(1, run, 2)
    (run.checkpoints / "step-00000002" / "state-first-1.json").write(b"{}")
    load_newest(run)
    read: list[str] = []
    hooked.on_read = read.append
    assert_holds(load_newest(run), 1)
    assert not [path for path in read if "step-00000002/" in path]


def test_a_new_attempt_at_a_damaged_step_takes_the_mark_away(run: RunFolder) -> None:
    spoil(Path((save_by(2, run, 3) / FILES[1]).path), "flip")
    said: list[str] = []
    assert load_newest(run, said.append) is None
    assert said[-1].endswith("no whole checkpoint is left.")
    place = save_by(3, run, 3, start="second")
    assert_holds(load_newest(run), 3)
    assert len(place.sizes()) == 3 + 3 + 2
    assert not [name for name in place.sizes() if "first" in name]


def test_when_the_mark_is_refused_the_one_before_is_taken_all_the_same(hooked: HookedStorage) -> None:
    run = RunFolder(hooked.location("run"))
    save_by(1, run, 1)
    save_by(1, run, 2)
    (run.checkpoints / "step-00000002" / "state-first-1.json").write(b"{}")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    hooked.on_write, said = refuse, list[str]()
    assert_holds(load_newest(run, said.append), 1)
    assert "could not be marked" in said[1]
    assert "damaged.json" in said[1]


@pytest.mark.parametrize(
    "victim", ["manifest.json", "state-first-1.json", "model-0-of-1-first-1.safetensors", "checkpoints"]
)
def test_a_store_that_fails_damages_nothing(hooked: HookedStorage, victim: str) -> None:
    run = RunFolder(hooked.location("run"))
    for step in (1, 2):
        save_by(1, run, step)

    def fail(path: str) -> None:
        if path.endswith(victim):
            raise OSError(5, "Input/output error", path)

    hooked.on_read = fail
    with pytest.raises(StorageError, match=f"{victim}: cannot be"):
        load_newest(run)
    hooked.on_read = lambda path: None
    assert_holds(load_newest(run), 2)


def test_a_checkpoint_that_is_pruned_while_it_is_read_is_not_damaged(hooked: HookedStorage) -> None:
    run = RunFolder(hooked.location("run"))
    for step in (1, 2):
        save_by(1, run, step)
    newest = run.checkpoints / "step-00000002"

    def prune(path: str) -> None:
        if path.endswith("step-00000002/state-first-1.json"):
            hooked.on_read = lambda path: None
            newest.delete()

    hooked.on_read = prune
    assert_holds(load_newest(run), 1)
    assert not newest.exists()


@pytest.mark.parametrize(("file", "read"), [("manifest.json", 2), ("state-first-1.json", 1)])
def test_a_checkpoint_that_is_pruned_while_it_is_verified_is_no_finding(
    hooked: HookedStorage, file: str, read: int
) -> None:
    run = RunFolder(hooked.location("run"))
    for step in (1, 2):
        save_by(1, run, step)
    found = verify(run)
    newest, opened = run.checkpoints / "step-00000002", list[str]()

    def prune(path: str) -> None:
        opened.append(path)
        if path.endswith(f"step-00000002/{file}") and opened.count(path) == read:
            hooked.on_read = lambda path: None
            newest.delete()

    hooked.on_read = prune
    assert [result.entry.step for result in found] == [1]
    assert not newest.exists()


def test_a_checkpoint_that_is_pruned_while_it_is_listed_is_incomplete(hooked: HookedStorage) -> None:
    run = RunFolder(hooked.location("run"))
    save_by(1, run, 1)

    def prune(path: str) -> None:
        if path.endswith("manifest.json"):
            hooked.on_read = lambda path: None
            (run.checkpoints / "step-00000001").delete()

    hooked.on_read = prune
    assert [entry.condition for entry in list_checkpoints(run)] == [Condition.INCOMPLETE]


def test_a_newer_version_ends_the_search(run: RunFolder) -> None:
    save_by(1, run, 1)
    (save_by(1, run, 2) / "manifest.json").write(add_checksum({"format_version": 4}))
    with pytest.raises(CheckpointError, match="format version 4 is not supported"):
        load_newest(run)
    assert not (run.checkpoints / "step-00000002" / "damaged.json").exists()


def test_a_manifest_without_a_state_is_damaged(run: RunFolder) -> None:
    place = save_by(1, run, 1)
    (place / "manifest.json").write(add_checksum({"format_version": 3, "files": {}, "metrics": {}, "saved": ""}))
    for load in (load_checkpoint, load_state):
        with pytest.raises(DamagedError, match="its manifest names no state"):
            load(place)


def test_small_files_are_verified_too(run: RunFolder) -> None:
    place = save_by(1, run, 1)
    small = {"import.json": FileRecord("import.json", 3, sha256(b"{}\n").hexdigest())}
    (place / "import.json").write(b"{}\n")
    (place / "manifest.json").write(Manifest({**read_manifest(place).files, **small}).encoded())
    assert_holds(load_checkpoint(place), 1)
    (place / "import.json").write(b"[]\n")
    with pytest.raises(DamagedError, match=r"import\.json: is damaged"):
        load_checkpoint(place)
