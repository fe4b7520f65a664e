"""What can be asked of a cluster's job server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.errors import UnknownJobError
from orchestrator.cluster.jobs.job import Job, job_of
from orchestrator.cluster.launch.launcher import JobServer

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
        from orchestrator.cluster.jobs.ray_client import RayClient

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
