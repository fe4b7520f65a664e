"""What every S3 server of the tests has in common: an address, credentials, buckets."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server that speaks S3.

    Args:
        endpoint: its address, such as `http://127.0.0.1:8333`.
        access_key: the one access key it accepts.
        secret_key: the secret that belongs to it.
    """

    endpoint: str
    access_key: str = field(default_factory=lambda: f"key{secrets.token_hex(8)}")
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)

    def environment(self) -> dict[str, str]:
        """Return the variables that give a process these credentials and no others."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def client(self) -> Any:
        """Return a boto3 client that tries everything once."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=30,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def make_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name
