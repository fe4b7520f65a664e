"""Places in storage."""

import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError


def test_files_are_written_whole_and_read_back(tmp_path: Path) -> None:
    place = locate(str(tmp_path / "a" / "b"))
    (place / "c").write(b"one")
    (place / "c").write(b"two")
    assert (place / "c").read() == b"two"
    assert [entry.name for entry in place.list()] == ["c"]
    assert place.sizes() == {"c": 3}
    assert (place / "c").size() == 3
    assert (place / "nothing").size() is None


def test_a_file_is_written_in_several_parts(tmp_path: Path) -> None:
    place = locate(str(tmp_path / "file"))
    place.write(b"one, ", memoryview(b"two"), b"")
    assert place.read() == b"one, two"
    place.write()
    assert place.read() == b""


def test_the_newest_file_of_a_folder_tells_when_it_changed(tmp_path: Path) -> None:
    place = locate(str(tmp_path))
    assert place.changed() is None
    for name, time_s in (("a", 1_700_000_000), ("b", 1_600_000_000)):
        (place / name).write(b"x")
        os.utime(tmp_path / name, (time_s, time_s))
    assert place.changed() == datetime.fromtimestamp(1_700_000_000, UTC)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = locate(str(tmp_path)) / "file"
    place.write(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.storage.local_files.os.fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*Free some space"):
        place.write(b"new")
    assert place.read() == b"old"
    assert [entry.name for entry in locate(str(tmp_path)).list()] == ["file"]


def test_deleting_what_is_not_there_is_fine(tmp_path: Path) -> None:
    place = locate(str(tmp_path / "x"))
    place.delete()
    (place / "y").write(b"1")
    place.delete()
    assert not place.exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none: cannot be read: it does not exist"):
        (locate(str(tmp_path)) / "none").read()


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(StorageError, match="unknown kind of storage 'ftp'"):
        locate("ftp://host/x")


def test_locations_travel(tmp_path: Path) -> None:
    place = locate(str(tmp_path))
    assert pickle.loads(pickle.dumps(place)) == place  # noqa: S301
    assert hash(place) == hash(locate(f"file://{tmp_path}"))


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError, match="credentials do not belong in a URI") as caught:
        locate("s3://AKIA:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
