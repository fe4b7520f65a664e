"""Why a storage request failed, and whether and after how long to retry it; messages never show secrets."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from time import sleep
from typing import TypeVar

import pyarrow as pa

from orchestrator.config.errors import FuserayError
from orchestrator.storage.timing import exponential_delay_s
from workloads.contract import KeyedRandom

S3_CREDENTIALS = (
    "S3 credentials are looked for in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, in "
    "~/.aws/credentials and ~/.aws/config (AWS_PROFILE names the profile), and in the machine's role"
)
GCS_CREDENTIALS = (
    "Google credentials are looked for in the file that GOOGLE_APPLICATION_CREDENTIALS names, in what `gcloud auth "
    "application-default login` left, and in the machine's service account"
)
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SECRETS = (
    re.compile(
        r"(?i)((?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|(?:access_?)?token|sig)=)[^&\s\"'<>]+"
    ),
    re.compile(r"(?i)((?:credential|awsaccesskeyid|googleaccessid)[=>:]\s*)[^&,\s\"'<>]+"),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]+"),
    re.compile(r"(://)[^/@\s]+(?=@)"),
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"),
    re.compile(r"()\bya29\.[\w.-]+"),
)
LEAST_SECRET_LENGTH = 8
LOG = logging.getLogger(__name__)

LOGGED_ATTEMPT = 3
"""From this attempt on, retries are logged."""

Result = TypeVar("Result")


class StorageError(FuserayError):
    """Storage could not be reached, read or written. Keys, tokens and signatures are masked in the message."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class ShortRead(OSError):
    """Fewer bytes arrived than the file has."""


class Cause(Enum):
    """Why a request failed."""

    THROTTLED = "the store asks for fewer requests"
    INTERRUPTED = "the transfer broke"
    TIMED_OUT = "the store did not answer in time"
    UNREACHABLE = "nothing answers at the address"
    MISSING = "it does not exist"
    NO_BUCKET = "the bucket does not exist"
    DENIED = "access was denied"
    REFUSED = "the request was refused"


S3_ERRORS = (
    (Cause.DENIED, r"AWS Error (ACCESS_DENIED|SIGNATURE_DOES_NOT_MATCH|INCOMPLETE_SIGNATURE|INVALID_SIGNATURE)\b"),
    (Cause.DENIED, r"AWS Error (INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT)\b"),
    (Cause.DENIED, r"AWS Error (MISSING_AUTHENTICATION_TOKEN|REQUEST_EXPIRED|REQUEST_TIME_TOO_SKEWED)\b"),
    (Cause.DENIED, r"ExpiredToken|InvalidToken|HTTP status 40[013]\)"),
    (Cause.NO_BUCKET, r"AWS Error NO_SUCH_BUCKET"),
    (Cause.MISSING, r"AWS Error (NO_SUCH_KEY|RESOURCE_NOT_FOUND)|HTTP status 404\)"),
    (Cause.THROTTLED, r"AWS Error (SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE)|HTTP status (429|503)\)"),
    (Cause.REFUSED, r"curlCode: (51|58|60|66|77|83),"),
    (Cause.UNREACHABLE, r"curlCode: [567],"),
    (Cause.TIMED_OUT, r"curlCode: 28,|AWS Error REQUEST_TIMEOUT"),
    (Cause.INTERRUPTED, r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE)|HTTP status (416|5\d\d)\)"),
)
"""Patterns of error messages of pyarrow's S3 client; the first match counts. REFUSED here is about certificates."""

GCS_ERRORS = (
    (Cause.DENIED, r"OAuth2 access token|\((PERMISSION_DENIED|UNAUTHENTICATED):"),
    (Cause.MISSING, r"\(NOT_FOUND:"),
    (Cause.THROTTLED, r"\(RESOURCE_EXHAUSTED:"),
    (Cause.UNREACHABLE, r"CURL error \[[567]\]"),
    (Cause.TIMED_OUT, r"\(DEADLINE_EXCEEDED:|CURL error \[28\]"),
    (Cause.INTERRUPTED, r"\((UNAVAILABLE|INTERNAL|ABORTED|DATA_LOSS):"),
)
"""The same for pyarrow's Google Cloud Storage client."""


def cause_of(error: Exception) -> Cause:
    """Return why a file system's request failed, from the error's type and message."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Cause.MISSING
    if isinstance(error, PermissionError):
        return Cause.DENIED
    if isinstance(error, TimeoutError):
        return Cause.TIMED_OUT
    if isinstance(error, ConnectionError | ShortRead) or getattr(error, "errno", None) in (errno.EAGAIN, errno.ESTALE):
        return Cause.INTERRUPTED
    message = str(error)
    patterns = GCS_ERRORS if "google::cloud" in message else S3_ERRORS
    return next((cause for cause, pattern in patterns if re.search(pattern, message)), Cause.REFUSED)


def explanation(error: Exception, uri: str) -> str:
    """Return what went wrong and what to do about it, as the end of a sentence about a URI."""
    cause = cause_of(error)
    message = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    message = message.rstrip(". ")
    if cause is Cause.MISSING:
        return f"{cause.value}."
    if cause is Cause.REFUSED:
        full = "No space left" in message
        return f"{message}. Free some space or choose another storage.uri." if full else f"{message}."
    return f"{cause.value} ({message}). {_advice(cause, uri)}"


def without_secrets(text: str) -> str:
    """Return a text with *** for access keys, tokens, signatures, and passwords in addresses."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= LEAST_SECRET_LENGTH:
            text = text.replace(value, "***")
    for pattern in SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def _advice(cause: Cause, uri: str) -> str:
    if cause is Cause.DENIED:
        return f"{_where_credentials(uri)}. Check them and the permissions of the bucket (`fuseray doctor`)."
    if cause is Cause.NO_BUCKET:
        return "Create the bucket first, or correct the URI."
    if cause is Cause.THROTTLED:
        return "Use fewer workers, or ask the store's operator for a higher request rate."
    return "Check the address (storage.endpoint, AWS_ENDPOINT_URL), that the store is running, and the network."


def _where_credentials(uri: str) -> str:
    if uri.startswith("s3:"):
        return S3_CREDENTIALS
    return GCS_CREDENTIALS if uri.startswith(("gs:", "gcs:")) else "The user who runs this needs the file's permission"


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry.

    Args:
        after_s: seconds to wait before that.
    """

    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not retry.

    Args:
        reason: why not.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Attempts and exponential back-off for one cause of failure.

    Args:
        attempts: attempts in all.
        initial_wait_s: longest wait before the second attempt, in seconds; it doubles with every further one.
        max_wait_s: upper limit of the waits, in seconds.
    """

    attempts: int
    initial_wait_s: float
    max_wait_s: float


RETRY_LIMITS: Mapping[Cause, RetryLimits] = {
    Cause.THROTTLED: RetryLimits(attempts=10, initial_wait_s=0.5, max_wait_s=20),
    Cause.INTERRUPTED: RetryLimits(attempts=8, initial_wait_s=0.1, max_wait_s=10),
    Cause.TIMED_OUT: RetryLimits(attempts=4, initial_wait_s=0.2, max_wait_s=5),
    Cause.UNREACHABLE: RetryLimits(attempts=4, initial_wait_s=0.2, max_wait_s=5),
}
"""The transient failures; all others are final."""


def decide_retry(error: Exception, attempt: int, draw: KeyedRandom) -> Retry | GiveUp:
    """Decide whether to retry after a failed attempt.

    Args:
        error: what a file system raised.
        attempt: how many attempts there have been, at least 1.
        draw: jitter, so that clients that failed together do not retry together.

    Returns:
        A wait of half to all of `initial_wait_s * 2 ** (attempt - 1)` seconds, or the end.
    """
    cause = cause_of(error)
    limits = RETRY_LIMITS.get(cause)
    if limits is None:
        return GiveUp(cause.value)
    if attempt >= limits.attempts:
        return GiveUp(f"tried {attempt} times")
    max_wait_s = exponential_delay_s(attempt, limits.initial_wait_s, limits.max_wait_s)
    return Retry(max_wait_s * (0.5 + 0.5 * draw.child(attempt).numpy().random()))


def retrying(action: Callable[[], Result], uri: str, verb: str, pause: Callable[[float], None] | None = None) -> Result:
    """Run a request until it succeeds or retrying is pointless.

    Args:
        action: may be run any number of times.
        uri: of the file or folder, for messages.
        verb: a participle for messages, as in "cannot be read".
        pause: sleeps some seconds; for tests.

    Raises:
        StorageError: it failed, and retrying is pointless; the message says why and what to do.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            decision = decide_retry(error, attempt, KeyedRandom(("storage", os.getpid(), uri, verb)))
            if isinstance(decision, GiveUp):
                raise _failure(error, uri, verb, attempt) from _unless_secret(error)
            if attempt >= LOGGED_ATTEMPT:
                _log_retry(error, uri, attempt, decision)
        (pause or sleep)(decision.after_s)


def _failure(error: Exception, uri: str, verb: str, attempts: int) -> StorageError:
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    return StorageError(f"{uri}: cannot be {verb}{tries}: {explanation(error, uri)}")


def _log_retry(error: Exception, uri: str, attempt: int, decision: Retry) -> None:
    LOG.warning(
        "%s: %s; attempt %d follows in %.1f s",
        without_secrets(uri),
        cause_of(error).value,
        attempt + 1,
        decision.after_s,
    )


def _unless_secret(error: Exception) -> Exception | None:
    """Return the error, to chain it as a cause, unless its message holds a secret."""
    return error if str(error) == without_secrets(str(error)) else None
