"""Opens file systems, once per process and address, so that all readers share a connection pool; deletes S3 objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pyarrow import fs

from orchestrator.storage.proxies import keep_loopback_direct

CONNECT_TIMEOUT_S = 3
REQUEST_TIMEOUT_S = 20
CLIENT_ATTEMPTS = 3
GCS_RETRY_LIMIT_S = 1
CHECKSUM_VARIABLES = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_OPENED: dict[tuple[Address, tuple[tuple[str, str], ...]], _Opened] = {}
"""By address and by the environment variables from which credentials, region and checksums come."""


@dataclass(frozen=True, slots=True)
class Address:
    """What a file system is opened from; unlike the file system, it holds no credentials and pickles small.

    Args:
        scheme: "file", "s3" or "gs".
        endpoint: address of an S3-compatible server.
    """

    scheme: str
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file system whose client retries, and the same one with a single attempt for code that itself retries."""

    address: Address
    retrying: fs.FileSystem
    single_attempt: fs.FileSystem


def open_filesystem(address: Address) -> fs.FileSystem:
    """Return the file system at an address; the same one as long as the environment stays the same.

    Raises:
        OSError: it cannot be set up.
    """
    if address.scheme != "file":
        keep_loopback_direct()
    if address.scheme == "s3" and endpoint_of(address):
        for variable in CHECKSUM_VARIABLES:
            os.environ.setdefault(variable, "WHEN_REQUIRED")
    key = (address, tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_")))))
    opened = _OPENED.get(key)
    if opened is None:
        opened = _OPENED.setdefault(key, _open(address))
    return opened.retrying


def endpoint_of(address: Address) -> str | None:
    """Return the S3-compatible server of an address, or the one that the environment names, None for AWS.

    Without the argument, pyarrow's client reads the variables itself and addresses buckets as host names there.
    """
    return address.endpoint or next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)


def address_of(filesystem: fs.FileSystem) -> Address | None:
    """Return what a file system was opened from, None when it was opened elsewhere."""
    opened = _find(filesystem)
    return None if opened is None else opened.address


def single_attempt(filesystem: fs.FileSystem) -> fs.FileSystem:
    """Return the same file system with a client that tries every request once, for code that itself retries."""
    opened = _find(filesystem)
    return filesystem if opened is None else opened.single_attempt


def _find(filesystem: fs.FileSystem) -> _Opened | None:
    candidates = list(_OPENED.values())
    return next(
        (opened for opened in candidates if filesystem is opened.retrying or filesystem is opened.single_attempt), None
    )


def _open(address: Address) -> _Opened:
    if address.scheme == "s3":
        return _Opened(address, _s3(endpoint_of(address), CLIENT_ATTEMPTS), _s3(endpoint_of(address), 1))
    filesystem = fs.LocalFileSystem() if address.scheme == "file" else _gcs()
    return _Opened(address, filesystem, filesystem)


def _s3(endpoint: str | None, attempts: int) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,
    )


def _gcs() -> fs.GcsFileSystem:
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=GCS_RETRY_LIMIT_S))


def delete_objects(address: Address, bucket: str, key: str) -> None:
    """Delete an S3 object and all objects below it, in one attempt.

    Not by pyarrow, which after every deletion writes an empty object with the name of the parent folder. That is litter
    in any bucket, and servers that keep objects as files (rclone) take it for a file and hide what is in the folder.

    Raises:
        OSError: not everything could be deleted.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = _client(endpoint_of(address))
        for keys in _pages(client, bucket, key):
            batch = {"Objects": [{"Key": name} for name in keys], "Quiet": True}
            if errors := client.delete_objects(Bucket=bucket, Delete=batch).get("Errors"):
                raise OSError(f"{errors[0].get('Key')}: {errors[0].get('Code')}")
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise OSError(f"AWS Error {error.response.get('Error', {}).get('Code')} (HTTP status {status})") from error
    except BotoCoreError as error:
        raise ConnectionError(str(error)) from error


def _pages(client: Any, bucket: str, key: str) -> Iterator[list[str]]:
    """Yield the keys below a key, 1,000 at a time, and finally the key itself."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
        if keys := [entry["Key"] for entry in page.get("Contents", [])]:
            yield keys
    yield [key]


def _client(endpoint: str | None) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=REQUEST_TIMEOUT_S,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
    return session.client("s3", endpoint_url=endpoint, config=config)
