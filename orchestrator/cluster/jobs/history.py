"""The register of the jobs that this machine submitted, and their status: all clusters are queried at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from orchestrator.cluster.findings import ClusterError, with_timeout
from orchestrator.cluster.jobs.client import Job, JobClient
from orchestrator.cluster.jobs.follow import Connect
from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.local_files import make_private, state_home, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job in the register.

    Args:
        job: its submission id.
        cluster_file: the cluster's file, absolute.
        cluster: the cluster's name.
        run: the run's name.
        run_folder: URI of the run's folder.
        recipe: the file of the recipe, or of the sweep; of an evaluation, the URI of the run's folder.
        submitted: time of the submission, ISO 8601.
        verb: the command that submitted it.
    """

    job: str
    cluster_file: str
    cluster: str
    run: str
    run_folder: str
    recipe: str
    submitted: str
    verb: Literal["submit", "sweep", "evaluate"] = "submit"

    @property
    def resume_command(self) -> str:
        """The command that resumes the job's run, sweep or evaluation after it was lost or stopped."""
        if self.verb == "sweep":
            return command_line("sweep", self.recipe, cluster=self.cluster_file, resume="auto")
        if self.verb == "evaluate":
            return command_line("evaluate", self.recipe, cluster=self.cluster_file)
        return command_line("submit", self.recipe, cluster=self.cluster_file, resume=self.run)


def register_folder() -> Path:
    """Return this user's folder of the register."""
    return state_home() / "jobs"


class JobRegister:
    """The jobs that this machine submitted: one JSON file each, which only this user can read.

    Args:
        folder: holds the files; `add` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, entry: JobRecord) -> None:
        """Add a job, atomically."""
        make_private(self._folder)
        write_private(self._file(entry.job), json.dumps(asdict(entry), indent=2))

    def remove(self, job: str) -> None:
        """Remove a job, if it is there."""
        self._file(job).unlink(missing_ok=True)

    def entries(self) -> list[JobRecord]:
        """Return all jobs, newest first.

        Raises:
            ClusterError: a file is damaged.
        """
        files = [path for path in self._folder.glob("*.json") if not path.name.startswith(".")]
        return sorted(map(_read, files), key=lambda entry: (entry.submitted, entry.job), reverse=True)

    def _file(self, job: str) -> Path:
        return self._folder / f"{job}.json"


def match_job(prefix: str, jobs: list[str], where: str) -> str:
    """Return the job with a given id, or the only one whose id begins like that.

    Args:
        prefix: an id, or the beginning of one.
        jobs: the ids of all jobs.
        where: where the jobs are, for the message.

    Raises:
        ConfigError: no id matches, or several do.
    """
    matches = [job for job in jobs if job == prefix] or [job for job in jobs if job.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"job {prefix!r} could be {', '.join(sorted(matches))}; write more of it.")
    raise ConfigError(
        f"job {prefix!r} is not {where}; `fuseray jobs` lists the jobs that this machine submitted, and "
        "`fuseray jobs --cluster FILE` all jobs of a cluster."
    )


def _read(path: Path) -> JobRecord:
    try:
        return JobRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"{path}: is damaged ({error}); delete it to forget the job.") from error


CLUSTER_TIMEOUT_S = 15.0
ANSWER_S = 8.0

ClusterAnswer = dict[str, Job] | str
"""A cluster's jobs by id, or the error when it did not answer."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A registered job and its state on its cluster.

    Args:
        entry: the job in the register.
        job: the job on its cluster; None when the cluster does not answer or does not know it.
        problem: why the cluster did not answer; empty when it did.
    """

    entry: JobRecord
    job: Job | None
    problem: str = ""

    @property
    def status(self) -> str:
        """The status in one word."""
        if self.job is not None:
            return self.job.status
        return "UNREACHABLE" if self.problem else "LOST"


def query_jobs(
    entries: Sequence[JobRecord], connect_to: Callable[[str], Connect], timeout_s: float = CLUSTER_TIMEOUT_S
) -> list[JobState]:
    """Return the states of registered jobs, in their order.

    Args:
        entries: the jobs.
        connect_to: returns what opens a connection to the cluster of a file.
        timeout_s: timeout of all clusters, which are queried at once.
    """
    files = sorted({entry.cluster_file for entry in entries})
    answers = _query_clusters(files, connect_to, timeout_s)
    return [_state(entry, answers[entry.cluster_file]) for entry in entries]


def jobs_of(connect: Connect) -> list[Job]:
    """Return all jobs of a cluster, newest first."""
    with connect() as server:
        return JobClient(server, ANSWER_S).all()


def _query_clusters(
    files: Sequence[str], connect_to: Callable[[str], Connect], timeout_s: float
) -> Mapping[str, ClusterAnswer]:
    def query(file: str) -> ClusterAnswer:
        try:
            return with_timeout(timeout_s, lambda: {job.id: job for job in jobs_of(connect_to(file))})
        except (FuserayError, TimeoutError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=max(1, len(files))) as threads:
        return dict(zip(files, threads.map(query, files), strict=True))


def _state(entry: JobRecord, answer: ClusterAnswer) -> JobState:
    if isinstance(answer, str):
        return JobState(entry, None, answer)
    return JobState(entry, answer.get(entry.job))


def lost_job_error(entry: JobRecord) -> ClusterError:
    """Return the error of a cluster that no longer knows a job, with the command that resumes its run."""
    return ClusterError(
        f"cluster {entry.cluster} does not know job {entry.job} any more: Ray's head was restarted since "
        f"{entry.submitted}, and jobs end with the head. The run's checkpoints are in {entry.run_folder}; resume it "
        f"with `{entry.resume_command}`."
    )
