"""Worker 0 commits when all workers have written, and gives up with a reason when one has not."""

from pathlib import Path

import pytest
from saving import assert_holds, save_by, simulated_polling

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_newest
from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError, FileRecord, Manifest
from orchestrator.train.checkpoints.write import Polling, SaveAttempt, commit, wait_for_parts, write_part_record


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(locate(str(tmp_path / "run")))


def attempt_of(run: RunFolder, rank: int, workers: int = 3, tag: str = "x-1") -> SaveAttempt:
    return SaveAttempt(run.checkpoints / "step-00000005", 5, tag, rank, workers)


def record(rank: int) -> dict[str, FileRecord]:
    return {f"file-{rank}": FileRecord("model.safetensors", rank, "digest")}


def test_worker_0_waits_until_the_last_part_is_there(run: RunFolder) -> None:
    sleeps: list[float] = []

    def others_write(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) < 3:
            write_part_record(attempt_of(run, len(sleeps)), record(len(sleeps)))

    parts = wait_for_parts(attempt_of(run, 0), Polling(clock=lambda: 0.0, sleep=others_write))
    assert parts == record(1) | record(2)
    assert len(sleeps) == 2


def test_a_worker_alone_waits_for_nobody(run: RunFolder) -> None:
    assert wait_for_parts(attempt_of(run, 0, workers=1), Polling(sleep=lambda _: pytest.fail("it waited"))) == {}


@pytest.mark.parametrize("other", [{"tag": "y-1"}, {"tag": "x-2"}, {"workers": 4}])
def test_parts_of_other_attempts_do_not_count(run: RunFolder, other: dict[str, str | int]) -> None:
    for rank in (1, 2):
        write_part_record(attempt_of(run, rank, **other), record(rank))
    with pytest.raises(
        CheckpointError, match=r"step-00000005: no files of worker 1, 2 came within 60 s\. .*storage\.uri"
    ):
        wait_for_parts(attempt_of(run, 0), simulated_polling())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_part_is_not_believed(run: RunFolder, damage: str) -> None:
    for rank in (1, 2):
        write_part_record(attempt_of(run, rank), record(rank))
    place = attempt_of(run, 1).folder / attempt_of(run, 1).part_name(1)
    content = place.read()
    place.write({"flip": content.replace(b"file-1", b"file-7"), "cut": content[:-9], "empty": b""}[damage])
    with pytest.raises(DamagedError, match=r"part-1-of-3-x-1\.json: is damaged"):
        wait_for_parts(attempt_of(run, 0), simulated_polling())


@pytest.mark.parametrize(("content", "fault"), [(None, "is missing"), (b"12", "2 bytes instead of 3")])
def test_what_did_not_arrive_whole_is_not_committed(run: RunFolder, content: bytes | None, fault: str) -> None:
    attempt = attempt_of(run, 0)
    if content is not None:
        (attempt.folder / "file").write(content)
    with pytest.raises(DamagedError, match=fault):
        commit(attempt, Manifest({"file": FileRecord("state.json", 3, "digest")}))
    assert run.committed_checkpoints() == []


def test_a_pin_outlives_a_new_attempt_at_the_step(run: RunFolder) -> None:
    place = save_by(1, run, 5)
    (place / "pinned.json").write(b"{}")
    save_by(2, run, 5, start="second")
    assert (place / "pinned.json").exists()
    assert_holds(load_newest(run), 5)


def test_a_worker_that_does_not_come_fails_the_save_and_the_others_files_go(run: RunFolder) -> None:
    save_by(2, run, 4)
    message = r"checkpoint of step 5 \(0 MB of worker 0\) could not be saved.*no files of worker 1 came"
    with pytest.raises(CheckpointError, match=message):
        save_by(2, run, 5, ranks=[0])
    assert run.newest_step() == 4
    assert not (run.checkpoints / "step-00000005").exists()
