"""A proxy between an S3 client and its server that breaks requests as a plan tells it to, and counts what it broke."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from s3_server import S3Server

from workloads.contract import KeyedRandom

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Fault(Enum):
    """What can happen to a request.

    A truncated answer is shorter than it says itself, a short one is shorter than what was asked for. As a gateway in
    front of the server would, the proxy may want a login (401), or forbid what is asked (403).
    """

    LATENCY = "latency"
    RESET = "reset"
    SLOW_DOWN = "slow down"
    TRUNCATED = "truncated"
    SHORT = "short"
    LOGIN = "login"
    FORBIDDEN = "forbidden"


PASSING = (Fault.LATENCY, Fault.RESET, Fault.SLOW_DOWN, Fault.TRUNCATED, Fault.SHORT)
"""Faults after which a client may try again."""

REFUSALS = {
    Fault.SLOW_DOWN: (503, "application/xml", SLOW_DOWN),
    Fault.LOGIN: (401, "text/plain", b"You are not authenticated."),
    Fault.FORBIDDEN: (403, "text/plain", b"Permission denied"),
}
"""Status, content type and content of the proxy's own answers."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a plan sees it.

    Args:
        method: GET, HEAD, PUT ...
        target: path and query.
        byte_range: the Range header, empty when there is none.
        attempt: 1 when this method, target and range come for the first time.
    """

    method: str
    target: str
    byte_range: str
    attempt: int


Plan = Callable[[Request], Fault | None]
"""Which fault a request meets, if any."""


@dataclass(slots=True)
class UnreliableProxy:
    """A running proxy.

    Args:
        server: the proxy's address with the credentials of the server behind it.
        plan: may be exchanged at any time.
        injected: how often each fault was injected.
        requests: how often each request came, by method, target and range.
    """

    server: S3Server
    plan: Plan
    injected: Counter[Fault] = field(default_factory=Counter)
    requests: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, target: str, byte_range: str) -> Fault | None:
        """Count a request and return the fault that it meets."""
        with self._lock:
            self.requests[method, target, byte_range] += 1
            fault = self.plan(Request(method, target, byte_range, self.requests[method, target, byte_range]))
            if fault is not None:
                self.injected[fault] += 1
            return fault


def no_faults(_: Request) -> None:
    """A plan without faults."""


def first_attempts(fault: Fault, attempts: int = 1, methods: str = "GET") -> Plan:
    """Return a plan in which the first attempts of every request of some methods meet a fault."""
    return lambda request: fault if request.attempt <= attempts and request.method in methods.split() else None


def seeded(seed: int, rates: Mapping[Fault, float]) -> Plan:
    """Return a plan that draws a fault for every attempt from its own key; threads and bucket names change nothing.

    Args:
        seed: of the draws.
        rates: share of the requests that meet each fault; together at most 1.
    """

    def plan(request: Request) -> Fault | None:
        inside_bucket = request.target.removeprefix("/").partition("/")[2]
        key = (seed, request.method, inside_bucket, request.byte_range, request.attempt)
        remaining = KeyedRandom(key).numpy().random()
        for fault, rate in rates.items():
            remaining -= rate
            if remaining < 0:
                return fault
        return None

    return plan


@contextmanager
def unreliable(server: S3Server, plan: Plan = no_faults, latency_s: float = 0.002) -> Iterator[UnreliableProxy]:
    """Run a proxy in front of a server, in threads of this process.

    Args:
        server: where requests go.
        plan: which requests meet which fault.
        latency_s: how long a request with the fault LATENCY is held up.
    """
    listener = _Listener(("127.0.0.1", 0), _Handler)
    address = f"http://127.0.0.1:{listener.server_address[1]}"
    proxy = UnreliableProxy(S3Server(address, server.access_key, server.secret_key), plan)
    listener.proxy, listener.upstream, listener.latency_s = proxy, urlsplit(server.endpoint).netloc, latency_s
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Listener(ThreadingHTTPServer):
    proxy: UnreliableProxy
    upstream: str
    latency_s: float
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are this server's trade."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Keep no log."""

    def serve(self) -> None:
        """Answer one request, or break it."""
        fault = self.server.proxy.fault(self.command, self.path, self.headers.get("Range", ""))
        if fault is Fault.RESET:
            self._reset()
            return
        body = self._body()
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
            return
        if fault is Fault.LATENCY:
            time.sleep(self.server.latency_s)
        self._forward(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _refuse(self, status: int, kind: str, content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP | {"expect"}:
                self.upstream.putheader(name, value)
        self.upstream.endheaders(body or None)
        answer = self.upstream.getresponse()
        content = answer.read()
        if fault is Fault.SHORT:
            content = content[: len(content) // 2]
        self._answer(answer, content, len(content) // 2 if fault is Fault.TRUNCATED else len(content))

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, sent: int) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content[:sent])
        self.close_connection = self.close_connection or sent < len(content)
