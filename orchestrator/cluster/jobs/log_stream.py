"""A job's log as it is written, over one connection; the server sends it from its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp

from orchestrator.cluster.jobs.errors import ConnectionLostError
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.ray_client import authorization, lost, refused

QUIET_S = 20.0
"""After so long without a word the server is asked whether the job is still going on."""

CONNECT_S = 15.0
FAREWELL = aiohttp.ClientWSTimeout(ws_close=0.2)
"""Ray's job server never answers a farewell, so nobody waits for it when a user has seen enough."""

REFUSED = (401, 403)


def stream_log(jobs: Jobs, job: str, take: Callable[[str], object], quiet_s: float = QUIET_S) -> None:
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


async def _hand_on(jobs: Jobs, job: str, take: Callable[[str], object], quiet_s: float) -> None:
    async for text in _pieces(jobs, job, quiet_s):
        take(text)


async def _pieces(jobs: Jobs, job: str, quiet_s: float) -> AsyncIterator[str]:
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


def _session(jobs: Jobs) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
    return aiohttp.ClientSession(headers=authorization(jobs.server), timeout=timeout)


def _address(jobs: Jobs, job: str) -> str:
    return f"{jobs.server.url}/api/jobs/{job}/logs/tail"


async def _next(log: aiohttp.ClientWebSocketResponse, jobs: Jobs, job: str, quiet_s: float) -> str | None:
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
