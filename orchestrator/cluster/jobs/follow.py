"""Follows a job's log until the job is over, reconnecting as needed; reads progress from logs; stops jobs."""

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
    connection_lost,
    token_refused,
)
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.config.commands import command_line
from orchestrator.storage.timing import exponential_delay_s

Connect = Callable[[], AbstractContextManager[JobServer]]
"""Opens a new connection to a job server with each call."""

GIVE_UP_AFTER_S = 300.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0


@dataclass(slots=True)
class LogReader:
    """Reads a log that every connection sends from its beginning, and passes on each character once.

    Args:
        take: takes new text.
        seen: number of characters that were passed on already.
    """

    take: Callable[[str], object]
    seen: int = 0
    _position: int = field(default=0, init=False)

    @property
    def has_received(self) -> bool:
        """Whether any text came over the current connection."""
        return self._position > 0

    def restart(self) -> None:
        """Expect the log from its beginning, over a new connection."""
        self._position = 0

    def __call__(self, text: str) -> None:
        """Read the next piece of the log."""
        new_text = text[max(0, self.seen - self._position) :]
        self._position += len(text)
        self.seen = max(self.seen, self._position)
        if new_text:
            self.take(new_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """When to give up on a cluster that does not answer.

    Args:
        give_up_after_s: seconds without an answer.
        pause: waits so many seconds.
        now_s: a monotonic clock.
    """

    give_up_after_s: float = GIVE_UP_AFTER_S
    pause: Callable[[float], object] = time.sleep
    now_s: Callable[[], float] = time.monotonic


def follow(
    connect: Connect, job: str, reader: LogReader, log: Callable[[str], object], timeouts: Timeouts | None = None
) -> Job:
    """Read a job's log until the job is over. The caller has checked that the cluster answers.

    Args:
        connect: opens a connection to the job server.
        job: its submission id.
        reader: reads the log.
        log: takes a line when a connection is lost.
        timeouts: when to give up.

    Returns:
        The job, which is over.

    Raises:
        ClusterError: the cluster has not answered within the timeout.
        UnknownJobError: the job server does not know the job, or no longer.
        TokenError: it refuses the token.
    """
    timeouts = timeouts or Timeouts()
    answered_s, attempts = timeouts.now_s(), 0
    while True:
        reader.restart()
        try:
            return _follow_once(connect, job, reader)
        except (UnknownJobError, TokenError):
            raise
        except ClusterError as error:
            if reader.has_received:
                answered_s, attempts = timeouts.now_s(), 0
            if timeouts.now_s() - answered_s > timeouts.give_up_after_s:
                raise _gave_up(job, timeouts.give_up_after_s, error) from error
            if attempts == 0:
                log(f"the connection is lost, the job continues; trying again ({error})")
            attempts += 1
            timeouts.pause(exponential_delay_s(attempts, FIRST_PAUSE_S, LONGEST_PAUSE_S))


def _follow_once(connect: Connect, job: str, reader: LogReader) -> Job:
    """Follow the log over one connection; return the job if it is over and its log was read to the end."""
    with connect() as server:
        jobs = JobClient(server)
        stream_log(jobs, job, reader)
        current = jobs.job(job)
        if not current.is_over:
            raise ConnectionLostError(f"{server.url}: the log of {job} broke off")
        reader.restart()
        reader(jobs.log(job))
    return current


def _gave_up(job: str, after_s: float, error: ClusterError) -> ClusterError:
    return ClusterError(
        f"the cluster has not answered for {after_s:.0f} s ({error}). The job continues if the cluster does; "
        f"follow it again with `{command_line('logs', job, '-f')}`."
    )


QUIET_S = 20.0
"""After so many seconds without a message, the job server is asked for the job's status."""

CONNECT_S = 15.0
CLOSE_TIMEOUT = aiohttp.ClientWSTimeout(ws_close=0.2)
"""Ray's job server never answers the closing handshake, so it is not waited for."""

UNAUTHORIZED = (401, 403)


def stream_log(jobs: JobClient, job: str, take: Callable[[str], object], quiet_s: float = QUIET_S) -> None:
    """Stream a job's log over one WebSocket connection, from its beginning, until the job is over.

    Args:
        jobs: the client of the cluster's job server.
        job: its submission id.
        take: takes each piece of text.
        quiet_s: after so many seconds without a message, check that the job server still answers.

    Raises:
        ConnectionLostError: the connection broke, or the server no longer answers.
        UnknownJobError: there is no such job.
        TokenError: the server refuses the token.
    """
    asyncio.run(_stream(jobs, job, take, quiet_s))


async def _stream(jobs: JobClient, job: str, take: Callable[[str], object], quiet_s: float) -> None:
    async for text in _messages(jobs, job, quiet_s):
        take(text)


async def _messages(jobs: JobClient, job: str, quiet_s: float) -> AsyncIterator[str]:
    try:
        async with (
            _session(jobs) as session,
            session.ws_connect(_address(jobs, job), max_msg_size=0, timeout=CLOSE_TIMEOUT) as log,
        ):
            while (message := await _next_message(log, jobs, job, quiet_s)) is not None:
                yield message
    except aiohttp.WSServerHandshakeError as error:
        if error.status in UNAUTHORIZED:
            raise token_refused(jobs.server.url) from error
        jobs.job(job)  # raises UnknownJobError when there is no such job
        raise connection_lost(jobs.server.url, f"HTTP status {error.status}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise connection_lost(jobs.server.url, type(error).__name__) from error


def _session(jobs: JobClient) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
    return aiohttp.ClientSession(headers=authorization(jobs.server), timeout=timeout)


def _address(jobs: JobClient, job: str) -> str:
    return f"{jobs.server.url}/api/jobs/{job}/logs/tail"


async def _next_message(log: aiohttp.ClientWebSocketResponse, jobs: JobClient, job: str, quiet_s: float) -> str | None:
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
            raise connection_lost(jobs.server.url, "the log broke off")
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            return None


STEP_LINE = re.compile(r"^step (\d+)/(\d+) (.*)$", re.MULTILINE)
STOPPED_LINE = re.compile(r"^The run was stopped with a checkpoint after (\d+) steps\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Progress:
    """The last step in a run's log.

    Args:
        step: number of completed steps.
        steps: number of steps of the whole run.
        metrics: the step's losses and throughput, as text from the log.
    """

    step: int
    steps: int
    metrics: str


def progress_in(log: str) -> Progress | None:
    """Return the progress of a run, None when its log has no step."""
    steps = STEP_LINE.findall(log)
    return Progress(int(steps[-1][0]), int(steps[-1][1]), steps[-1][2]) if steps else None


def stopped_after(log: str) -> int | None:
    """Return after how many steps a run was stopped with a checkpoint, None when its log has no such line."""
    steps = STOPPED_LINE.findall(log)
    return int(steps[-1]) if steps else None


def last_lines(log: str, count: int) -> str:
    """Return the last lines of a log."""
    return "".join(log.splitlines(keepends=True)[-count:]) if count else ""


@dataclass(frozen=True, slots=True)
class StopResult:
    """Result of a request to stop a job.

    Args:
        job: the job; it may not be over yet unless its end was waited for.
        asked: whether it was still running, so that a stop was requested.
        step: number of steps at its last checkpoint; None when its log has none.
    """

    job: Job
    asked: bool
    step: int | None = None


def request_stop(connect: Connect, job: str) -> StopResult:
    """Request a stop of a job, without waiting for its end."""
    with connect() as server:
        jobs = JobClient(server)
        asked = not jobs.job(job).is_over and jobs.stop(job)
        return StopResult(jobs.job(job), asked, stopped_after(jobs.log(job)))


def wait_for_end(
    connect: Connect, job: str, log: Callable[[str], object], timeouts: Timeouts | None = None
) -> tuple[Job, int | None]:
    """Wait until a job that was requested to stop is over; return it, and the number of steps at its last checkpoint.

    Raises:
        ClusterError: the cluster no longer answers.
    """
    text: list[str] = []
    ended = follow(connect, job, LogReader(text.append), log, timeouts)
    return ended, stopped_after("".join(text))
