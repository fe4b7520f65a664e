"""What became of many jobs: every cluster is asked once, all at the same time, and none is waited for long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.following import Reach
from orchestrator.cluster.jobs.job import Job
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.register import Entry
from orchestrator.cluster.patience import within
from orchestrator.config.errors import FuserayError

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
