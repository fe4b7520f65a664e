"""The metadata services of EC2 (IMDSv2) and Google Compute Engine on loopback, as strict as the real ones."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN_PATH = "/latest/api/token"  # noqa: S105
LONGEST_TTL_S = 21_600


@dataclass
class Metadata:
    """What the services say, and what they were asked; tests change it while they run.

    Args:
        url: where they are.
        items: status and content by path; what is missing is answered with 404.
        tokens: session tokens of EC2 that are valid.
        token_status: what a request for a token is answered with.
        asked: method and path of every request.
    """

    url: str
    items: dict[str, tuple[int, str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    token_status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)

    def count(self, method: str) -> int:
        """Return how many requests of a method there were."""
        return sum(asked == method for asked, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    metadata: Metadata

    def do_PUT(self) -> None:
        """Give out a token: no proxy may be in between, and the time to live must be said."""
        self.metadata.asked.append(("PUT", self.path))
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != TOKEN_PATH or self.headers.get("X-Forwarded-For"):
            self._answer(403, "")
        elif not ttl.isdigit() or not 1 <= int(ttl) <= LONGEST_TTL_S:
            self._answer(400, "")
        elif self.metadata.token_status != 200:
            self._answer(self.metadata.token_status, "")
        else:
            token = secrets.token_urlsafe(40) + "=="
            self.metadata.tokens.add(token)
            self._answer(200, token)

    def do_GET(self) -> None:
        """Answer a path of either service."""
        self.metadata.asked.append(("GET", self.path))
        google = self.path.startswith("/computeMetadata/")
        if google and self.headers.get("Metadata-Flavor") != "Google":
            self._answer(403, "")
        elif not google and self.headers.get("X-aws-ec2-metadata-token") not in self.metadata.tokens:
            self._answer(401, "")
        else:
            self._answer(*self.metadata.items.get(self.path, (404, "not here")), google=google)

    def _answer(self, status: int, text: str, google: bool = False) -> None:
        body = text.encode()
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", text)
        if google:
            self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def metadata_server() -> Iterator[Metadata]:
    """Run both services at one address of the loopback interface."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.metadata = Metadata(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler.metadata  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
