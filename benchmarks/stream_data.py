"""The shards of the stream benchmark: made once, kept in a folder, and served from there or from an S3 server."""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import photos

MAX_SAMPLES_PER_SHARD = 256
MIN_SHARDS = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a loader finds the data: tar shards, LitData's chunks, and the S3 server's address."""

    shards: str
    chunks: str
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """A data set of photographs in a local folder.

    Args:
        folder: holds `train` (tar shards and their index) and perhaps `chunks` (LitData).
        samples: how many.
    """

    folder: Path
    samples: int

    @property
    def shards(self) -> Path:
        """The folder of tar shards."""
        return self.folder / "train"

    @property
    def chunks(self) -> Path:
        """The folder of LitData's chunks."""
        return self.folder / "chunks"

    def shard_names(self) -> tuple[str, ...]:
        """Return the names of the tar shards."""
        return tuple(sorted(path.name for path in self.shards.glob("*.tar")))

    def image_bytes(self) -> int:
        """Return the median size of an image file among the first hundred samples."""
        return int(statistics.median(len(photos.sample(number).image) for number in range(min(100, self.samples))))


def prepare(parent: Path, samples: int, with_chunks: bool) -> Data:
    """Make the data set below a folder, unless it is there already."""
    from orchestrator.storage.location import locate
    from orchestrator.stream.dataset.index import VERSION
    from orchestrator.stream.shards.corpus import build

    code = _digest(Path(photos.__file__))
    source = {"photographs": photos.origin(), "code": code, "samples": str(samples), "index": str(VERSION)}
    name = hashlib.sha256(repr(source).encode()).hexdigest()[:8]
    data = Data(parent / f"photos-{samples}-{name}", samples)
    per_shard = min(MAX_SAMPLES_PER_SHARD, -(-samples // MIN_SHARDS))
    build(lambda: photos.examples(samples), source, locate(str(data.folder)), "webdataset", per_shard)
    if with_chunks and not (data.chunks / "index.json").exists():
        from stream_peers import write_chunks

        write_chunks(data.chunks, samples)
    return data


@contextmanager
def served(data: Data, source: str) -> Iterator[Place]:
    """Give the data a URI: its folder, or a bucket of a SeaweedFS server that runs inside the body."""
    if source == "local":
        yield Place(str(data.shards), str(data.chunks), None)
        return
    servers = Path(__file__).parents[1] / "tests" / "servers"
    sys.path += [str(servers), str(servers / "stores")]
    from seaweedfs_server import seaweedfs

    with seaweedfs() as server:
        client, bucket = server.client(), server.make_bucket()
        for path in sorted(data.folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), bucket, str(path.relative_to(data.folder)))
        os.environ.update(server.environment())
        yield Place(f"s3://{bucket}/train", f"s3://{bucket}/chunks", server.endpoint)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
