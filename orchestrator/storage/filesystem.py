"""Opening file systems: once per process and kind, so that all who read share one pool of connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pyarrow import fs

CONNECT_TIMEOUT_S = 3
REQUEST_TIMEOUT_S = 20
CLIENT_ATTEMPTS = 3
GCS_RETRY_LIMIT_S = 1
CHECKSUM_VARIABLES = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True, slots=True)
class Address:
    """What a file system is opened from; unlike the file system, it holds no credentials and is cheap to send.

    Args:
        scheme: "file", "s3" or "gs".
        endpoint: address of an S3-compatible server.
    """

    scheme: str
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file system whose client tries requests again, and its twin for those who do that themselves."""

    address: Address
    lasting: fs.FileSystem
    single: fs.FileSystem


_OPENED: dict[tuple[Address, tuple[tuple[str, str], ...]], _Opened] = {}
"""By address and by the variables that credentials, region and checksums come from."""


def open_filesystem(address: Address) -> fs.FileSystem:
    """Return the file system at an address; the same one as long as the environment stays the same.

    Raises:
        OSError: it cannot be set up.
    """
    if address.scheme == "s3" and endpoint_of(address):
        for variable in CHECKSUM_VARIABLES:
            os.environ.setdefault(variable, "WHEN_REQUIRED")
    key = (address, tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_")))))
    found = _OPENED.get(key)
    if found is None:
        found = _OPENED.setdefault(key, _open(address))
    return found.lasting


def endpoint_of(address: Address) -> str | None:
    """Return the S3-compatible server of an address, or the one that the environment names, None for AWS.

    Left to find the variables itself, pyarrow's client would take buckets for host names of that server.
    """
    return address.endpoint or next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)


def address_of(filesystem: fs.FileSystem) -> Address | None:
    """Return what a file system was opened from, None when it was opened elsewhere."""
    found = _find(filesystem)
    return None if found is None else found.address


def single_attempt(filesystem: fs.FileSystem) -> fs.FileSystem:
    """Return a file system's twin that tries every request once, for code that decides itself about the next try."""
    found = _find(filesystem)
    return filesystem if found is None else found.single


def _find(filesystem: fs.FileSystem) -> _Opened | None:
    return next((one for one in list(_OPENED.values()) if filesystem is one.lasting or filesystem is one.single), None)


def _open(address: Address) -> _Opened:
    if address.scheme == "s3":
        return _Opened(address, _s3(endpoint_of(address), CLIENT_ATTEMPTS), _s3(endpoint_of(address), 1))
    lasting = fs.LocalFileSystem() if address.scheme == "file" else _gcs()
    return _Opened(address, lasting, lasting)


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


# Deleting S3 objects and nothing else.
#
# pyarrow's file system puts an empty object in the place of the parent folder after every deletion. That is litter in
# any bucket, and servers that keep objects as files (rclone) take it for a file and lose sight of what is in the
# folder.


def delete_objects(address: Address, bucket: str, key: str) -> None:
    """Delete an object and all objects below it, in one attempt.

    Raises:
        OSError: not everything could be deleted.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = _client(endpoint_of(address))
        for keys in _pages(client, bucket, key):
            wanted = {"Objects": [{"Key": one} for one in keys], "Quiet": True}
            if errors := client.delete_objects(Bucket=bucket, Delete=wanted).get("Errors"):
                raise OSError(f"{errors[0].get('Key')}: {errors[0].get('Code')}")
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise OSError(f"AWS Error {error.response.get('Error', {}).get('Code')} (HTTP status {status})") from error
    except BotoCoreError as error:
        raise ConnectionError(str(error)) from error


def _pages(client: Any, bucket: str, key: str) -> Iterator[list[str]]:
    """Yield the keys below a key, 1,000 at a time, and at last the key itself."""
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
