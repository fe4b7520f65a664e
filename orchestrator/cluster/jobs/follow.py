"""Following a job's log to its end, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import aiohttp

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.jobs.client import (
    ConnectionLostError,
    Job,
    JobClient,
    TokenError,
    UnknownJobError,
    authorization,
    lost,
    refused,
)
from orchestrator.cluster.launch.launcher import JobServer

Connect = Callable[[], AbstractContextManager[JobServer]]
"""Opens the way to a job server, each time anew."""

PATIENCE_S = 300.0
LONGEST_PAUSE_S = 15.0


@dataclass(slots=True)
class LogReader:
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
    connect: Connect, job: str, reader: LogReader, log: Callable[[str], object], patience: Patience | None = None
) -> Job:
    """Hand on a job's log until the job is over; the caller has seen before that the cluster answers.

    Args:
        reach: opens the way to the job server.
        job: the job.
        reader: takes the log.
        log: is told about lost connections.
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
            return _attempt(connect, job, reader)
        except (UnknownJobError, TokenError):
            raise
        except ClusterError as error:
            if reader.heard:
                answered_s, attempts = patience.now_s(), 0
            if patience.now_s() - answered_s > patience.patience_s:
                raise _gave_up(job, patience.patience_s, error) from error
            if attempts == 0:
                log(f"the connection is lost, the job goes on; trying again ({error})")
            patience.pause(min(2.0**attempts, LONGEST_PAUSE_S))
            attempts += 1


def _attempt(connect: Connect, job: str, reader: LogReader) -> Job:
    """Follow the log over one connection; return the job if it is over, and its log was read to the end."""
    with connect() as server:
        jobs = JobClient(server)
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


# A job's log as it is written, over one connection; the server sends it from its beginning.


QUIET_S = 20.0
"""After so long without a word the server is asked whether the job is still going on."""

CONNECT_S = 15.0
FAREWELL = aiohttp.ClientWSTimeout(ws_close=0.2)
"""Ray's job server never answers a farewell, so nobody waits for it when a user has seen enough."""

REFUSED = (401, 403)


def stream_log(jobs: JobClient, job: str, take: Callable[[str], object], quiet_s: float = QUIET_S) -> None:
    """Hand on a job's log, from its beginning, until the job is over.

    Args:
        jobs: the cluster's jobs.
        job: the job.
        take: is given the text, piece by piece.
        quiet_s: after so long without a word, see whether anybody is still there.

    Raises:
        ConnectionLostError: the connection broke, or nobody answers any more.
        UnknownJobError: there is no such job.
        TokenError: the server refuses the token.
    """
    asyncio.run(_hand_on(jobs, job, take, quiet_s))


async def _hand_on(jobs: JobClient, job: str, take: Callable[[str], object], quiet_s: float) -> None:
    async for text in _pieces(jobs, job, quiet_s):
        take(text)


async def _pieces(jobs: JobClient, job: str, quiet_s: float) -> AsyncIterator[str]:
    try:
        async with (
            _session(jobs) as session,
            session.ws_connect(_address(jobs, job), max_msg_size=0, timeout=FAREWELL) as log,
        ):
            while (message := await _next(log, jobs, job, quiet_s)) is not None:
                yield message
    except aiohttp.WSServerHandshakeError as error:
        if error.status in REFUSED:
            raise refused(jobs.server.url) from error
        jobs.job(job)  # says it when there is no such job
        raise lost(jobs.server.url, f"HTTP status {error.status}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise lost(jobs.server.url, type(error).__name__) from error


def _session(jobs: JobClient) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
    return aiohttp.ClientSession(headers=authorization(jobs.server), timeout=timeout)


def _address(jobs: JobClient, job: str) -> str:
    return f"{jobs.server.url}/api/jobs/{job}/logs/tail"


async def _next(log: aiohttp.ClientWebSocketResponse, jobs: JobClient, job: str, quiet_s: float) -> str | None:
    """Return the next piece of a log, None at its end."""
    while True:
        try:
            message = await log.receive(timeout=quiet_s)
        except TimeoutError:
            if jobs.job(job).is_over:
                raise ConnectionLostError(f"{jobs.server.url}: the log of {job} broke off") from None
            continue
        if message.type is aiohttp.WSMsgType.TEXT:
            return str(message.data)
        if message.type is aiohttp.WSMsgType.ERROR or log.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
            raise lost(jobs.server.url, "the log broke off")
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            return None


# How far a run is, read from its log.


STEP_LINE = re.compile(r"^step (\d+)/(\d+) (.*)$", re.MULTILINE)
STOPPED_LINE = re.compile(r"^The run was stopped with a checkpoint after (\d+) steps\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest step that a log tells of.

    Args:
        step: steps done.
        steps: of the whole run.
        figures: the step's losses and rates, as the log has them.
    """

    step: int
    steps: int
    metrics: str


def progress_in(log: str) -> Progress | None:
    """Return how far a run is, None when its log does not say."""
    found = STEP_LINE.findall(log)
    return Progress(int(found[-1][0]), int(found[-1][1]), found[-1][2]) if found else None


def stopped_after(log: str) -> int | None:
    """Return after how many steps a run was stopped with a checkpoint, None when its log does not say."""
    found = STOPPED_LINE.findall(log)
    return int(found[-1]) if found else None


def last_lines(log: str, count: int) -> str:
    """Return the last lines of a log."""
    return "".join(log.splitlines(keepends=True)[-count:]) if count else ""


# Stopping a job and waiting until its last checkpoint is written.


@dataclass(frozen=True, slots=True)
class StopResult:
    """How a job ended that was asked to stop.

    Args:
        job: the job; it is not over when nobody waited.
        asked: whether it was still going on.
        step: steps in its last checkpoint; None when its log does not say.
    """

    job: Job
    asked: bool
    step: int | None = None


def request_stop(connect: Connect, job: str) -> StopResult:
    """Ask a job to stop; do not wait for it."""
    with connect() as server:
        jobs = JobClient(server)
        asked = not jobs.job(job).is_over and jobs.stop(job)
        return StopResult(jobs.job(job), asked, stopped_after(jobs.log(job)))


def wait_for_end(
    connect: Connect, job: str, log: Callable[[str], object], patience: Patience | None = None
) -> tuple[Job, int | None]:
    """Wait until a job that was asked to stop is over; return it, and the steps in its last checkpoint.

    Raises:
        ClusterError: the cluster cannot be reached any more.
    """
    heard: list[str] = []
    ended = follow(connect, job, LogReader(heard.append), log, patience)
    return ended, stopped_after("".join(heard))
