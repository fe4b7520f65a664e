"""What went wrong in storage: its class, its message, and nothing in the message that should stay secret."""

from __future__ import annotations

import errno
import os
import re
from enum import Enum

from orchestrator.spec.errors import FuserayError

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


class StorageError(FuserayError):
    """Storage could not be reached, read or written. Keys, tokens and signatures are removed from the message."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class ShortRead(OSError):
    """Fewer bytes came than the file has."""


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


S3_SAYS = (
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
"""What pyarrow's S3 client says, and why; the first that fits holds. REFUSED here is about certificates."""

GCS_SAYS = (
    (Cause.DENIED, r"OAuth2 access token|\((PERMISSION_DENIED|UNAUTHENTICATED):"),
    (Cause.MISSING, r"\(NOT_FOUND:"),
    (Cause.THROTTLED, r"\(RESOURCE_EXHAUSTED:"),
    (Cause.UNREACHABLE, r"CURL error \[[567]\]"),
    (Cause.TIMED_OUT, r"\(DEADLINE_EXCEEDED:|CURL error \[28\]"),
    (Cause.INTERRUPTED, r"\((UNAVAILABLE|INTERNAL|ABORTED|DATA_LOSS):"),
)
"""The same for Google's client."""


def cause_of(error: Exception) -> Cause:
    """Return why a file system's request failed, from the error's type and what the store said."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Cause.MISSING
    if isinstance(error, PermissionError):
        return Cause.DENIED
    if isinstance(error, TimeoutError):
        return Cause.TIMED_OUT
    if isinstance(error, ConnectionError | ShortRead) or getattr(error, "errno", None) in (errno.EAGAIN, errno.ESTALE):
        return Cause.INTERRUPTED
    said = str(error)
    known = GCS_SAYS if "google::cloud" in said else S3_SAYS
    return next((cause for cause, pattern in known if re.search(pattern, said)), Cause.REFUSED)


def explanation(error: Exception, uri: str) -> str:
    """Return what went wrong and what to do about it, as the end of a sentence about a URI."""
    cause = cause_of(error)
    said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    said = said.rstrip(". ")
    if cause is Cause.MISSING:
        return f"{cause.value}."
    if cause is Cause.REFUSED:
        return f"{said}. Free some space or choose another storage.uri." if "No space left" in said else f"{said}."
    return f"{cause.value} ({said}). {_advice(cause, uri)}"


def without_secrets(text: str) -> str:
    """Return a text with stars for access keys, tokens, signatures, and passwords in addresses."""
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
        return "Make the bucket first, or correct the URI."
    if cause is Cause.THROTTLED:
        return "Use fewer workers, or ask the store's operator for a higher request rate."
    return "Check the address (storage.endpoint, AWS_ENDPOINT_URL), that the store runs, and the network."


def _where_credentials(uri: str) -> str:
    if uri.startswith("s3:"):
        return S3_CREDENTIALS
    return GCS_CREDENTIALS if uri.startswith(("gs:", "gcs:")) else "The user who runs this needs the file's permission"
