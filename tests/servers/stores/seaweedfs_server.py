"""SeaweedFS with its S3 gateway: a complete object store in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import free_ports, program, running
from s3_server import S3Server

ROLES = ("master", "volume", "filer", "s3")
SETTINGS = (
    "-filer",
    "-s3",
    "-master.telemetry=false",
    "-master.electionTimeout=100ms",
    "-master.volumeSizeLimitMB=64",
    "-volume.max=256",
    "-s3.iam=false",
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
)


@contextmanager
def seaweedfs(parent: Path | None = None, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run SeaweedFS with fresh credentials; its data is gone afterwards.

    Args:
        parent: folder to keep the data below; the system's folder for temporary files when absent.
        address: where it listens.
    """
    http, grpc = free_ports(len(ROLES)), free_ports(len(ROLES))
    server = S3Server(f"http://{address}:{http[-1]}")
    with TemporaryDirectory(prefix="seaweedfs-", dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        listening = (f"-ip={address}", f"-ip.bind={address}")
        command = [program("weed"), "server", *SETTINGS, *listening, *_ports(http, grpc), *_files(folder, server)]
        try:
            with running(command, {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}, folder / "log", server.make_bucket):
                yield server
        finally:
            _remove_sockets([*http, *grpc])


def _ports(http: list[int], grpc: list[int]) -> list[str]:
    return [
        argument
        for role, port, grpc_port in zip(ROLES, http, grpc, strict=True)
        for argument in (f"-{role}.port={port}", f"-{role}.port.grpc={grpc_port}")
    ]


def _files(folder: Path, server: S3Server) -> list[str]:
    config = folder / "s3.json"
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    with open(os.open(config, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        json.dump({"identities": [identity]}, file)
    (folder / "data").mkdir()
    return [f"-dir={folder / 'data'}", f"-s3.config={config}"]


def _remove_sockets(ports: list[int]) -> None:
    """Remove the Unix sockets that the server leaves in /tmp, named after its ports."""
    for role in ROLES:
        for port in ports:
            for name in (f"seaweedfs-{role}-{port}.sock", f"seaweedfs-{role}-grpc-{port}.sock"):
                (Path("/tmp") / name).unlink(missing_ok=True)  # noqa: S108
