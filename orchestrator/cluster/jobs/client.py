"""A job as its cluster's job server knows it, and what is decided from that."""

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
"""What is stored with a job so that others can tell what it is."""

Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
STOPPED_CODE = 130
"""As `fuseray train` ends when it is asked to stop; Ray does not keep the code of a job that it stopped."""

NO_PROGRAM_CODE = 127
"""A shell's exit code for a program that it does not find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job.

    Args:
        id: the name that it was submitted under.
        status: as Ray has it.
        run: name of the run; empty when Fuseray did not submit the job.
        run_folder: where the run is written; empty likewise.
        message: what Ray says about the status.
        started_ms: when it was submitted, as a Unix time.
        ended_ms: when it ended.
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
        """Whether nothing will change any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def code(self) -> int:
        """The exit code for whoever waited for the job; a signal's number counts from 128 on, as in shells."""
        if self.status == "STOPPED":
            return STOPPED_CODE
        if self.status == "SUCCEEDED":
            return 0
        code = self.exit_code or 1
        return code if code > 0 else 128 - code

    @property
    def explained_itself(self) -> bool:
        """Whether the reason of a failure is in the job's log, because its command got as far as that."""
        return self.exit_code not in (None, NO_PROGRAM_CODE)

    @property
    def failure(self) -> str:
        """Why the job failed, if it did: Ray's message, with the fix where Ray's words do not lead to it."""
        if self.status != "FAILED":
            return ""
        if self.exit_code == NO_PROGRAM_CODE:
            return (
                "the head's shell finds no `python`: start Ray there with the bin folder of its Python environment "
                f"first in PATH. Ray says: {self.message}"
            )
        return self.message

    def seconds(self, now_ms: int) -> float | None:
        """Return how long it has been going on, or how long it took."""
        return None if self.started_ms is None else ((self.ended_ms or now_ms) - self.started_ms) / 1000


def job_of(details: Any) -> Job | None:
    """Return a job from Ray's own description (JobDetails), None when it is no job that was submitted."""
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


# What can be asked of a cluster's job server.


ANSWER_S = 30.0


class Jobs:
    """The jobs of one cluster.

    Args:
        server: its job server.
        answer_s: how long an answer may take.

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
        """Submit a job, unless the server knows it already.

        Args:
            job: the name to submit it under.
            entrypoint: its shell command.
            package: zip file that becomes its working directory.
            environment: its variables.
            metadata: what is stored with it.

        Raises:
            ClusterError: the server refuses it.
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
        """Return whether there is such a job."""
        try:
            self._client.get_job_info(job)
        except UnknownJobError:
            return False
        return True

    def job(self, job: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: there is none of this name.
        """
        found = job_of(self._client.get_job_info(job))
        if found is None:
            raise ClusterError(f"{job}: is a program that connected to Ray by itself, not a job that was submitted.")
        return found

    def all(self) -> list[Job]:
        """Return the jobs that were submitted, newest first."""
        found = [job for details in self._client.list_jobs() if (job := job_of(details)) is not None]
        return sorted(found, key=lambda job: (job.started_ms or 0, job.id), reverse=True)

    def log(self, job: str) -> str:
        """Return what a job has written so far."""
        return str(self._client.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Ask a job to stop; return whether it was running."""
        return bool(self._client.stop_job(job))


# Ray's client of the job server, with an end to every wait and errors that a user can act on.


OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""

NOT_FOUND = 404


class RayClient(JobSubmissionClient):
    """Asks a job server.

    Args:
        server: the job server.
        answer_s: how long an answer may take.

    Raises:
        ConnectionLostError: it does not answer.
        TokenError: it refuses the token.
    """

    def __init__(self, server: JobServer, answer_s: float) -> None:
        self._answer_s = answer_s
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with _without(OTHER_ADDRESSES):
            super().__init__(server.url, headers=authorization(server))

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        try:
            return super()._do_request(method, endpoint, timeout=self._answer_s, **options)
        except AuthenticationError as error:
            raise refused(self._address) from error
        except requests.RequestException as error:
            raise lost(self._address, type(error).__name__) from error

    def _raise_error(self, r: Any) -> NoReturn:
        if r.status_code == NOT_FOUND:
            raise UnknownJobError(f"{self._address}: {r.text}")
        last = (r.text.strip() or r.reason).splitlines()[-1]
        raise ClusterError(f"{self._address}: the job server answers {r.status_code}: {last}")


def authorization(server: JobServer) -> dict[str, str]:
    """Return the header that carries the token."""
    return {"Authorization": f"Bearer {server.token}"}


def refused(address: str) -> TokenError:
    """Say that a job server does not take the token."""
    return TokenError(
        f"{address}: the job server refuses the token; whoever started the cluster has the right one, and a cluster "
        "that was started anew has another."
    )


def lost(address: str, how: str) -> ConnectionLostError:
    """Say that a job server does not answer."""
    return ConnectionLostError(f"{address}: the job server does not answer ({how}); is the cluster up?")


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


# What can go wrong with a job, as far as somebody else has to tell the cases apart.


class PackageError(ConfigError):
    """The code cannot travel as it is; nothing was submitted."""


class ConnectionLostError(ClusterError):
    """The job server did not answer; asking again may help."""


class TokenError(ClusterError):
    """The job server refuses the token."""


class UnknownJobError(ClusterError):
    """The job server does not know the job."""
