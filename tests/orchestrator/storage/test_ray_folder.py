from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.cluster.doctor.host import check_socket_paths
from orchestrator.storage.ray_folder import DEFAULT_FOLDER, LONGEST_FOLDER, SOCKET, has_room_for_sockets, ray_folder


@pytest.mark.parametrize(
    ("variables", "folder"),
    [({}, DEFAULT_FOLDER), ({"TMPDIR": "/b"}, Path("/b")), ({"RAY_TMPDIR": "/a", "TMPDIR": "/b"}, Path("/a"))],
)
def test_ray_writes_where_its_own_variable_says(variables: dict[str, str], folder: Path) -> None:
    assert ray_folder(variables) == folder


@pytest.mark.parametrize(("length", "fits"), [(LONGEST_FOLDER, True), (LONGEST_FOLDER + 1, False)])
def test_the_system_takes_sockets_in_a_folder_that_fits_and_in_no_longer_one(length: int, fits: bool) -> None:
    folder = Path("/" + "x" * (length - 1))
    with socket.socket(socket.AF_UNIX) as attempt, pytest.raises(FileNotFoundError if fits else OSError) as refused:
        attempt.bind(str(folder / SOCKET))
    assert ("too long" in str(refused.value)) is not fits
    assert has_room_for_sockets(folder) is fits


def test_bytes_count_and_not_characters() -> None:
    assert not has_room_for_sockets(Path("/" + "\u00e9" * (LONGEST_FOLDER - 1)))


def test_the_doctor_says_what_to_set() -> None:
    assert check_socket_paths(DEFAULT_FOLDER).level == "pass"
    finding = check_socket_paths(Path("/local/scratch/slurm/job-1234567/tmp/of/the/user"))
    assert finding.level == "error"
    assert "has 48 bytes" in finding.found
    assert "Set RAY_TMPDIR" in finding.fix
