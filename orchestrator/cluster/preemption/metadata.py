"""Asking a cloud's metadata service: a small answer, soon, from itself and nobody else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from urllib.parse import urlsplit

from orchestrator.cluster.preemption.notice import SourceError

TIMEOUT_S = 2.0
LARGEST_ANSWER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """What a metadata service said.

    Args:
        status: HTTP status; redirects are not followed.
        headers: by name in lower case.
        body: the content.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """Return the content as text without white space around it."""
        return self.body.decode(errors="replace").strip()


def ask(method: str, url: str, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> Answer:
    """Send one request, past any proxy.

    Args:
        method: such as "GET".
        url: an http:// address.
        headers: headers of the request; they appear in no message.
        timeout_s: for connecting, for every read, and for all reads together.

    Raises:
        SourceError: no answer, or one that is too large or no HTTP.
    """
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request(method, parts.path, headers=dict(headers))
        response = connection.getresponse()
        body = _read(response, time.monotonic() + timeout_s)
    except TimeoutError:
        raise SourceError(f"{url}: no answer within {timeout_s:g} s.") from None
    except (OSError, HTTPException, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(f"{url}: no answer ({said}).") from None
    finally:
        connection.close()
    if len(body) > LARGEST_ANSWER_BYTES:
        raise SourceError(
            f"{url}: the answer is larger than {LARGEST_ANSWER_BYTES} bytes; this is no metadata service."
        )
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _read(response: HTTPResponse, until_s: float) -> bytes:
    """Read an answer, but not much more than may be in it."""
    body = b""
    while len(body) <= LARGEST_ANSWER_BYTES and (piece := response.read1(LARGEST_ANSWER_BYTES + 1 - len(body))):
        body += piece
        if time.monotonic() > until_s:
            raise TimeoutError
    if response.length and len(body) <= LARGEST_ANSWER_BYTES:
        raise IncompleteRead(body, response.length)
    return body
