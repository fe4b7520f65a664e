"""The jobs that this machine submitted, one small file each, for this user's eyes only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from orchestrator.cluster.findings import ClusterError, within
from orchestrator.cluster.jobs.client import Job, Jobs
from orchestrator.cluster.jobs.follow import Reach
from orchestrator.config.errors import ConfigError, FuserayError
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
        ConfigError: none is meant, or several could be.
    """
    found = [job for job in jobs if job == prefix] or [job for job in jobs if job.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"job {prefix!r} could be {', '.join(sorted(found))}; write more of it.")
    raise ConfigError(
        f"job {prefix!r} is not {where}; `fuseray jobs` lists the jobs that this machine submitted, and "
        "`fuseray jobs --cluster FILE` all jobs of a cluster."
    )


def _read(path: Path) -> Entry:
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"{path}: is damaged ({error}); delete it to forget the job.") from error


# What became of many jobs: every cluster is asked once, all at the same time, and none is waited for long.


PATIENCE_S = 15.0
ANSWER_S = 8.0

Answer = dict[str, Job] | str
"""A cluster's jobs by name, or why it cannot say."""


@dataclass(frozen=True, slots=True)
class Row:
    """A remembered job and what became of it.

    Args:
        entry: what this machine remembers.
        job: what its cluster says; None when that does not answer or does not know it.
        problem: why there is no job.
    """

    entry: Entry
    job: Job | None
    problem: str = ""

    @property
    def status(self) -> str:
        """The status in one word."""
        if self.job is not None:
            return self.job.status
        return "UNREACHABLE" if self.problem else "LOST"


def survey(entries: Sequence[Entry], reach_of: Callable[[str], Reach], patience_s: float = PATIENCE_S) -> list[Row]:
    """Return what became of jobs, in their order.

    Args:
        entries: the jobs.
        reach_of: opens the way to a cluster by its file.
        patience_s: how long all clusters together may take.
    """
    files = sorted({entry.cluster_file for entry in entries})
    with_answers = _ask_all(files, reach_of, patience_s)
    return [_row(entry, with_answers[entry.cluster_file]) for entry in entries]


def jobs_of(reach: Reach) -> list[Job]:
    """Return all jobs of a cluster, newest first."""
    with reach() as server:
        return Jobs(server, ANSWER_S).all()


def _ask_all(files: Sequence[str], reach_of: Callable[[str], Reach], patience_s: float) -> Mapping[str, Answer]:
    def ask(file: str) -> Answer:
        try:
            return within(patience_s, lambda: {job.id: job for job in jobs_of(reach_of(file))})
        except (FuserayError, TimeoutError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=max(1, len(files))) as threads:
        return dict(zip(files, threads.map(ask, files), strict=True))


def _row(entry: Entry, answer: Answer) -> Row:
    if isinstance(answer, str):
        return Row(entry, None, answer)
    return Row(entry, answer.get(entry.job))


def lost_job(entry: Entry) -> ClusterError:
    """Say that a cluster forgot a job, and how the run goes on."""
    return ClusterError(
        f"cluster {entry.cluster} does not know job {entry.job} any more: Ray's head was started anew since "
        f"{entry.submitted}, and jobs end with the head. What the run saved is in {entry.run_folder}; go on with "
        f"`{entry.go_on}`."
    )
