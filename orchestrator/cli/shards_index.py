"""`fuseray shards index URI`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from orchestrator.config.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.storage.location import Location
    from orchestrator.stream.shards.executors import Mapper
    from orchestrator.stream.shards.index_shards import Indexed, IndexOptions

INTERRUPTED = 130
CONNECT_S = 10.0
LOCAL_STORE_MB = 80
ROLES = ("image", "address", "captions", "key", "fields")


@click.command()
@click.argument("uri")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--image-column", help="Parquet column of encoded images.")
@click.option("--address-column", help="Parquet column of the images' URIs or paths, where they are not inside.")
@click.option("--captions-column", help="Parquet column of captions: a text or a list of texts.")
@click.option("--key-column", help="Parquet column of unique keys.")
@click.option("--fields-column", help="Parquet column of whatever else is known, as JSON text.")
@click.option("--skip-damaged", is_flag=True, help="Leave damaged shards out of the index, and list them.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Shards read at once; with --ray local, CPUs of that Ray.",
)
@click.option(
    "--ray", "ray_address", metavar="ADDRESS", help="Read in Ray tasks of a cluster; 'local' starts Ray here."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    uri: str,
    endpoint: str | None,
    skip_damaged: bool,
    workers: int,
    ray_address: str | None,
    as_json: bool,
    **columns: str | None,
) -> None:
    """Index the .tar or .parquet shards in the folder URI, so that they can be streamed in any order.

    Tar shards are WebDataset: per sample an image (.png, .jpg, .webp) and its captions (.txt, or "caption" or
    "captions" in .json). Of Parquet shards the usual names of columns are known; name others with the options.

    Every shard is read once. When it is interrupted, run it again: it goes on with the shards that are left.
    """
    from orchestrator.storage.location import locate
    from orchestrator.stream.shards.index_shards import IndexOptions

    folder = locate(uri, endpoint)
    wanted = {role: name for role in ROLES if (name := columns[f"{role}_column"])}
    try:
        with _mapper(ray_address, workers) as mapper:
            made = _index(folder, IndexOptions(columns=wanted, skip_damaged=skip_damaged, mapper=mapper), as_json)
    except KeyboardInterrupt:
        click.echo(f"interrupted; run it again to index the shards of {folder.uri} that are left", err=True)
        sys.exit(INTERRUPTED)
    _show(folder.uri, made, as_json)


def _index(folder: Location, options: IndexOptions, quiet: bool) -> Indexed:
    from orchestrator.cli.shard_progress import shard_progress
    from orchestrator.stream.shards.index_shards import make_index

    with shard_progress("damaged", quiet) as progress:
        return make_index(folder, options, progress)


@contextmanager
def _mapper(ray_address: str | None, workers: int) -> Iterator[Mapper]:
    if ray_address is None:
        from orchestrator.stream.shards.executors import InThreads

        yield InThreads(workers)
        return

    from orchestrator.stream.shards.executors import InRayTasks

    with TemporaryDirectory(prefix="fuseray-") as scratch, _ray(ray_address, workers, Path(scratch) / "ray.log"):
        yield InRayTasks()


def _ray(address: str, cpus: int, log: Path) -> AbstractContextManager[None]:
    from orchestrator.config.recipe import ScaleSection
    from orchestrator.train.ray_session import ray_session

    _check_address(address)
    return ray_session(ScaleSection(address=address, object_store_mb=LOCAL_STORE_MB), cpus, log)


def _check_address(address: str) -> None:
    """Refuse an address at which nothing answers; Ray itself would try for minutes."""
    place = urlsplit(f"//{address.removeprefix('ray://')}")
    if place.port is None:
        return
    try:
        create_connection((place.hostname or "", place.port), CONNECT_S).close()
    except OSError as error:
        raise SpecError(f"--ray: nothing answers at {address} ({error.strerror or error}).") from error


def _show(uri: str, made: Indexed, as_json: bool) -> None:
    index, damaged = made.index, made.damaged
    if as_json:
        found = {"uri": uri, "format": index.format, "shards": len(index.shards), "samples": index.total}
        left_out = [{"shard": one.shard, "reason": one.reason} for one in damaged]
        click.echo(json.dumps(found | {"digest": index.digest, "damaged": left_out}))
        return
    for one in damaged:
        click.echo(f"left out {one.shard}: {one.reason}")
    click.echo(f"{index.total} samples in {len(index.shards)} shards; the index is {uri}/index.parquet")
