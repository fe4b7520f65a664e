"""Following a log over connections that break: nothing twice, nothing lost, and a timeout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from silent_job_server import silent_job_server

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.jobs.client import ConnectionLostError, JobClient
from orchestrator.cluster.jobs.follow import LONGEST_PAUSE_S, LogReader, Timeouts, follow, stream_log
from orchestrator.cluster.launch.launcher import JobServer

NOBODY = JobServer("http://127.0.0.1:9", "secret-token")
"""The port for nothing at all."""


@given(
    log=st.text(alphabet="abc\n", max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    piece=st.integers(1, 7),
    seen=st.integers(0, 60),
)
def test_every_character_comes_once_wherever_connections_break(
    log: str, cuts: list[int], piece: int, seen: int
) -> None:
    heard: list[str] = []
    reader = LogReader(heard.append, seen)
    for end in [*cuts, len(log)]:
        reader.restart()
        sent = log[:end]
        for start in range(0, len(sent), piece):
            reader(sent[start : start + piece])
    assert "".join(heard) == log[seen:]


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    def timeouts(self, give_up_after_s: float) -> Timeouts:
        return Timeouts(give_up_after_s=give_up_after_s, pause=self.pause, now_s=lambda: self.now_s)


@contextmanager
def connect() -> Iterator[JobServer]:
    yield NOBODY


def test_a_timeout_ends_with_a_message_that_says_how_to_come_back() -> None:
    clock, lines = Time(), list[str]()
    with pytest.raises(ClusterError, match="has not answered for 60 s") as caught:
        follow(connect, "mine-1", LogReader(lines.append), lines.append, clock.timeouts(60))
    assert "fuseray logs mine-1 -f" in str(caught.value)
    assert "secret-token" not in str(caught.value)
    assert clock.pauses[:4] == [1, 2, 4, 8]
    assert max(clock.pauses) == LONGEST_PAUSE_S
    assert len(lines) == 1


def test_a_tunnel_that_cannot_be_opened_is_tried_again_too() -> None:
    clock, attempts = Time(), list[int]()

    @contextmanager
    def broken() -> Iterator[JobServer]:
        attempts.append(1)
        raise ClusterError("the tunnel broke")
        yield NOBODY

    with pytest.raises(ClusterError, match="the tunnel broke"):
        follow(broken, "mine-1", LogReader(lambda _: None), lambda _: None, clock.timeouts(10))
    assert len(attempts) == len(clock.pauses) + 1 == 5


def test_a_server_that_falls_silent_is_found_out() -> None:
    heard: list[str] = []
    with silent_job_server() as address:
        jobs = JobClient(JobServer(address, "t"), answer_s=0.5)
        with pytest.raises(ConnectionLostError, match="does not answer"):
            stream_log(jobs, "mine-1", heard.append, quiet_s=0.2)
    assert heard == ["step 1/30 loss\n"]


def test_what_goes_wrong_with_the_text_is_no_lost_connection() -> None:
    def full(_: str) -> None:
        raise BrokenPipeError

    with silent_job_server() as address, pytest.raises(BrokenPipeError):
        stream_log(JobClient(JobServer(address, "t")), "mine-1", full)


def test_nobody_there_is_said_without_the_token() -> None:
    with pytest.raises(ClusterError, match="does not answer") as caught:
        JobClient(NOBODY, answer_s=2.0)
    assert "secret-token" not in f"{caught.value} {NOBODY!r}"
