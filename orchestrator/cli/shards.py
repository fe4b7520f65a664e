"""`fuseray shards index URI`."""

from __future__ import annotations

import json

import click


@click.group()
def command() -> None:
    """Work on shards that exist."""


@command.command()
@click.argument("uri")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def index(uri: str, endpoint: str | None, as_json: bool) -> None:
    """Index the .tar or .parquet shards in the folder URI, so that they can be streamed in any order.

    Tar shards are WebDataset: per sample an image (.png, .jpg, .webp) and its caption (.txt, or "caption" in .json).
    Parquet shards have the columns key, image (bytes), captions (list of text) and fields (JSON text).
    """
    from orchestrator.storage.location import locate
    from orchestrator.stream.indexing import index_folder

    folder = locate(uri, endpoint)
    made = index_folder(folder, progress=lambda name: None if as_json else click.echo(f"indexed {name}"))
    found = {"uri": folder.uri, "format": made.format, "shards": len(made.shards), "samples": made.total}
    click.echo(
        json.dumps(found)
        if as_json
        else f"{made.total} samples in {len(made.shards)} shards; the index is {folder.uri}/index.parquet"
    )
