"""Choosing a source, and asking over HTTP at all: slow servers, none, proxies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from metadata_server import Metadata

from orchestrator.cluster.preemption.cloud import (
    INSTANCE,
    AwsNotices,
    GcpNotices,
    NoSourceError,
    check_source_name,
    choose_cloud,
    open_notice_source,
    request,
)
from orchestrator.cluster.preemption.notices import FileNotices, SourceError
from orchestrator.config.errors import ConfigError

NOWHERE = "http://127.0.0.1:1"


@contextmanager
def answering(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats its one client as told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                client, _ = listening.accept()
                with client:
                    behave(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join()


def test_words() -> None:
    for word in ("auto", "aws", "gcp", "file:/run/preempted"):
        check_source_name(word)
    with pytest.raises(ConfigError, match="'azure' is unknown; choose auto, aws, gcp or file:PATH"):
        check_source_name("azure")
    for word in ("file:", "file:here"):
        with pytest.raises(ConfigError, match="absolute path"):
            check_source_name(word)


def test_named_sources_are_opened_without_asking(metadata: Metadata) -> None:
    assert isinstance(open_notice_source("aws", aws_url=metadata.url), AwsNotices)
    assert isinstance(open_notice_source("gcp", gcp_url=metadata.url), GcpNotices)
    assert isinstance(open_notice_source("file:/run/preempted"), FileNotices)
    assert metadata.asked == []


def test_auto_finds_ec2(metadata: Metadata) -> None:
    assert isinstance(open_notice_source("auto", aws_url=metadata.url, gcp_url=NOWHERE), AwsNotices)


def test_auto_finds_google(metadata: Metadata) -> None:
    metadata.items[INSTANCE + "id"] = (200, "123")
    assert isinstance(open_notice_source("auto", aws_url=NOWHERE, gcp_url=metadata.url), GcpNotices)


def test_auto_elsewhere_names_what_to_do() -> None:
    with pytest.raises(NoSourceError, match=r"file:PATH.*hop limit of 2"):
        open_notice_source("auto", aws_url=NOWHERE, gcp_url=NOWHERE)


@pytest.mark.parametrize(("aws", "gcp", "cloud"), [(True, False, "aws"), (False, True, "gcp")])
def test_the_cloud_that_answers_is_chosen(aws: bool, gcp: bool, cloud: str) -> None:
    assert choose_cloud(aws, gcp) == cloud


@pytest.mark.parametrize(("answers", "message"), [(True, "both answer"), (False, "neither")])
def test_no_cloud_is_guessed(answers: bool, message: str) -> None:
    with pytest.raises(NoSourceError, match=message):
        choose_cloud(answers, answers)


def test_a_server_that_says_nothing_is_left_soon() -> None:
    def wait(client: socket.socket) -> None:
        while client.recv(1000):
            pass

    with answering(wait) as url, pytest.raises(SourceError, match=r"no answer within 0\.05 s"):
        request("GET", f"{url}/x", {}, timeout_s=0.05)


def test_a_server_that_never_ends_is_left_soon() -> None:
    def trickle(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        pause = threading.Event()
        while not pause.wait(0.01):
            client.sendall(b"x")

    with answering(trickle) as url, pytest.raises(SourceError, match=r"no answer within 0\.1 s"):
        request("GET", f"{url}/x", {}, timeout_s=0.1)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nshort"])
def test_what_is_no_whole_answer_is_none(answer: bytes) -> None:
    def speak(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(answer)

    with answering(speak) as url, pytest.raises(SourceError, match="no answer"):
        request("GET", f"{url}/x", {})


def test_a_closed_port_in_a_container_names_the_hop_limit() -> None:
    with pytest.raises(SourceError, match=r"Connection refused.*--http-put-response-hop-limit 2"):
        AwsNotices(NOWHERE).poll()


def test_proxies_are_passed_by(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    assert AwsNotices(metadata.url).poll() is None
