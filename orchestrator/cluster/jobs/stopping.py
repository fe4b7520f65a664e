"""Stopping a job and waiting until its last checkpoint is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.jobs.following import Patience, Reach, Reader, follow
from orchestrator.cluster.jobs.job import Job
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.progress import stopped_after


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a job ended that was asked to stop.

    Args:
        job: the job; it is not over when nobody waited.
        asked: whether it was still going on.
        step: steps in its last checkpoint; None when its log does not say.
    """

    job: Job
    asked: bool
    step: int | None = None


def ask_to_stop(reach: Reach, job: str) -> Stopped:
    """Ask a job to stop; do not wait for it."""
    with reach() as server:
        jobs = Jobs(server)
        asked = not jobs.job(job).is_over and jobs.stop(job)
        return Stopped(jobs.job(job), asked, stopped_after(jobs.log(job)))


def wait_for_end(
    reach: Reach, job: str, say: Callable[[str], object], patience: Patience | None = None
) -> tuple[Job, int | None]:
    """Wait until a job that was asked to stop is over; return it, and the steps in its last checkpoint.

    Raises:
        ClusterError: the cluster cannot be reached any more.
    """
    heard: list[str] = []
    ended = follow(reach, job, Reader(heard.append), say, patience)
    return ended, stopped_after("".join(heard))
