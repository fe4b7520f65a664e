"""Spot interruptions of AWS EC2, from its instance metadata service (IMDSv2).

`spot/instance-action` answers 404 until the instance is marked, then with {"action": ..., "time": ...}: two minutes
ahead, save for hibernation, which begins at once. `events/recommendations/rebalance` may answer earlier.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from orchestrator.cluster.findings import within
from orchestrator.cluster.preemption.notices import (
    FileNotices,
    Notice,
    NoticeSource,
    SourceError,
    epoch_ms,
    now_ms,
    one_line,
)
from orchestrator.config.errors import ConfigError, FuserayError

AWS_URL = "http://169.254.169.254"
TOKEN = "/latest/api/token"  # noqa: S105
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
TOKEN_TTL_S = 21_600
TOKEN_RENEWED_S = 0.9 * TOKEN_TTL_S
TOKEN_FIX = {
    403: "Switch the metadata service on: aws ec2 modify-instance-metadata-options --http-endpoint enabled.",
}
HOP_FIX = (
    "In a container its answers need one hop more: "
    "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2."
)


class AwsNotices:
    """Asks EC2's metadata service with a session token, which is kept and renewed.

    Args:
        url: where the service is.
        early: also take a rebalance recommendation, which has no deadline, for a notice.
        clock: seconds that only grow, for the age of the token.
    """

    name = "aws"
    interval_s = 5.0

    def __init__(self, url: str = AWS_URL, early: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._early = early
        self._clock = clock
        self._token: str | None = None
        self._token_since_s = 0.0

    def poll(self) -> Notice | None:
        """Return the interruption that is announced, None while there is none."""
        if (action := self._get(ACTION)) is not None:
            return _interruption(action)
        if self._early and self._get(REBALANCE) is not None:
            return Notice("EC2 recommends to leave this instance", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether the service is there and gives out tokens."""
        try:
            return bool(self._fresh_token())
        except SourceError:
            return False

    def _get(self, path: str) -> Answer | None:
        """Return the answer for a path, None when there is nothing at it."""
        answer = self._with_token(path, self._usable_token() or self._fresh_token())
        if answer.status == 401:
            answer = self._with_token(path, self._fresh_token())
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise SourceError(f"{self._url}{path}: status {answer.status}.")
        return answer

    def _with_token(self, path: str, token: str) -> Answer:
        return ask("GET", self._url + path, {"X-aws-ec2-metadata-token": token})

    def _usable_token(self) -> str | None:
        return self._token if self._clock() - self._token_since_s < TOKEN_RENEWED_S else None

    def _fresh_token(self) -> str:
        since_s = self._clock()
        try:
            answer = ask("PUT", self._url + TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)})
        except SourceError as error:
            raise SourceError(f"{error} {HOP_FIX}") from None
        if answer.status != 200 or not answer.body:
            fix = TOKEN_FIX.get(answer.status, "This is not EC2's metadata service.")
            raise SourceError(f"{self._url}{TOKEN}: status {answer.status} instead of a token. {fix}")
        self._token, self._token_since_s = answer.text(), since_s
        return self._token


def _interruption(answer: Answer) -> Notice:
    try:
        found = json.loads(answer.body)
        action = found["action"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SourceError(f"EC2's {ACTION} says something other than an action and a time.") from None
    return Notice(f"spot instance, action {one_line(str(action))}", _time_ms(found.get("time")), AwsNotices.name)


def _time_ms(text: object) -> int | None:
    """Return EC2's time; an interruption whose time cannot be read is one all the same."""
    try:
        return epoch_ms(datetime.fromisoformat(str(text)))
    except ValueError:
        return None


# Preemptions of Google Compute Engine's spot and preemptible machines, from its metadata server.
#
# `instance/preempted` turns from FALSE to TRUE when the machine is preempted, 30 seconds before it is switched off;
# `instance/maintenance-event` may announce earlier that the host will be serviced with this machine switched off.


GCP_URL = "http://metadata.google.internal"
INSTANCE = "/computeMetadata/v1/instance/"
GRACE_MS = 30_000
HEADERS = {"Metadata-Flavor": "Google"}
CONCEALED_FIX = "GKE's metadata server hides it from pods; run the watcher with hostNetwork."


class GcpNotices:
    """Asks Google's metadata server.

    Args:
        url: where the server is.
        early: also take a coming maintenance that switches this machine off, which has no deadline, for a notice.
        now_ms: milliseconds since 1970 in UTC.
    """

    name = "gcp"
    interval_s = 1.0

    def __init__(self, url: str = GCP_URL, early: bool = False, now_ms: Callable[[], int] = now_ms) -> None:
        self._url = url
        self._early = early
        self._now_ms = now_ms
        self._preempted: Notice | None = None

    def poll(self) -> Notice | None:
        """Return the preemption, None while there is none; its 30 seconds count from when it was first seen."""
        if self._is_preempted():
            self._preempted = self._preempted or Notice(
                "spot instance, preempted", self._now_ms() + GRACE_MS, self.name
            )
            return self._preempted
        if self._early and self._get("maintenance-event").text().startswith("TERMINATE"):
            return Notice("host maintenance that switches this machine off", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether Google's metadata server is there."""
        try:
            return self._get("id").headers.get("metadata-flavor") == "Google"
        except SourceError:
            return False

    def _is_preempted(self) -> bool:
        said = self._get("preempted").text()
        if said not in ("TRUE", "FALSE"):
            raise SourceError(f"{self._url}{INSTANCE}preempted says neither TRUE nor FALSE.")
        return said == "TRUE"

    def _get(self, name: str) -> Answer:
        answer = ask("GET", f"{self._url}{INSTANCE}{name}", HEADERS)
        if answer.status != 200:
            fix = f" {CONCEALED_FIX}" if answer.status in (403, 404) else ""
            raise SourceError(f"{self._url}{INSTANCE}{name}: status {answer.status}.{fix}")
        return answer


# Asking a cloud's metadata service: a small answer, soon, from itself and nobody else.


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


# Which source of notices a word such as `auto`, `aws`, `gcp` or `file:/run/preempted` means.


FILE = "file:"
PROBE_S = 5.0


class NoSourceError(FuserayError):
    """Nothing on this machine announces preemptions."""


def check_source(word: str) -> None:
    """Refuse a word that names no source, without asking anybody.

    Raises:
        ConfigError: it names none.
    """
    if word.startswith(FILE):
        if not Path(word.removeprefix(FILE)).is_absolute():
            raise ConfigError(f"source {word!r}: give the file's whole path, as in {FILE}/run/preempted.")
    elif word not in ("auto", "aws", "gcp"):
        raise ConfigError(f"source {word!r} is unknown; choose auto, aws, gcp or {FILE}PATH.")


def open_source(word: str, early: bool = False, aws_url: str = AWS_URL, gcp_url: str = GCP_URL) -> NoticeSource:
    """Return the source that a word names.

    Args:
        word: `auto` asks the metadata services of the clouds once which of them is there.
        early: take recommendations and announcements without a deadline for notices, too.
        aws_url: where EC2's metadata service is.
        gcp_url: where Google's metadata server is.

    Raises:
        ConfigError: it names none.
        NoSourceError: `auto`, and this machine is in neither cloud.
    """
    check_source(word)
    if word.startswith(FILE):
        return FileNotices(Path(word.removeprefix(FILE)))
    aws, gcp = AwsNotices(aws_url, early), GcpNotices(gcp_url, early)
    if word == "auto":
        word = choose_cloud(_answers(aws), _answers(gcp))
    return aws if word == "aws" else gcp


def choose_cloud(aws: bool, gcp: bool) -> Literal["aws", "gcp"]:
    """Decide which cloud this machine is in.

    Args:
        aws: whether EC2's metadata service answered.
        gcp: whether Google's metadata server answered.

    Raises:
        NoSourceError: neither or both.
    """
    if aws and gcp:
        raise NoSourceError("the metadata services of AWS and GCP both answer; name the right one with --source.")
    if not aws and not gcp:
        raise NoSourceError(
            "neither AWS's nor GCP's metadata service answers here, so nothing announces preemptions; name a file with "
            f"{FILE}PATH, and in a container on EC2 allow the metadata service a hop limit of 2."
        )
    return "aws" if aws else "gcp"


def _answers(source: AwsNotices | GcpNotices) -> bool:
    """Ask once; looking up a name that does not exist may take longer than any request."""
    try:
        return within(PROBE_S, source.reachable)
    except TimeoutError:
        return False
