"""The client of a cluster's job server, jobs as it describes them, and the errors of jobs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.config.errors import ConfigError

RUN_KEY = "fuseray_run"
FOLDER_KEY = "fuseray_run_folder"
"""Keys of a job's metadata on the job server."""

Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
STOPPED_CODE = 130
"""The exit code of `fuseray train` after a stop; Ray does not record the code of a job that it stopped."""

NO_PROGRAM_CODE = 127
"""A shell's exit code for a program that it cannot find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job.

    Args:
        id: its submission id.
        status: Ray's status.
        run: name of the run; empty when Fuseray did not submit the job.
        run_folder: URI of the run's folder; empty when Fuseray did not submit the job.
        message: Ray's message about the status.
        started_ms: when it was submitted, as a Unix time.
        ended_ms: when it ended, as a Unix time.
        exit_code: of its command, if that ended by itself.
    """

    id: str
    status: Status
    run: str = ""
    run_folder: str = ""
    message: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def code(self) -> int:
        """The exit code for a program that waited for the job; 128 plus the number of a signal, as in shells."""
        if self.status == "STOPPED":
            return STOPPED_CODE
        if self.status == "SUCCEEDED":
            return 0
        code = self.exit_code or 1
        return code if code > 0 else 128 - code

    @property
    def failure_is_in_log(self) -> bool:
        """Whether the job's log has the reason of a failure, because its command was started."""
        return self.exit_code not in (None, NO_PROGRAM_CODE)

    @property
    def failure(self) -> str:
        """Why the job failed: Ray's message, with the fix where Ray's message does not lead to it; empty otherwise."""
        if self.status != "FAILED":
            return ""
        if self.exit_code == NO_PROGRAM_CODE:
            return (
                "the head's shell cannot find `python`: start Ray there with the bin folder of its Python environment "
                f"first in PATH. Ray says: {self.message}"
            )
        return self.message

    def seconds(self, now_ms: int) -> float | None:
        """Return how long the job has run, or how long it took; None before it was submitted."""
        return None if self.started_ms is None else ((self.ended_ms or now_ms) - self.started_ms) / 1000


def job_of(details: Any) -> Job | None:
    """Return a job from Ray's description (JobDetails), None for a driver that was not submitted as a job."""
    if details.submission_id is None:
        return None
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=details.status.value,
        run=metadata.get(RUN_KEY, ""),
        run_folder=metadata.get(FOLDER_KEY, ""),
        message=details.message or "",
        started_ms=details.start_time,
        ended_ms=details.end_time,
        exit_code=details.driver_exit_code,
    )


ANSWER_S = 30.0


class JobClient:
    """The jobs of one cluster.

    Args:
        server: its job server.
        answer_s: timeout of each request, in seconds.

    Raises:
        ConnectionLostError: it does not answer; every method raises it too.
        TokenError: it refuses the token; every method raises it too.
    """

    def __init__(self, server: JobServer, answer_s: float = ANSWER_S) -> None:
        self.server = server
        self._client = RayClient(server, answer_s)

    def submit(
        self, job: str, entrypoint: str, package: Path, environment: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Submit a job, unless the server has a job of this id already.

        Args:
            job: its submission id.
            entrypoint: its shell command.
            package: zip file that becomes its working directory.
            environment: its environment variables.
            metadata: stored with it on the server.

        Raises:
            ClusterError: the server rejects it.
        """
        if self.knows(job):
            return
        self._client.submit_job(
            entrypoint=entrypoint,
            submission_id=job,
            runtime_env={"working_dir": str(package), "env_vars": dict(environment)},
            metadata=dict(metadata),
        )

    def knows(self, job: str) -> bool:
        """Return whether there is a job of this id."""
        try:
            self._client.get_job_info(job)
        except UnknownJobError:
            return False
        return True

    def job(self, job: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: there is no job of this id.
        """
        submitted = job_of(self._client.get_job_info(job))
        if submitted is None:
            raise ClusterError(f"{job}: is a program that connected to Ray by itself, not a job that was submitted.")
        return submitted

    def all(self) -> list[Job]:
        """Return the jobs that were submitted, newest first."""
        jobs = [job for details in self._client.list_jobs() if (job := job_of(details)) is not None]
        return sorted(jobs, key=lambda job: (job.started_ms or 0, job.id), reverse=True)

    def log(self, job: str) -> str:
        """Return a job's log so far."""
        return str(self._client.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Request a stop of a job; return whether it was running."""
        return bool(self._client.stop_job(job))


OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address passed to it."""

NOT_FOUND = 404


class RayClient(JobSubmissionClient):
    """Ray's client of a job server.

    Args:
        server: the job server.
        answer_s: timeout of each request, in seconds.

    Raises:
        ConnectionLostError: it does not answer.
        TokenError: it refuses the token.
    """

    def __init__(self, server: JobServer, answer_s: float) -> None:
        self._answer_s = answer_s
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with _without_variables(OTHER_ADDRESSES):
            super().__init__(server.url, headers=authorization(server))

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        try:
            return super()._do_request(method, endpoint, timeout=self._answer_s, **options)
        except AuthenticationError as error:
            raise token_refused(self._address) from error
        except requests.RequestException as error:
            raise connection_lost(self._address, type(error).__name__) from error

    def _raise_error(self, r: Any) -> NoReturn:
        if r.status_code == NOT_FOUND:
            raise UnknownJobError(f"{self._address}: {r.text}")
        last_line = (r.text.strip() or r.reason).splitlines()[-1]
        raise ClusterError(f"{self._address}: the job server answers {r.status_code}: {last_line}")


def authorization(server: JobServer) -> dict[str, str]:
    """Return the HTTP header with the token."""
    return {"Authorization": f"Bearer {server.token}"}


def token_refused(address: str) -> TokenError:
    """Return the error of a job server that refuses the token."""
    return TokenError(
        f"{address}: the job server refuses the token; get it from the user who started the cluster. A cluster that "
        "was restarted has a new token."
    )


def connection_lost(address: str, reason: str) -> ConnectionLostError:
    """Return the error of a job server that does not answer."""
    return ConnectionLostError(f"{address}: the job server does not answer ({reason}); is the cluster up?")


@contextmanager
def _without_variables(names: tuple[str, ...]) -> Iterator[None]:
    """Remove environment variables while the body runs."""
    removed = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)


class PackageError(ConfigError):
    """The code cannot be packed for a job; nothing was submitted."""


class ConnectionLostError(ClusterError):
    """The job server did not answer; a retry may succeed."""


class TokenError(ClusterError):
    """The job server refuses the token."""


class UnknownJobError(ClusterError):
    """The job server has no job of this id."""
