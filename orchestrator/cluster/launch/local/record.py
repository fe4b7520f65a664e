"""What this machine remembers of its own cluster between two commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.storage.local_files import write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One start of a cluster; it is written before anything is started.

    Args:
        folder: temporary folder of this start, whose path also marks its processes.
        port: of the job server and dashboard.
        ready: whether the start came to its end.
    """

    folder: Path
    port: int
    ready: bool = False


class Memory:
    """The files in a cluster's state folder.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token_file = folder / "token"
        self._file = folder / "local.json"

    def record(self) -> Record | None:
        """Return what was started last and not ended since.

        Raises:
            ClusterError: the file is damaged.
        """
        try:
            kept = json.loads(self._file.read_text())
            return _record_of(kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self._file} is damaged ({error}); end the cluster's processes by hand and delete the file."
            ) from None

    def keep(self, record: Record) -> None:
        """Remember a start."""
        kept = {"folder": str(record.folder), "port": record.port, "ready": record.ready}
        write_private(self._file, json.dumps(kept))

    def server(self, record: Record) -> JobServer:
        """Return the job server of a start."""
        token = self.token_file.read_text() if self.token_file.exists() else ""
        return JobServer(f"http://127.0.0.1:{record.port}", token)

    def forget(self) -> None:
        """Forget the last start and its token."""
        self.token_file.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)


def _record_of(kept: Mapping[str, Any]) -> Record:
    return Record(folder=Path(kept["folder"]), port=int(kept["port"]), ready=bool(kept["ready"]))
