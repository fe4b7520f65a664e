"""What a chaos run leaves behind on this machine: processes, shared memory, temporary files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "FUSERAY_CHAOS"
"""A variable of everything that a chaos run starts."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
FOLDERS = ("r-", "seaweedfs-")
"""How the folders of clusters and servers begin, which they remove themselves."""

CACHES = ("torchinductor_",)
"""How the caches begin that a user's programs share, and that stay."""

PATIENCE_S = 60.0
"""How long processes may take to end when those that they were for have."""

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Before:
    """What was there before.

    Args:
        files: in shared memory.
        mark: value of `MARK`.
    """

    files: frozenset[Path]
    mark: str

    @classmethod
    def now(cls, mark: str) -> Before:
        """Look around."""
        return cls(frozenset(_files()), mark)

    def left(self, scratch: Path) -> list[str]:
        """Return what is there now and was not before; shared memory that other processes hold is theirs.

        Args:
            scratch: holds the temporary files of everything that was started, in `tmp` those of the runs.
        """
        new = [path for path in _files() if path not in self.files]
        held = _held() if new else frozenset[str]()
        files = [str(path) for path in new if str(path) not in held]
        temporary = [path for path in sorted((scratch / "tmp").iterdir()) if not path.name.startswith(CACHES)]
        temporary += [path for path in sorted(scratch.iterdir()) if path.name.startswith(FOLDERS)]
        return self.processes() + files + [str(path) for path in temporary]

    def processes(self) -> list[str]:
        """Return the processes that carry the mark."""
        return [f"process {one.pid} {_name(one)}" for one in self._marked()]

    def end(self) -> None:
        """End those processes, one by one."""
        for process in self._marked():
            with suppress(psutil.Error):
                process.kill()
                process.wait(5)

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get(MARK) == self.mark
                if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def lasting(look: Callable[[], list[str]]) -> list[str]:
    """Return what is left when whatever is about to end has had the time to.

    Args:
        look: returns what is left now.
    """
    until_s = time.monotonic() + PATIENCE_S
    while (found := look()) and time.monotonic() < until_s:
        time.sleep(LOOK_EVERY_S)
    return found


def _files() -> Iterator[Path]:
    """Yield this user's entries of shared memory."""
    for path in SHARED_MEMORY.iterdir():
        with suppress(OSError):
            if path.lstat().st_uid == os.getuid():
                yield path


def _held() -> frozenset[str]:
    """Return the files that processes have open or mapped."""
    held: set[str] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            held |= {file.path for file in process.open_files()}
            held |= {mapped.path for mapped in process.memory_maps()}
    return frozenset(held)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:80] or process.name()
    return "gone"
