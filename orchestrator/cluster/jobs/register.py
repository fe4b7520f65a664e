"""The jobs that this machine submitted, one small file each, for this user's eyes only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from orchestrator.cluster.errors import ClusterError
from orchestrator.config.errors import SpecError
from orchestrator.storage.local_files import state_home, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What this machine remembers of a job.

    Args:
        job: its name on the cluster.
        cluster_file: the cluster's file, absolute.
        cluster: the cluster's name.
        run: the run's name.
        run_folder: where the run is written.
        recipe: the file of the recipe, or of the sweep.
        submitted: ISO 8601 time.
        verb: what it was submitted by.
    """

    job: str
    cluster_file: str
    cluster: str
    run: str
    run_folder: str
    recipe: str
    submitted: str
    verb: Literal["submit", "sweep"] = "submit"

    @property
    def go_on(self) -> str:
        """The command that continues the job's run, or sweep, after it was lost or stopped."""
        resume = "auto" if self.verb == "sweep" else self.run
        return f"fuseray {self.verb} {self.recipe} --cluster {self.cluster_file} --resume {resume}"


def register_folder() -> Path:
    """Return the folder of this user's register."""
    return state_home() / "jobs"


class Register:
    """The register.

    Args:
        folder: holds its files; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, entry: Entry) -> None:
        """Remember a job: its file is whole or it is not there."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self._file(entry.job), json.dumps(asdict(entry), indent=2))

    def remove(self, job: str) -> None:
        """Forget a job."""
        self._file(job).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """Return all jobs, newest first.

        Raises:
            ClusterError: a file is damaged.
        """
        files = [path for path in self._folder.glob("*.json") if not path.name.startswith(".")]
        return sorted(map(_read, files), key=lambda entry: (entry.submitted, entry.job), reverse=True)

    def _file(self, job: str) -> Path:
        return self._folder / f"{job}.json"


def the_one(prefix: str, jobs: list[str], where: str) -> str:
    """Return the job that a user means by its name or the beginning of it.

    Args:
        prefix: what the user wrote.
        jobs: the jobs there are.
        where: where they are, for the message.

    Raises:
        SpecError: none is meant, or several could be.
    """
    found = [job for job in jobs if job == prefix] or [job for job in jobs if job.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SpecError(f"job {prefix!r} could be {', '.join(sorted(found))}; write more of it.")
    raise SpecError(
        f"job {prefix!r} is not {where}; `fuseray jobs` lists the jobs that this machine submitted, and "
        "`fuseray jobs --cluster FILE` all jobs of a cluster."
    )


def _read(path: Path) -> Entry:
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"{path}: is damaged ({error}); delete it to forget the job.") from error
