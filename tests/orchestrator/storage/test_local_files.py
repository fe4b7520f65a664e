"""A private folder is this user's alone, or is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.storage.local_files import make_private


@pytest.mark.parametrize("before", [None, 0o700, 0o755])
def test_it_is_private_whatever_it_was(tmp_path: Path, before: int | None) -> None:
    folder = tmp_path / "parent" / "cache"
    if before is not None:
        folder.mkdir(parents=True)
        folder.chmod(before)
    make_private(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "else")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a link"):
        make_private(tmp_path / "link")
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_someone_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(PermissionError, match="another user"):
        make_private(tmp_path / "theirs")
