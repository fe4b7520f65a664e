"""Preemption notices of AWS and Google Cloud, from their metadata services, and the choice of a source by its name.

AWS EC2 (IMDSv2): `spot/instance-action` answers 404 until the instance is marked, then with {"action": ..., "time":
...}: two minutes ahead, except for hibernation, which begins at once. `events/recommendations/rebalance` may answer
earlier.

Google Compute Engine: `instance/preempted` changes from FALSE to TRUE when the machine is preempted, 30 seconds before
it is switched off; `instance/maintenance-event` may announce earlier that a host maintenance will switch it off.
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

from orchestrator.cluster.findings import with_timeout
from orchestrator.cluster.preemption.notices import (
    FileNotices,
    Notice,
    NoticeSource,
    SourceError,
    epoch_ms,
    one_line,
)
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.timing import now_ms

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
    "In a container its answers need one more hop: "
    "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2."
)


class AwsNotices:
    """Notices of EC2's metadata service, requested with a session token that is cached and renewed.

    Args:
        url: the service's address.
        early: also report a rebalance recommendation, which has no deadline, as a notice.
        clock: a monotonic clock in seconds, for the age of the token.
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
        """Return the announced interruption, None while there is none."""
        if (action := self._get(ACTION)) is not None:
            return _interruption(action)
        if self._early and self._get(REBALANCE) is not None:
            return Notice("EC2 recommends to leave this instance", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether the service answers with a token."""
        try:
            return bool(self._new_token())
        except SourceError:
            return False

    def _get(self, path: str) -> Answer | None:
        """Return the answer for a path, None for status 404."""
        answer = self._get_with_token(path, self._cached_token() or self._new_token())
        if answer.status == 401:
            answer = self._get_with_token(path, self._new_token())
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise SourceError(f"{self._url}{path}: status {answer.status}.")
        return answer

    def _get_with_token(self, path: str, token: str) -> Answer:
        return request("GET", self._url + path, {"X-aws-ec2-metadata-token": token})

    def _cached_token(self) -> str | None:
        return self._token if self._clock() - self._token_since_s < TOKEN_RENEWED_S else None

    def _new_token(self) -> str:
        since_s = self._clock()
        try:
            answer = request("PUT", self._url + TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)})
        except SourceError as error:
            raise SourceError(f"{error} {HOP_FIX}") from None
        if answer.status != 200 or not answer.body:
            fix = TOKEN_FIX.get(answer.status, "This is not EC2's metadata service.")
            raise SourceError(f"{self._url}{TOKEN}: status {answer.status} instead of a token. {fix}")
        self._token, self._token_since_s = answer.text(), since_s
        return self._token


def _interruption(answer: Answer) -> Notice:
    try:
        interruption = json.loads(answer.body)
        action = interruption["action"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SourceError(f"EC2's {ACTION} has something other than an action and a time.") from None
    return Notice(f"spot instance, action {one_line(str(action))}", _time_ms(interruption.get("time")), AwsNotices.name)


def _time_ms(text: object) -> int | None:
    """Return EC2's time, None for an invalid one, which still is an interruption."""
    try:
        return epoch_ms(datetime.fromisoformat(str(text)))
    except ValueError:
        return None


GCP_URL = "http://metadata.google.internal"
INSTANCE = "/computeMetadata/v1/instance/"
GRACE_MS = 30_000
HEADERS = {"Metadata-Flavor": "Google"}
CONCEALED_FIX = "GKE's metadata server hides it from pods; run the watcher with hostNetwork."


class GcpNotices:
    """Notices of Google's metadata server.

    Args:
        url: the server's address.
        early: also report a maintenance that will switch this machine off, which has no deadline, as a notice.
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
        """Return the preemption, None while there is none; its deadline is 30 s after the first poll that saw it."""
        if self._is_preempted():
            self._preempted = self._preempted or Notice(
                "spot instance, preempted", self._now_ms() + GRACE_MS, self.name
            )
            return self._preempted
        if self._early and self._get("maintenance-event").text().startswith("TERMINATE"):
            return Notice("host maintenance that switches this machine off", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether Google's metadata server answers."""
        try:
            return self._get("id").headers.get("metadata-flavor") == "Google"
        except SourceError:
            return False

    def _is_preempted(self) -> bool:
        value = self._get("preempted").text()
        if value not in ("TRUE", "FALSE"):
            raise SourceError(f"{self._url}{INSTANCE}preempted is neither TRUE nor FALSE.")
        return value == "TRUE"

    def _get(self, name: str) -> Answer:
        answer = request("GET", f"{self._url}{INSTANCE}{name}", HEADERS)
        if answer.status != 200:
            fix = f" {CONCEALED_FIX}" if answer.status in (403, 404) else ""
            raise SourceError(f"{self._url}{INSTANCE}{name}: status {answer.status}.{fix}")
        return answer


TIMEOUT_S = 2.0
LARGEST_ANSWER_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a metadata service.

    Args:
        status: HTTP status; redirects are not followed.
        headers: by name in lower case.
        body: the content.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        """Return the content as text, without surrounding white space."""
        return self.body.decode(errors="replace").strip()


def request(method: str, url: str, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> Answer:
    """Send one request, without a proxy.

    Args:
        method: such as "GET".
        url: an http:// address.
        headers: headers of the request; they appear in no message.
        timeout_s: for connecting, for every read, and for all reads together.

    Raises:
        SourceError: no answer, or one that is too large or not HTTP.
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
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceError(f"{url}: no answer ({reason}).") from None
    finally:
        connection.close()
    if len(body) > LARGEST_ANSWER_BYTES:
        raise SourceError(
            f"{url}: the answer is larger than {LARGEST_ANSWER_BYTES} bytes; this is not a metadata service."
        )
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def _read(response: HTTPResponse, deadline_s: float) -> bytes:
    """Read an answer, up to a byte more than its largest size."""
    body = b""
    while len(body) <= LARGEST_ANSWER_BYTES and (chunk := response.read1(LARGEST_ANSWER_BYTES + 1 - len(body))):
        body += chunk
        if time.monotonic() > deadline_s:
            raise TimeoutError
    if response.length and len(body) <= LARGEST_ANSWER_BYTES:
        raise IncompleteRead(body, response.length)
    return body


FILE = "file:"
PROBE_S = 5.0


class NoSourceError(FuserayError):
    """This machine has no source of notices, or it is ambiguous."""


def check_source_name(name: str) -> None:
    """Refuse an unknown source, without sending a request.

    Raises:
        ConfigError: there is no such source.
    """
    if name.startswith(FILE):
        if not Path(name.removeprefix(FILE)).is_absolute():
            raise ConfigError(f"source {name!r}: give the file's absolute path, as in {FILE}/run/preempted.")
    elif name not in ("auto", "aws", "gcp"):
        raise ConfigError(f"source {name!r} is unknown; choose auto, aws, gcp or {FILE}PATH.")


def open_notice_source(name: str, early: bool = False, aws_url: str = AWS_URL, gcp_url: str = GCP_URL) -> NoticeSource:
    """Return the source of a name.

    Args:
        name: `auto` probes the clouds' metadata services once and chooses the one that answers.
        early: also report recommendations and announcements without a deadline as notices.
        aws_url: address of EC2's metadata service.
        gcp_url: address of Google's metadata server.

    Raises:
        ConfigError: there is no such source.
        NoSourceError: the name is `auto`, and not exactly one of the clouds answers.
    """
    check_source_name(name)
    if name.startswith(FILE):
        return FileNotices(Path(name.removeprefix(FILE)))
    aws, gcp = AwsNotices(aws_url, early), GcpNotices(gcp_url, early)
    if name == "auto":
        name = choose_cloud(_answers(aws), _answers(gcp))
    return aws if name == "aws" else gcp


def choose_cloud(aws: bool, gcp: bool) -> Literal["aws", "gcp"]:
    """Return the cloud that this machine is in.

    Args:
        aws: whether EC2's metadata service answered.
        gcp: whether Google's metadata server answered.

    Raises:
        NoSourceError: neither or both answered.
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
    """Probe a cloud once, with a timeout: resolving a host name that does not exist may take longer than a request."""
    try:
        return with_timeout(PROBE_S, source.reachable)
    except TimeoutError:
        return False
