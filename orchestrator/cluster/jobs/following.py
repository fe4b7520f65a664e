"""Following a job's log to its end, over as many connections as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.errors import ConnectionLostError, TokenError, UnknownJobError
from orchestrator.cluster.jobs.job import Job
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.log_stream import stream_log
from orchestrator.cluster.launch.launcher import JobServer

Reach = Callable[[], AbstractContextManager[JobServer]]
"""Opens the way to a job server, each time anew."""

PATIENCE_S = 300.0
LONGEST_PAUSE_S = 15.0


@dataclass(slots=True)
class Reader:
    """Takes a log that begins anew with every connection, and hands on what was not there before.

    Args:
        take: is given the text.
        seen: characters that were handed on already.
    """

    take: Callable[[str], object]
    seen: int = 0
    _at: int = field(default=0, init=False)

    @property
    def heard(self) -> bool:
        """Whether anything came over the newest connection."""
        return self._at > 0

    def begin(self) -> None:
        """A new connection: the log comes from its beginning."""
        self._at = 0

    def __call__(self, text: str) -> None:
        """Take a piece of the log."""
        fresh = text[max(0, self.seen - self._at) :]
        self._at += len(text)
        self.seen = max(self.seen, self._at)
        if fresh:
            self.take(fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to go on without an answer.

    Args:
        patience_s: give up after so long without an answer.
        pause: waits so many seconds.
        now_s: reads a clock that never goes back.
    """

    patience_s: float = PATIENCE_S
    pause: Callable[[float], object] = time.sleep
    now_s: Callable[[], float] = time.monotonic


def follow(
    reach: Reach, job: str, reader: Reader, say: Callable[[str], object], patience: Patience | None = None
) -> Job:
    """Hand on a job's log until the job is over; the caller has seen before that the cluster answers.

    Args:
        reach: opens the way to the job server.
        job: the job.
        reader: takes the log.
        say: is told about lost connections.
        patience: how long to try.

    Returns:
        The job, which is over.

    Raises:
        ClusterError: the cluster cannot be reached for longer than the patience lasts.
        UnknownJobError: the job server does not know the job, or not any more.
        TokenError: it refuses the token.
    """
    patience = patience or Patience()
    answered_s, attempts = patience.now_s(), 0
    while True:
        reader.begin()
        try:
            return _attempt(reach, job, reader)
        except (UnknownJobError, TokenError):
            raise
        except ClusterError as error:
            if reader.heard:
                answered_s, attempts = patience.now_s(), 0
            if patience.now_s() - answered_s > patience.patience_s:
                raise _gave_up(job, patience.patience_s, error) from error
            if attempts == 0:
                say(f"the connection is lost, the job goes on; trying again ({error})")
            patience.pause(min(2.0**attempts, LONGEST_PAUSE_S))
            attempts += 1


def _attempt(reach: Reach, job: str, reader: Reader) -> Job:
    """Follow the log over one connection; return the job if it is over, and its log was read to the end."""
    with reach() as server:
        jobs = Jobs(server)
        stream_log(jobs, job, reader)
        found = jobs.job(job)
        if not found.is_over:
            raise ConnectionLostError(f"{server.url}: the log of {job} broke off")
        reader.begin()
        reader(jobs.log(job))
    return found


def _gave_up(job: str, patience_s: float, error: ClusterError) -> ClusterError:
    return ClusterError(
        f"the cluster has not answered for {patience_s:.0f} s ({error}). The job goes on if the cluster does; "
        f"follow it again with `fuseray logs {job} -f`."
    )
