"""`fuseray shards index URI`: indexes existing shards, and tells what is in them that cannot be used, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from orchestrator.cli.console import endpoint_option, json_option, printable
from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.storage.location import Location
    from orchestrator.stream.shards.executors import Mapper
    from orchestrator.stream.shards.index_shards import IndexOptions, IndexResult

INTERRUPTED = 130
CONNECT_S = 10.0
LOCAL_STORE_MB = 80
TEXT_LENGTH = 400
"""Letters of a fault that are printed."""

ROLES = ("image", "address", "captions", "key", "fields", "image_id")


@click.command()
@click.argument("uri")
@endpoint_option
@click.option("--image-column", help="Parquet column of encoded images.")
@click.option("--address-column", help="Parquet column of the images' URIs or paths, where they are not inside.")
@click.option("--captions-column", help="Parquet column of captions: a text or a list of texts.")
@click.option("--key-column", help="Parquet column of unique keys.")
@click.option("--fields-column", help="Parquet column of further fields, as JSON text.")
@click.option("--image-id-column", help="Parquet column of image ids, alike in rows of one image.")
@click.option("--split", help="Take only the shards of this split, by their names: train, validation ...")
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
@json_option
def command(
    uri: str,
    endpoint: str | None,
    split: str | None,
    skip_damaged: bool,
    workers: int,
    ray_address: str | None,
    as_json: bool,
    **columns: str | None,
) -> None:
    """Index the .tar or .parquet shards in the folder URI, so that they can be streamed in any order.

    URI may end in a pattern of file names, as in FOLDER/train-*.parquet, to index some of the shards; a recipe and the
    other verbs name them by the same URI. --split finds the pattern.

    Tar shards are WebDataset: per sample an image (.png, .jpg, .webp) and its captions (.txt, or "caption" or
    "captions" in .json). Of Parquet shards the usual names of columns are known; name others with the options.

    Every shard is read once. After an interruption, run it again: it continues with the remaining shards.
    """
    from orchestrator.stream.dataset.shard_folder import locate_shards
    from orchestrator.stream.shards.index_shards import IndexOptions
    from orchestrator.stream.shards.survey import choose_split

    column_names = {role: name for role in ROLES if (name := columns[f"{role}_column"])}
    try:
        with _mapper(ray_address, workers) as mapper:
            data_set = choose_split(locate_shards(uri, endpoint), split) if split else locate_shards(uri, endpoint)
            indexed = _index(
                data_set, IndexOptions(columns=column_names, skip_damaged=skip_damaged, mapper=mapper), as_json
            )
    except KeyboardInterrupt:
        click.echo(f"interrupted; run it again to index the remaining shards of {uri}", err=True)
        sys.exit(INTERRUPTED)
    _show_indexed(data_set, indexed, as_json)


def _index(folder: Location, options: IndexOptions, quiet: bool) -> IndexResult:
    from orchestrator.cli.console import shard_progress
    from orchestrator.stream.shards.index_shards import make_index

    with shard_progress("damaged", quiet) as progress:
        return make_index(folder, options, progress)


@contextmanager
def _mapper(ray_address: str | None, workers: int) -> Iterator[Mapper]:
    if ray_address is None:
        from orchestrator.stream.shards.executors import ThreadMapper

        yield ThreadMapper(workers)
        return

    from orchestrator.stream.shards.executors import RayTaskMapper

    with TemporaryDirectory(prefix="fuseray-") as scratch, _ray(ray_address, workers, Path(scratch) / "ray.log"):
        yield RayTaskMapper()


def _ray(address: str, cpus: int, log: Path) -> AbstractContextManager[None]:
    from orchestrator.config.recipe import ScaleSection
    from orchestrator.train.ray_session import ray_session

    _check_address(address)
    return ray_session(ScaleSection(address=address, object_store_mb=LOCAL_STORE_MB), cpus, log)


def _check_address(address: str) -> None:
    """Raise if nothing answers at an address; Ray itself would try for minutes."""
    location = urlsplit(f"//{address.removeprefix('ray://')}")
    if location.port is None:
        return
    try:
        create_connection((location.hostname or "", location.port), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(f"--ray: nothing answers at {address} ({error.strerror or error}).") from error


def _show_indexed(data_set: Location, indexed: IndexResult, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_values(data_set.uri, indexed)))
    else:
        click.echo("\n".join(map(printable, _lines(data_set, indexed))))
    if not indexed.usable:
        click.echo(printable(_why_none(indexed)), err=True)
        sys.exit(1)


def _values(uri: str, indexed: IndexResult) -> dict[str, object]:
    index = indexed.index
    return {
        "uri": uri,
        "format": index.format,
        "shards": len(index.shards),
        "samples": index.total,
        "usable": indexed.usable,
        "digest": index.digest,
        "columns": {role: name for role, name in index.columns.items() if name},
        "damaged": [asdict(shard) for shard in indexed.damaged],
        "faults": [fault.as_json() for fault in indexed.faults],
        "addressed": indexed.addressed,
        "left_out": [asdict(item) for item in indexed.left_out],
    }


def _lines(data_set: Location, indexed: IndexResult) -> Iterator[str]:
    from orchestrator.stream.dataset.shard_folder import ShardFolder, index_location
    from orchestrator.stream.shards.survey import describe

    index, uri = indexed.index, data_set.uri
    for shard in indexed.damaged:
        yield f"left out {shard.shard}: {shard.reason}"
    usable = f", of which {indexed.usable} can be used" if indexed.usable < index.total else ""
    yield f"{index.total} samples in {len(index.shards)} shards{usable}; the index is {index_location(data_set).uri}"
    if isinstance(data_set, ShardFolder):
        yield f"these are the shards of {uri}; name them so in recipes and to the other verbs"
    if indexed.usable:
        yield from (f"cannot be used: {_shortened(fault.text())}" for fault in indexed.faults)
    if indexed.usable and indexed.apart[0]:
        yield f"the members of {_apart(indexed)}"
    if indexed.addressed:
        command = command_line("shards", "verify", uri, endpoint=data_set.endpoint)
        yield f"{indexed.addressed} images are at addresses; `{command}` looks at them"
    if indexed.passed_over:
        taken = f"{index.columns['image'] or index.columns['address']} and {index.columns['captions']}"
        others = ", ".join(indexed.passed_over)
        yield f"columns taken: {taken}; not taken: {others} (choose with --image-column and --captions-column)"
    for text in describe(indexed.left_out):
        yield f"not taken: {text}"


def _why_none(indexed: IndexResult) -> str:
    """Return why no sample can be used, and how to repair the shards."""
    if not indexed.index.total:
        return "No sample can be used: the shards are empty."
    advice = f"The members of {_apart(indexed)}" if indexed.apart[0] else "Mend the shards, and index them again."
    return f"No sample can be used: {'; '.join(_shortened(fault.text()) for fault in indexed.faults)}. {advice}"


def _apart(indexed: IndexResult) -> str:
    count, key, shard = indexed.apart
    return (
        f"{count} samples do not stand side by side in their tar (first {key} in {shard}), so each of their members is "
        "taken for a sample of its own; make the tar again with its files in order, as `tar --sort=name` does."
    )


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}\u2026"
