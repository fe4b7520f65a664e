"""Deleting S3 objects and nothing else.

pyarrow's file system puts an empty object in the place of the parent folder after every deletion. That is litter in any
bucket, and servers that keep objects as files (rclone) take it for a file and lose sight of what is in the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from orchestrator.storage.filesystems import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Address, endpoint_of


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
