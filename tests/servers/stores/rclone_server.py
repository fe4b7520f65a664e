"""rclone's `serve s3`: a small server over a folder that is less like S3 than most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import free_ports, program, running
from s3_server import S3Server


@contextmanager
def rclone(parent: Path | None = None) -> Iterator[S3Server]:
    """Run rclone's S3 server on the loopback interface with fresh credentials; its data is gone afterwards.

    Args:
        parent: folder to keep the data below; the system's folder for temporary files when absent.
    """
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}")
    with TemporaryDirectory(prefix="rclone-", dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        command = [program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", str(folder / "data")]
        environment = {
            "RCLONE_CONFIG": str(folder / "rclone.conf"),
            "RCLONE_AUTH_KEY": f'"{server.access_key},{server.secret_key}"',
            "RCLONE_CACHE_DIR": str(folder / "cache"),
        }
        with running(command, environment, folder / "log", server.make_bucket):
            yield server
